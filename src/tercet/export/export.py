"""Export a bundle as one file and verify it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from onnx import ModelProto

from tercet.config.run import DataConfig
from tercet.config.tta import TTAConfig
from tercet.core.errors import ConfigError, ModelError, StorageError, raise_problems
from tercet.core.files import replace_file, require_writable, write_bytes, write_json
from tercet.core.model_formats import SUFFIXES, Format, format_of
from tercet.core.runtime import describe_environment
from tercet.ensemble.bundle import Bundle, load_bundle
from tercet.export.onnx_assembly import assemble_onnx, describe_bundle
from tercet.export.onnx_cam import cam_members
from tercet.export.onnx_members import export_member
from tercet.export.quantization import accuracy_loss, calibration_batches, quantize
from tercet.export.torch_export import assemble_program as assemble_program
from tercet.export.verification import LIMIT, WORST_LOSS, Verification, VerificationImages
from tercet.export.verification import compare_outputs as ask_both
from tercet.export.verification_images import choose_verification_images
from tercet.export.verify import verification_path
from tercet.inference.onnx_model import OnnxModel
from tercet.inference.torch_model import TorchModel, save_program

onnx_export: ModuleType | None
try:
    from tercet.export import export as onnx_export
except ModuleNotFoundError as error:  # an extra: `pip install tercet[export]`; programs of PyTorch do without
    if str(error.name).partition(".")[0] not in ("onnx", "onnxruntime", "onnxscript"):
        raise
    onnx_export = None

_LONGEST = 255  # bytes of a file's name, on every file system in use


@dataclass(frozen=True)
class ExportResult:
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
        if self.verification.limit is None:
            lines.append(f"in 8 bits: {', '.join(name for name in self.members if name not in self.kept)}\n")
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


def export_model(
    bundle: str | Path | Bundle,
    file: str | Path | None = None,
    *,
    format: Format = "onnx",
    int8: bool = False,
    class_activation_maps: bool = False,
    tta: str | TTAConfig | None = None,
    data: str | None = None,
    images: Sequence[str | Path] = (),
    max_images: int = 256,
    config: DataConfig | None = None,
    force: bool = False,
) -> ExportResult:
    """Write a bundle as one file, and prove that it says the same; the proof lies beside it.

    Args:
        bundle: A bundle's folder, a run's folder, or a loaded bundle.
        file: Where to (default: model.onnx or model.pt2); it ends as the format asks.
        format: `onnx`, or `torch` for a program that `torch.export.load` reads.
        int8: Let members compute in 8 bits where that costs at most half a point of accuracy; ONNX only.
        class_activation_maps: Add class-activation maps of the members that support them as an output; ONNX only.
        tta: Test-time augmentation in the file, such as none or flip; None: what the bundle was chosen with.
        data: Labelled images to ask about (default: the run's validation images).
        images: Files and folders to ask about instead.
        max_images: Most images to ask about.
        config: How to read the data.
        force: Replace an exported file of that name.

    Raises:
        ConfigError: Options that cannot be, or libraries that are missing.
        ModelError: A member cannot be exported, or the file says something else; it is left as FILE.failed.
        StorageError: Something is there already, or nothing can be written.
        DataError: The images cannot be read.
    """
    _require_options(format, int8=int8, class_activation_maps=class_activation_maps)
    target = Path(f"model{SUFFIXES[format]}" if file is None else file)
    failed = target.with_name(f"{target.name}.failed")
    _require_free(target, failed, format, force=force)
    if isinstance(tta, str):
        TTAConfig.parse(tta)
    place = None if isinstance(bundle, Bundle) else bundle
    loaded = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
    loaded = loaded if tta is None else loaded.with_tta(tta)
    shown = choose_verification_images(loaded, place, data=data, images=images, max_images=max_images, config=config)
    version = describe_environment()["packages"]["tercet"]
    kept: dict[str, str] = {}
    mapped: tuple[str, ...] = ()
    if format == "torch":
        found = _write_program(loaded, shown, failed, version)
    else:
        assert onnx_export is not None
        found, kept, mapped = onnx_export.write_onnx(
            loaded, shown, failed, int8=int8, class_activation_maps=class_activation_maps, version=version
        )
    if not found.passed:
        raise ModelError(
            f"the exported file differs from the bundle by {max(found.largest_gap, found.member_gap):.1e} (allowed: "
            f"{LIMIT:g}; same answer: {found.agreement:.2%}) on {found.source}: it is left as {failed} for a look and "
            "is not fit for use"
        )
    replace_file(failed, target)
    write_json(verification_path(target), found.to_dict())
    return ExportResult(
        target, found, tuple(member.name for member in loaded.members), kept, mapped if class_activation_maps else None
    )


def _write_program(bundle: Bundle, shown: VerificationImages, target: Path, version: str) -> Verification:
    save_program(assemble_program(bundle), target, {**describe_bundle(bundle, version=version), "maps": None})
    return ask_both(bundle, TorchModel.load(target), shown)


def _require_options(format: Format, *, int8: bool, class_activation_maps: bool) -> None:
    """Refuse what a format cannot have.

    Raises:
        ConfigError: Options that cannot be, or libraries that are missing.
    """
    program = format == "torch"
    raise_problems(
        [
            format not in SUFFIXES and f"unknown format '{format}' (known: {', '.join(SUFFIXES)})",
            program and int8 and "a program of PyTorch computes in 32 bits: leave --int8 out, or export --format onnx",
            program
            and class_activation_maps
            and "torch programs have no class-activation maps: omit --class-activation-maps, or use --format onnx",
        ]
    )
    if onnx_export is None and not program:
        raise ConfigError("ONNX files need onnx, onnxruntime and onnxscript: pip install 'tercet[export]'")


def _require_free(target: Path, failed: Path, format: Format, *, force: bool) -> None:
    """Refuse a name that would lose something or cannot be written, before minutes of work.

    Raises:
        ConfigError: The name has another ending.
        StorageError: Something is there already, or nothing can be written there.
    """
    if target.is_dir():
        raise StorageError(f"{target} is a folder: name a file in it, such as {target / f'model{SUFFIXES[format]}'}")
    named = format_of(target)
    if named != format:
        other = f", or say --format {named}" if named else ""
        raise ConfigError(f"the file {target} must end in {SUFFIXES[format]}{other}")
    if target.exists() and not force:
        raise StorageError(f"{target} exists already: choose another name, or replace it with --force")
    for beside in (failed, verification_path(target)):
        if len(os.fsencode(beside.name)) > _LONGEST:
            raise StorageError(f"{target.name[:40]}... is too long a name for a file: choose a shorter one")
        if beside.is_dir():
            raise StorageError(f"{beside} is in the way: it is a folder, so choose another name, or remove it")
    require_writable(target.parent, hint="choose another folder for the file")


def write_onnx(
    bundle: Bundle, shown: VerificationImages, target: Path, *, int8: bool, class_activation_maps: bool, version: str
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
    seeing = cam_members(bundle) if class_activation_maps else []
    graphs = [export_member(member, mapped=member in seeing) for member in bundle.members]
    quantized = _in_8_bits(bundle, graphs, shown) if int8 else _Quantized()
    while True:
        chosen = [
            quantized.graphs.get(member.name, graph) for member, graph in zip(bundle.members, graphs, strict=True)
        ]
        write_bytes(target, assemble_onnx(bundle, chosen, version=version, quantized=[*quantized.graphs]))
        found = ask_both(bundle, OnnxModel.load(target), shown, exact=not quantized.graphs)
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


def _in_8_bits(bundle: Bundle, graphs: Sequence[ModelProto], shown: VerificationImages) -> _Quantized:
    """Quantise every member that bears it."""
    made = _Quantized()
    for index, (member, graph) in enumerate(zip(bundle.members, graphs, strict=True)):
        real = shown.pictures[: shown.real]
        truth = None if shown.truth is None else shown.truth[: shown.real]
        batches = calibration_batches(bundle, index, real)
        changed = quantize(graph, batches, name=member.name)
        if changed is None:
            made.kept[member.name] = "it has no convolution or dense layer to quantise"
            continue
        threshold = None if bundle.sets is None else bundle.sets.thresholds[index]
        loss = accuracy_loss(graph, changed, batches, truth, threshold)
        if loss > WORST_LOSS:
            made.kept[member.name] = f"in 8 it loses {loss:.2%} {'agreement' if truth is None else 'accuracy'}"
        else:
            made.graphs[member.name], made.losses[member.name] = changed, loss
    return made
