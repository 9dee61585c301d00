"""Which images a bundle and its file are both asked about: the user's, the run's validation images, or drawn ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tercet.config.run import DataConfig
from tercet.core.errors import ConfigError, ModelError, StorageError
from tercet.core.predictions import UNKNOWN, Ints
from tercet.data.image_cache import CachedImages
from tercet.data.inputs import ImageInputs
from tercet.data.run_reader import RunReader
from tercet.data.table import UNLABELLED, SampleTable
from tercet.ensemble.bundle import Bundle
from tercet.ensemble.manifest import MANIFEST
from tercet.export.verification import ImageInput, VerificationImages
from tercet.inference.evaluation_rows import rows_to_score

_DRAWN = 48


def choose_verification_images(
    bundle: Bundle,
    path: str | Path | None,
    *,
    data: str | None = None,
    images: Sequence[str | Path] = (),
    max_images: int = 256,
    config: DataConfig | None = None,
) -> VerificationImages:
    """Return images to ask about, some of them at the edges: black, white, noise, a single pixel.

    Args:
        bundle: Whose they are to be.
        path: Where it lies; a run's folder holds its validation images. None for a bundle that lies nowhere.
        data: Labelled images instead.
        images: Files and folders instead.
        max_images: Most images, spread evenly over all there are.
        config: How to read the data.

    Raises:
        ConfigError: Both data and images are given.
        DataError: They cannot be read.
    """
    if data is not None and images:
        raise ConfigError("give data or images, not both")
    if data is not None:
        table, store, _, subset = rows_to_score(data, bundle.card, config or DataConfig(), seen="ignore")
        rows = np.flatnonzero(table.labels != UNLABELLED)
        return _of_table(bundle, table, store, rows, f"{data}, {subset}", max_images)
    if images:
        pictures = [pixels for _, pixels in ImageInputs([*images]).pixels()]
        kept = [pictures[row] for row in _spread(np.arange(len(pictures)), max_images)]
        return _with_edges(kept, None, f"{len(kept)} of {len(pictures)} images given")
    return (_of_run(bundle, Path(path), max_images) if path is not None else None) or _drawn(bundle)


def _spread(rows: Ints, max_images: int) -> Ints:
    """Return at most so many of the rows, spread evenly: tables are often sorted by class."""
    if len(rows) <= max_images:
        return rows
    return np.asarray(rows[np.linspace(0, len(rows) - 1, max_images).round().astype(np.int64)])


def _of_run(bundle: Bundle, path: Path, max_images: int) -> VerificationImages | None:
    """Return validation images of the run that a bundle lies in; None where they are gone."""
    run = path.resolve().parent if (path / MANIFEST).exists() else path
    try:
        record = RunReader.open(run)
        table, store = record.table, record.images
    except (ModelError, StorageError):
        return None
    if table is None or store is None:
        return None
    kept = table.rows_of("val") if table.splits is not None else ()
    rows = np.asarray(kept if len(kept) else np.arange(len(table)), dtype=np.int64)  # folds leave no validation rows
    told = f"validation images of {run}" if len(kept) else f"images of {run}"
    return _of_table(bundle, table, store, rows, told, max_images) if len(rows) else None


def _of_table(
    bundle: Bundle, table: SampleTable, store: CachedImages, rows: Ints, told: str, max_images: int
) -> VerificationImages:
    chosen = _spread(rows, max_images)
    pictures = [np.asarray(store.read(int(row))) for row in chosen]
    if table.membership is None:
        index = {name: place for place, name in enumerate(bundle.classes)}
        names = table.label_names()
        truth = np.array([index.get(names[row], UNKNOWN) for row in chosen], dtype=np.int64)
    else:
        given = table.targets(chosen)
        truth = np.full((len(chosen), len(bundle.classes)), UNKNOWN, dtype=np.int64)
        if set(table.classes) == set(bundle.classes):
            truth = np.asarray(given[:, [table.classes.index(name) for name in bundle.classes]], dtype=np.int64)
    return _with_edges(pictures, truth, f"{len(chosen)} of {len(rows)}: {told}")


def _with_edges(pictures: Sequence[ImageInput], truth: Ints | None, told: str) -> VerificationImages:
    """Add images on which differences would show first."""
    shape = pictures[0].shape
    noise = np.random.default_rng(0).integers(0, 256, (2, *shape), dtype=np.uint8)
    edges = [np.zeros_like(pictures[0]), np.full_like(pictures[0], 255), *noise, noise[0, :1, :1], noise[1, :, ::2]]
    if truth is not None:
        truth = np.concatenate([truth, np.full((len(edges), *truth.shape[1:]), UNKNOWN, dtype=np.int64)])
    return VerificationImages((*pictures, *edges), truth, f"{told}; {len(edges)} drawn", len(pictures))


def _drawn(bundle: Bundle) -> VerificationImages:
    """Return smooth and noisy images of several sizes: what there is without any other."""
    generator = np.random.default_rng(0)
    sizes = sorted({spec.size for spec in bundle.specs})
    pictures = []
    for number in range(_DRAWN):
        height, width = sizes[number % len(sizes)]
        more = (0, 7, height)[number % 3]
        coarse = generator.integers(0, 256, (2 + number % 9, 2 + number % 7, 3)).astype(np.float64)
        down = np.linspace(0, len(coarse) - 1, height + more).astype(np.int64)
        right = np.linspace(0, coarse.shape[1] - 1, width + more).astype(np.int64)
        noisy = coarse[down][:, right] + generator.normal(0, 20, (height + more, width + more, 3))
        pictures.append(noisy.clip(0, 255).astype(np.uint8))
    return replace(_with_edges(pictures, None, "no image of the run is there, so drawn ones"), real=0)
