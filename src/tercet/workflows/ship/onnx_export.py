"""The ONNX file of a bundle: members in 32 bits or in 8, written, and asked until the whole bears what its parts do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from onnx import ModelProto

from tercet.deploy.bundle import Bundle
from tercet.deploy.export.assemble import assemble
from tercet.deploy.export.maps import mappable
from tercet.deploy.export.members import export_member
from tercet.deploy.export.quantizing import loss_of, quantize, shown_to
from tercet.deploy.export.verification import WORST_LOSS, Shown, Verification
from tercet.deploy.export.verification import verify as ask_both
from tercet.deploy.exported import ExportedModel
from tercet.ground.errors import ConfigError
from tercet.ground.files import write_bytes


def write(
    bundle: Bundle, shown: Shown, target: Path, *, int8: bool, class_activation_maps: bool, version: str
) -> tuple[Verification, dict[str, str], tuple[str, ...]]:
    """Write a bundle, and ask it and the file about images.

    Args:
        bundle: What is exported.
        shown: The images.
        target: Where to.
        int8: Let members compute in 8 bits where that costs at most half a point of accuracy.
        class_activation_maps: Add class-activation maps of the members that support them as an output.
        version: Of this package.

    Returns:
        What was found; the members that stay in 32 bits though 8 were asked for, and why; those that maps show.

    Raises:
        ConfigError: 8 bits are asked for, and there is no real image to read ranges from.
        ModelError: A member cannot be exported.
    """
    if int8 and not shown.real:
        raise ConfigError(
            "--int8 reads ranges from real images, and none of the run are there: give --data or --images"
        )
    seeing = mappable(bundle) if class_activation_maps else []
    graphs = [export_member(member, mapped=member in seeing) for member in bundle.members]
    quantized = _in_8_bits(bundle, graphs, shown) if int8 else _Quantized()
    while True:
        chosen = [
            quantized.graphs.get(member.name, graph) for member, graph in zip(bundle.members, graphs, strict=True)
        ]
        write_bytes(target, assemble(bundle, chosen, version=version, quantized=[*quantized.graphs]))
        found = ask_both(bundle, ExportedModel.load(target), shown, exact=not quantized.graphs)
        if found.passed or not quantized.graphs:
            return found, quantized.kept, tuple(member.name for member in seeing)
        worst = max(quantized.graphs, key=quantized.losses.__getitem__)  # together they lose too much
        del quantized.graphs[worst]
        quantized.kept[worst] = f"with it in 8, the whole loses {found.loss:.2%} accuracy"


@dataclass
class _Quantized:
    """Members in 8 bits, by name."""

    graphs: dict[str, ModelProto] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)


def _in_8_bits(bundle: Bundle, graphs: Sequence[ModelProto], shown: Shown) -> _Quantized:
    """Quantise every member that bears it."""
    made = _Quantized()
    for index, (member, graph) in enumerate(zip(bundle.members, graphs, strict=True)):
        real = shown.pictures[: shown.real]
        truth = None if shown.truth is None else shown.truth[: shown.real]
        batches = shown_to(bundle, index, real)
        changed = quantize(graph, batches, name=member.name)
        if changed is None:
            made.kept[member.name] = "it has no convolution or dense layer to quantise"
            continue
        threshold = None if bundle.sets is None else bundle.sets.thresholds[index]
        loss = loss_of(graph, changed, batches, truth, threshold)
        if loss > WORST_LOSS:
            made.kept[member.name] = f"in 8 it loses {loss:.2%} {'agreement' if truth is None else 'accuracy'}"
        else:
            made.graphs[member.name], made.losses[member.name] = changed, loss
    return made
