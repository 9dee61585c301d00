"""A whole ensemble as one file, which is asked about images before it is called an export."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from tercet.deploy.bundle import Bundle, load_bundle
from tercet.deploy.export.description import describe
from tercet.deploy.export.verification import LIMIT, Shown, Verification
from tercet.deploy.export.verification import verify as ask_both
from tercet.deploy.formats import SUFFIXES, Format, format_of
from tercet.deploy.program.archive import save
from tercet.deploy.program.assemble import assemble as assemble_program
from tercet.deploy.program.loaded import LoadedProgram
from tercet.ground.errors import ConfigError, ModelError, StorageError, require
from tercet.ground.files import put_in_place, require_writable, write_json
from tercet.ground.runtime import describe_environment
from tercet.records.config import DataConfig
from tercet.records.views import Views
from tercet.workflows.ship.files import proof_of
from tercet.workflows.ship.shown import choose_images

onnx_export: ModuleType | None
try:
    from tercet.workflows.ship import onnx_export
except ModuleNotFoundError as error:  # an extra: `pip install tercet[export]`; programs of PyTorch do without
    if str(error.name).partition(".")[0] not in ("onnx", "onnxruntime", "onnxscript"):
        raise
    onnx_export = None

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
    tta: str | Views | None = None,
    data: str | None = None,
    images: Sequence[str | Path] = (),
    max_images: int = 256,
    config: DataConfig | None = None,
    force: bool = False,
) -> Exported:
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
        Views.parse(tta)
    place = None if isinstance(bundle, Bundle) else bundle
    loaded = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
    loaded = loaded if tta is None else loaded.with_views(tta)
    shown = choose_images(loaded, place, data=data, images=images, max_images=max_images, config=config)
    version = describe_environment()["packages"]["tercet"]
    kept: dict[str, str] = {}
    mapped: tuple[str, ...] = ()
    if format == "torch":
        found = _write_program(loaded, shown, failed, version)
    else:
        assert onnx_export is not None
        found, kept, mapped = onnx_export.write(
            loaded, shown, failed, int8=int8, class_activation_maps=class_activation_maps, version=version
        )
    if not found.passed:
        raise ModelError(
            f"the exported file differs from the bundle by {max(found.largest_gap, found.member_gap):.1e} (allowed: "
            f"{LIMIT:g}; same answer: {found.agreement:.2%}) on {found.source}: it is left as {failed} for a look and "
            "is not fit for use"
        )
    put_in_place(failed, target)
    write_json(proof_of(target), found.to_dict())
    return Exported(
        target, found, tuple(member.name for member in loaded.members), kept, mapped if class_activation_maps else None
    )


def _write_program(bundle: Bundle, shown: Shown, target: Path, version: str) -> Verification:
    save(assemble_program(bundle), target, {**describe(bundle, version=version), "maps": None})
    return ask_both(bundle, LoadedProgram.load(target), shown)


def _require_options(format: Format, *, int8: bool, class_activation_maps: bool) -> None:
    """Refuse what a format cannot have.

    Raises:
        ConfigError: Options that cannot be, or libraries that are missing.
    """
    program = format == "torch"
    require(
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
    for beside in (failed, proof_of(target)):
        if len(os.fsencode(beside.name)) > _LONGEST:
            raise StorageError(f"{target.name[:40]}... is too long a name for a file: choose a shorter one")
        if beside.is_dir():
            raise StorageError(f"{beside} is in the way: it is a folder, so choose another name, or remove it")
    require_writable(target.parent, way="choose another folder for the file")
