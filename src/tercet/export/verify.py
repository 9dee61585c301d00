"""`tercet verify`: compare an exported file with its bundle on labelled, validation or synthetic images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tercet.config.run import DataConfig
from tercet.config.tta import TTAConfig
from tercet.core.errors import ConfigError, DataError, ModelError, StorageError
from tercet.core.files import require_writable, write_json
from tercet.core.predictions import UNKNOWN, Ints
from tercet.data.image_cache import CachedImages
from tercet.data.inputs import ImageInputs
from tercet.data.run_reader import RunReader
from tercet.data.table import UNLABELLED, SampleTable
from tercet.ensemble.bundle import Bundle, load_bundle
from tercet.ensemble.manifest import MANIFEST
from tercet.export.metadata import weights_sha256
from tercet.export.verification import ImageInput, Verification, VerificationImages, compare_outputs
from tercet.inference.evaluation_rows import rows_to_score
from tercet.inference.exported_model import ExportedModel
from tercet.inference.predictor import model_label, open_predictor

_NUM_SYNTHETIC = 48


def verification_path(file: Path) -> Path:
    """Return the path of a file's verification report, beside the file."""
    return file.with_name(f"{file.name}.verify.json")


def verify(
    file: str | Path | ExportedModel,
    bundle: str | Path | Bundle,
    *,
    data: str | None = None,
    images: Sequence[str | Path] = (),
    max_images: int = 256,
    config: DataConfig | None = None,
) -> Verification:
    """Compare an exported file with its bundle, and write the result beside the file (`verification_path`).

    Args:
        file: The exported file, or the loaded model.
        bundle: Folder of a bundle or run, or a loaded bundle.
        data: Labelled images to compare on (default: the run's validation images).
        images: Files and folders to compare on instead.
        max_images: Maximum number of images.
        config: How to read the data.

    Raises:
        ConfigError: `file` is a bundle.
        ModelError: File or bundle is invalid, or the file was exported from another bundle.
        DataError: The images cannot be read.
        StorageError: The folder of the file is not writable.
    """
    report = verification_path(Path(model_label(file)))
    require_writable(report.parent, hint="the result is written beside the file: copy the file to a writable folder")
    model = open_predictor(file)
    if not isinstance(model, ExportedModel):
        raise ConfigError(f"{model_label(file)} is not an exported file, which is compared with its bundle")
    file = model.path
    folder = None if isinstance(bundle, Bundle) else bundle
    loaded = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
    if (model.classes, model.member_names) != (loaded.classes, loaded.member_names):
        pairs = zip(model.classes, loaded.classes, strict=False)
        difference = next((f" ('{other}' for '{name}')" for name, other in pairs if name != other), "")
        raise ModelError(
            f"{file} has members {', '.join(model.member_names)} and {len(model.classes)} classes, the bundle has "
            f"{', '.join(loaded.member_names)} and {len(loaded.classes)} classes{difference}: name the bundle that it "
            "was exported from"
        )
    if model.metadata.get("weights_sha256") != weights_sha256(loaded):
        raise ModelError(f"{file} has other weights than the bundle: name the bundle that it was exported from")
    entries = model.metadata["members"]
    views = [TTAConfig.parse(entry.get("views", "none"), seed=entry.get("seed", 0)) for entry in entries]
    members = (replace(member, views=tta) for member, tta in zip(loaded.members, views, strict=True))
    loaded = replace(loaded, members=tuple(members))
    samples = choose_verification_images(loaded, folder, data=data, images=images, max_images=max_images, config=config)
    exact = all(entry.get("precision") == "fp32" for entry in entries)
    result = compare_outputs(loaded, model, samples, exact=exact)
    write_json(report, result.to_dict())
    return result


def choose_verification_images(
    bundle: Bundle,
    path: str | Path | None,
    *,
    data: str | None = None,
    images: Sequence[str | Path] = (),
    max_images: int = 256,
    config: DataConfig | None = None,
) -> VerificationImages:
    """Return images to compare on: the user's, the run's validation images, or synthetic ones; with edge cases.

    Args:
        bundle: The bundle.
        path: Its folder, or its run's folder, which holds validation images. None for a bundle in memory.
        data: Labelled images instead.
        images: Files and folders instead.
        max_images: Maximum number of images, spread evenly over all.
        config: How to read the data.

    Raises:
        ConfigError: Both data and images are given.
        DataError: They cannot be read.
    """
    if data is not None and images:
        raise ConfigError("give data or images, not both")
    if data is not None:
        table, cache, _, subset, _ = rows_to_score(data, bundle.card, config or DataConfig(), include_seen=True)
        rows = np.flatnonzero(table.labels != UNLABELLED)
        return _from_table(bundle, table, cache, rows, f"{data}, {subset}", max_images)
    if images:
        images_given = [pixels for _, pixels in ImageInputs([*images], decoding=bundle.decoding).pixels()]
        selected = [images_given[row] for row in _spread(np.arange(len(images_given)), max_images)]
        return _with_edge_cases(selected, None, f"{len(selected)} of {len(images_given)} images given")
    return (_from_run(bundle, Path(path), max_images) if path is not None else None) or _synthetic(bundle)


