"""An exported file beside the bundle that it came from, on images of the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tercet.deploy.bundle import Bundle, load_bundle
from tercet.deploy.export.description import weights_sha256
from tercet.deploy.export.verification import Verification
from tercet.deploy.export.verification import verify as ask_both
from tercet.ground.errors import ModelError
from tercet.ground.files import require_writable, write_json
from tercet.records.config import DataConfig
from tercet.records.views import Views
from tercet.workflows.ship.files import load_file, proof_of
from tercet.workflows.ship.shown import choose_images


def verify(
    file: str | Path,
    bundle: str | Path | Bundle,
    *,
    data: str | None = None,
    images: Sequence[str | Path] = (),
    max_images: int = 256,
    config: DataConfig | None = None,
) -> Verification:
    """Compare an exported file with its bundle; what is found also lies beside the file (`proof_of`).

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
    proof = proof_of(Path(file))
    require_writable(proof.parent, way="the proof lies beside the file: copy it to where you may write")
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
    views = [Views.parse(entry.get("views", "none"), seed=entry.get("seed", 0)) for entry in told]
    members = (replace(member, views=seen) for member, seen in zip(loaded.members, views, strict=True))
    loaded = replace(loaded, members=tuple(members))
    shown = choose_images(loaded, place, data=data, images=images, max_images=max_images, config=config)
    exact = all(entry.get("precision") == "fp32" for entry in told)
    found = ask_both(loaded, model, shown, exact=exact)
    write_json(proof, found.to_dict())
    return found
