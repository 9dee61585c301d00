"""Verify an exported file against its bundle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tercet.config.run import DataConfig
from tercet.config.tta import TTAConfig
from tercet.core.errors import ModelError
from tercet.core.files import require_writable, write_json
from tercet.core.model_formats import is_program
from tercet.ensemble.bundle import Bundle, load_bundle
from tercet.export.onnx_assembly import weights_sha256
from tercet.export.verification import Predictor, Verification
from tercet.export.verification import compare_outputs as ask_both
from tercet.export.verification_images import choose_verification_images
from tercet.inference.onnx_model import OnnxModel
from tercet.inference.torch_model import TorchModel


def load_file(path: str | Path, *, threads: int | None = None) -> Predictor:
    """Load what `tercet export` wrote.

    Args:
        path: The file.
        threads: Threads an answer (default: one a core); a program has those of PyTorch.

    Raises:
        ModelError: It cannot be used.
        ConfigError: What runs it is not installed.
    """
    return TorchModel.load(path) if is_program(path) else OnnxModel.load(path, threads=threads)


def verification_path(file: Path) -> Path:
    """Return where the verification of a file lies."""
    return file.with_name(f"{file.name}.verify.json")


def verify(
    file: str | Path,
    bundle: str | Path | Bundle,
    *,
    data: str | None = None,
    images: Sequence[str | Path] = (),
    max_images: int = 256,
    config: DataConfig | None = None,
) -> Verification:
    """Compare an exported file with its bundle; what is found also lies beside the file (`verification_path`).

    Args:
        file: What `export` wrote.
        bundle: A bundle's folder, a run's folder, or a loaded bundle.
        data: Labelled images to ask about (default: the run's validation images).
        images: Files and folders to ask about instead.
        max_images: Most images to ask about.
        config: How to read the data.

    Raises:
        ModelError: One of the two cannot be used, or the file is of another bundle.
        DataError: The images cannot be read.
        StorageError: Nothing can be written beside the file.
    """
    proof = verification_path(Path(file))
    require_writable(proof.parent, hint="the proof lies beside the file: copy it to where you may write")
    model = load_file(file)
    place = None if isinstance(bundle, Bundle) else bundle
    loaded = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
    names = tuple(member.name for member in loaded.members)
    if (model.classes, model.member_names) != (loaded.classes, names):
        both = zip(model.classes, loaded.classes, strict=False)
        other = next((f" ('{ours}' for '{theirs}')" for theirs, ours in both if theirs != ours), "")
        raise ModelError(
            f"{file} has members {', '.join(model.member_names)} and {len(model.classes)} classes, the bundle has "
            f"{', '.join(names)} and {len(loaded.classes)} classes{other}: name the bundle that it was exported from"
        )
    if model.metadata.get("weights_sha256") != weights_sha256(loaded):
        raise ModelError(f"{file} has other weights than the bundle: name the bundle that it was exported from")
    told = model.metadata["members"]
    views = [TTAConfig.parse(entry.get("views", "none"), seed=entry.get("seed", 0)) for entry in told]
    members = (replace(member, views=seen) for member, seen in zip(loaded.members, views, strict=True))
    loaded = replace(loaded, members=tuple(members))
    shown = choose_verification_images(loaded, place, data=data, images=images, max_images=max_images, config=config)
    exact = all(entry.get("precision") == "fp32" for entry in told)
    found = ask_both(loaded, model, shown, exact=exact)
    write_json(proof, found.to_dict())
    return found