def _spread(rows: Ints, max_images: int) -> Ints:
    """Return at most `max_images` rows, spread evenly: tables are often sorted by class."""
    if len(rows) <= max_images:
        return rows
    return np.asarray(rows[np.linspace(0, len(rows) - 1, max_images).round().astype(np.int64)])


def _from_run(bundle: Bundle, path: Path, max_images: int) -> VerificationImages | None:
    """Return validation images of the bundle's run; None if they no longer exist."""
    run = path.resolve().parent if (path / MANIFEST).exists() else path
    try:
        reader = RunReader.open(run)
        table, cache = reader.table, reader.images
    except (ModelError, StorageError):
        return None
    if table is None or cache is None:
        return None
    validation = table.rows_of("val") if table.splits is not None else ()
    # cross-validation has no validation split: use all images
    rows = np.asarray(validation if len(validation) else np.arange(len(table)), dtype=np.int64)
    source = f"validation images of {run}" if len(validation) else f"images of {run}"
    try:
        return _from_table(bundle, table, cache, rows, source, max_images) if len(rows) else None
    except DataError:  # the files of the run were deleted or have changed
        return None


def _from_table(
    bundle: Bundle, table: SampleTable, cache: CachedImages, rows: Ints, source: str, max_images: int
) -> VerificationImages:
    selected = _spread(rows, max_images)
    images = [np.asarray(cache.read(int(row))) for row in selected]
    if table.membership is None:
        index = {name: number for number, name in enumerate(bundle.classes)}
        names = table.label_names()
        labels = np.array([index.get(names[row], UNKNOWN) for row in selected], dtype=np.int64)
    else:
        targets = table.targets(selected)
        labels = np.full((len(selected), len(bundle.classes)), UNKNOWN, dtype=np.int64)
        if set(table.classes) == set(bundle.classes):
            labels = np.asarray(targets[:, [table.classes.index(name) for name in bundle.classes]], dtype=np.int64)
    return _with_edge_cases(images, labels, f"{len(selected)} of {len(rows)}: {source}")


def _with_edge_cases(images: Sequence[ImageInput], labels: Ints | None, source: str) -> VerificationImages:
    """Append images where differences show first: black, white, noise, a single pixel."""
    shape = images[0].shape
    noise = np.random.default_rng(0).integers(0, 256, (2, *shape), dtype=np.uint8)
    edges = [np.zeros_like(images[0]), np.full_like(images[0], 255), *noise, noise[0, :1, :1], noise[1, :, ::2]]
    if labels is not None:
        labels = np.concatenate([labels, np.full((len(edges), *labels.shape[1:]), UNKNOWN, dtype=np.int64)])
    return VerificationImages((*images, *edges), labels, f"{source}; {len(edges)} synthetic", len(images))


def _synthetic(bundle: Bundle) -> VerificationImages:
    """Return smooth and noisy images of several sizes, for bundles without any image at hand."""
    generator = np.random.default_rng(0)
    sizes = sorted({spec.size for spec in bundle.specs})
    images = []
    for number in range(_NUM_SYNTHETIC):
        height, width = sizes[number % len(sizes)]
        extra = (0, 7, height)[number % 3]
        coarse = generator.integers(0, 256, (2 + number % 9, 2 + number % 7, 3)).astype(np.float64)
        rows = np.linspace(0, len(coarse) - 1, height + extra).astype(np.int64)
        columns = np.linspace(0, coarse.shape[1] - 1, width + extra).astype(np.int64)
        noisy = coarse[rows][:, columns] + generator.normal(0, 20, (height + extra, width + extra, 3))
        images.append(noisy.clip(0, 255).astype(np.uint8))
    return replace(
        _with_edge_cases(images, None, "synthetic images, as the run's images are not available"), num_real=0
    )
