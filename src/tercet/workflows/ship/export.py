"""A whole ensemble as one file, which is asked about images before it is called an export."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnx import ModelProto

from tercet.deploy.bundle import Bundle, load_bundle
from tercet.deploy.export.assemble import assemble
from tercet.deploy.export.maps import mappable
from tercet.deploy.export.members import export_member
from tercet.deploy.export.quantizing import loss_of, quantize, shown_to
from tercet.deploy.export.verification import LIMIT, WORST_LOSS, Shown, Verification
from tercet.deploy.export.verification import verify as ask_both
from tercet.deploy.exported import ExportedModel
from tercet.deploy.onnx_file import SUFFIX, is_exported
from tercet.ground.errors import ConfigError, ModelError, StorageError
from tercet.ground.files import put_in_place, require_writable, write_bytes, write_json
from tercet.ground.runtime import describe_environment
from tercet.records.config import DataConfig
from tercet.records.views import Views
from tercet.workflows.ship.shown import choose_images

DEFAULT = "model.onnx"
_LONGEST = 255  # bytes of a file's name, on every file system in use


@dataclass(frozen=True)
class Exported:
    """A file that says what its bundle says."""

    path: Path
    """The file."""
    verification: Verification
    """The proof."""
    members: tuple[str, ...]
    """What it holds."""
    kept: dict[str, str]
    """Members that stay in 32 bits though 8 were asked for, and why."""
    mapped: tuple[str, ...] | None = None
    """Members that maps are drawn from; None where none were asked for."""

    def to_text(self) -> str:
        """Return what people read."""
        size = self.path.stat().st_size / 1e6
        lines = [f"{self.path}: {size:.1f} MB, members: {', '.join(self.members)}\n", self.verification.to_text()]
        lines += [f"member '{name}' stays in 32 bits: {reason}\n" for name, reason in self.kept.items()]
        if self.mapped:
            lines.append(f"class-activation maps: of {', '.join(self.mapped)}\n")
        elif self.mapped is not None:
            lines.append("no class-activation maps: no member averages a feature map and has a dense head behind it\n")
        return "".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "file": str(self.path),
            "bytes": self.path.stat().st_size,
            "members": list(self.members),
            "kept_fp32": self.kept,
            "maps": None if self.mapped is None else list(self.mapped),
            "verification": self.verification.to_dict(),
        }


def export(
    bundle: str | Path | Bundle,
    file: str | Path = DEFAULT,
    *,
    int8: bool = False,
    maps: bool = False,
    tta: str | Views | None = None,
    data: str | None = None,
    images: Sequence[str | Path] = (),
    most: int = 256,
    config: DataConfig | None = None,
    force: bool = False,
) -> Exported:
    """Write a bundle as one ONNX file, and prove that it says the same; the proof lies beside it.

    Args:
        bundle: A bundle's folder, a run's folder, or a loaded bundle.
        file: Where to; it ends in .onnx.
        int8: Let members compute in 8 bits where that costs at most half a point of accuracy.
        maps: Let the file tell where its networks saw the class, as far as they can.
        tta: Test-time augmentation in the file, such as none or flip; None: what the bundle was chosen with.
        data: Labelled images to ask about (default: the run's validation images).
        images: Files and folders to ask about instead.
        most: Most images to ask about.
        config: How to read the data.
        force: Replace an exported file of that name.

    Raises:
        ConfigError: Options that cannot be.
        ModelError: A member cannot be exported, or the file says something else; it is left as FILE.failed.
        StorageError: Something is there already, or nothing can be written.
        DataError: The images cannot be read.
    """
    target = Path(file)
    failed = target.with_name(f"{target.name}.failed")
    _require_free(target, failed, force=force)
    if isinstance(tta, str):
        Views.parse(tta)
    place = None if isinstance(bundle, Bundle) else bundle
    loaded = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
    loaded = loaded if tta is None else loaded.with_views(tta)
    shown = choose_images(loaded, place, data=data, images=images, most=most, config=config)
    if int8 and not shown.real:
        raise ConfigError(
            "--int8 reads ranges from real images, and none of the run are there: give --data or --images"
        )
    version = describe_environment()["packages"]["tercet"]
    seeing = mappable(loaded) if maps else []
    graphs = [export_member(member, mapped=member in seeing) for member in loaded.members]
    quantized = _in_8_bits(loaded, graphs, shown) if int8 else _Quantized()
    while True:
        chosen = [
            quantized.graphs.get(member.name, graph) for member, graph in zip(loaded.members, graphs, strict=True)
        ]
        write_bytes(failed, assemble(loaded, chosen, version=version, quantized=[*quantized.graphs]))
        found = ask_both(loaded, ExportedModel.load(failed), shown, exact=not quantized.graphs)
        if found.passed or not quantized.graphs:
            break
        worst = max(quantized.graphs, key=quantized.losses.__getitem__)  # together they lose too much
        del quantized.graphs[worst]
        quantized.kept[worst] = f"with it in 8, the whole loses {found.loss:.2%} accuracy"
    if not found.passed:
        raise ModelError(
            f"the exported file differs from the bundle by {max(found.largest_gap, found.member_gap):.1e} (allowed: "
            f"{LIMIT:g}; same answer: {found.agreement:.2%}) on {found.source}: it is left as {failed} for a look and "
            "is not fit for use"
        )
    put_in_place(failed, target)
    write_json(proof_of(target), found.to_dict())
    told = None if not maps else tuple(member.name for member in seeing)
    return Exported(target, found, tuple(member.name for member in loaded.members), quantized.kept, told)


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


def proof_of(file: Path) -> Path:
    """Return where the verification of a file lies."""
    return file.with_suffix(".verify.json")


def _require_free(target: Path, failed: Path, *, force: bool) -> None:
    """Refuse a name that would lose something or cannot be written, before minutes of work.

    Raises:
        ConfigError: The name has another ending.
        StorageError: Something is there already, or nothing can be written there.
    """
    if target.is_dir():
        raise StorageError(f"{target} is a folder: name a file in it, such as {target / DEFAULT}")
    if not is_exported(target):
        raise ConfigError(f"the file {target} must end in {SUFFIX}")
    if target.exists() and not force:
        raise StorageError(f"{target} exists already: choose another name, or replace it with --force")
    for beside in (failed, proof_of(target)):
        if len(os.fsencode(beside.name)) > _LONGEST:
            raise StorageError(f"{target.name[:40]}... is too long a name for a file: choose a shorter one")
        if beside.is_dir():
            raise StorageError(f"{beside} is in the way: it is a folder, so choose another name, or remove it")
    require_writable(target.parent, way="choose another folder for the file")
