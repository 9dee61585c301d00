"""`tercet export`: write a bundle as one file, and verify the file against the bundle."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from tercet.config.run import DataConfig
from tercet.config.tta import TTAConfig
from tercet.core.errors import ConfigError, ModelError, StorageError, raise_problems
from tercet.core.files import replace_file, replaceable_path, require_output, write_json
from tercet.core.model_formats import SUFFIXES, Format, format_of
from tercet.core.runtime import describe_environment
from tercet.ensemble.bundle import Bundle, load_bundle
from tercet.export.metadata import describe_bundle
from tercet.export.torch_export import assemble_program
from tercet.export.verification import LIMIT, Verification, VerificationImages, compare_outputs
from tercet.export.verify import choose_verification_images, verification_path
from tercet.inference.torch_model import TorchModel, save_program

onnx_assembly: ModuleType | None
try:
    from tercet.export import onnx_assembly
except ModuleNotFoundError as error:  # an extra: `pip install tercet[export]`; torch programs work without it
    if str(error.name).partition(".")[0] not in ("onnx", "onnxruntime", "onnxscript"):
        raise
    onnx_assembly = None

_MAX_NAME_BYTES = 255  # of a file name, on all common file systems


@dataclass(frozen=True)
class ExportResult:
    """An exported and verified file."""

    path: Path
    """The file."""
    verification: Verification
    """Comparison with the bundle."""
    members: tuple[str, ...]
    """Names of the members."""
    fp32_reasons: dict[str, str]
    """Members that stay in 32 bits despite `int8`, and why."""
    cam_members: tuple[str, ...] | None = None
    """Members with class-activation maps; None if maps were not requested."""

    def to_text(self) -> str:
        """Return a summary in plain text."""
        size = self.path.stat().st_size / 1e6
        lines = [f"{self.path}: {size:.1f} MB, members: {', '.join(self.members)}\n", self.verification.to_text()]
        if self.verification.limit is None:
            lines.append(f"int8 members: {', '.join(name for name in self.members if name not in self.fp32_reasons)}\n")
        lines += [f"member '{name}' stays in 32 bits: {reason}\n" for name, reason in self.fp32_reasons.items()]
        if self.cam_members:
            lines.append(f"class-activation maps of: {', '.join(self.cam_members)}\n")
        elif self.cam_members is not None:
            lines.append("no class-activation maps: they need a member with global average pooling and a dense head\n")
        return "".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "file": str(self.path),
            "bytes": self.path.stat().st_size,
            "members": list(self.members),
            "kept_fp32": self.fp32_reasons,
            "maps": None if self.cam_members is None else list(self.cam_members),
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
    modules: Mapping[str, Any] | None = None,
) -> ExportResult:
    """Write a bundle as one file, verify it against the bundle, and write the verification beside it.

    Args:
        bundle: Folder of a bundle or run, or a loaded bundle.
        file: Path of the file (default: model.onnx or model.pt2), with the suffix of the format.
        format: `onnx`, or `torch` for a program that `torch.export.load` reads.
        int8: Quantize members that lose at most half a point of accuracy; ONNX only.
        class_activation_maps: Add class-activation maps of the members that support them as an output; ONNX only.
        tta: Test-time augmentation in the file, such as none or flip; None: the bundle's own.
        data: Labelled images to verify on (default: the run's validation images).
        images: Files and folders to verify on instead.
        max_images: Maximum number of images.
        config: How to read the data.
        force: Replace an existing file.
        modules: Networks of the caller's by name; see `tercet.load_bundle`.

    Raises:
        ConfigError: Invalid options, or missing libraries.
        ModelError: A member cannot be exported, or the file differs from the bundle; it is kept as FILE.failed.
        StorageError: The file exists, or cannot be written.
        DataError: The images cannot be read.
    """
    _check_options(format, int8=int8, class_activation_maps=class_activation_maps)
    target = Path(f"model{SUFFIXES[format]}" if file is None else file)
    failed = target.with_name(f"{target.name}.failed")
    _check_target(target, failed, format, force=force)
    if isinstance(tta, str):
        TTAConfig.parse(tta)
    folder = None if isinstance(bundle, Bundle) else bundle
    loaded = bundle if isinstance(bundle, Bundle) else load_bundle(bundle, modules=modules)
    loaded = loaded if tta is None else loaded.with_tta(tta)
    samples = choose_verification_images(loaded, folder, data=data, images=images, max_images=max_images, config=config)
    version = describe_environment()["packages"]["tercet"]
    fp32_reasons: dict[str, str] = {}
    with_cam: tuple[str, ...] = ()
    if format == "torch":
        result = _write_program(loaded, samples, failed, version)
    else:
        assert onnx_assembly is not None
        result, fp32_reasons, with_cam = onnx_assembly.write_onnx(
            loaded, samples, failed, int8=int8, class_activation_maps=class_activation_maps, version=version
        )
    if not result.passed:
        raise ModelError(
            f"the exported file differs from the bundle by {max(result.largest_gap, result.member_gap):.1e} (allowed: "
            f"{LIMIT:g}; equal predictions: {result.agreement:.2%}) on {result.source}: do not use it; it is kept as "
            f"{failed} for inspection"
        )
    replace_file(failed, replaceable_path(target) or target)
    write_json(verification_path(target), result.to_dict())
    names = tuple(member.name for member in loaded.members)
    return ExportResult(target, result, names, fp32_reasons, with_cam if class_activation_maps else None)


def _write_program(bundle: Bundle, samples: VerificationImages, target: Path, version: str) -> Verification:
    save_program(assemble_program(bundle), target, {**describe_bundle(bundle, version=version), "maps": None})
    return compare_outputs(bundle, TorchModel.load(target), samples)


def _check_options(format: Format, *, int8: bool, class_activation_maps: bool) -> None:
    """Raise ConfigError for options that the format does not support, or missing libraries."""
    program = format == "torch"
    raise_problems(
        [
            format not in SUFFIXES and f"unknown format '{format}' (known: {', '.join(SUFFIXES)})",
            program and int8 and "torch programs compute in 32 bits: omit --int8, or use --format onnx",
            program
            and class_activation_maps
            and "torch programs have no class-activation maps: omit --class-activation-maps, or use --format onnx",
        ]
    )
    if onnx_assembly is None and not program:
        raise ConfigError("ONNX files need onnx, onnxruntime and onnxscript: pip install 'tercet[export]'")


def _check_target(target: Path, failed: Path, format: Format, *, force: bool) -> None:
    """Check the path before minutes of work.

    Raises:
        ConfigError: It has the wrong suffix.
        StorageError: It exists, or cannot be written.
    """
    if target.is_dir():
        raise StorageError(f"{target} is a folder: name a file in it, such as {target / f'model{SUFFIXES[format]}'}")
    if replaceable_path(target) is None:
        raise StorageError(f"{target} is a pipe or a device, and an exported file is verified after it is written")
    suffix_format = format_of(target)
    if suffix_format != format:
        other = f", or use --format {suffix_format}" if suffix_format else ""
        raise ConfigError(f"the file {target} must end in {SUFFIXES[format]}{other}")
    if target.exists() and not force:
        raise StorageError(f"{target} exists already: choose another name, or replace it with --force")
    for path in (failed, verification_path(target)):
        if len(os.fsencode(path.name)) > _MAX_NAME_BYTES:
            raise StorageError(f"the file name {target.name[:40]}... is too long: choose a shorter one")
        if path.is_dir():
            raise StorageError(f"{path} is a folder, but must be written as a file: choose another name, or remove it")
    require_output(target, hint="choose another folder for the file")
