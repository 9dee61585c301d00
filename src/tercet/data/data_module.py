"""Data made ready once and shared by every member: the table with its splits, and the decoded images."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tercet.config.run import DataConfig
from tercet.config.training import TrainingConfig
from tercet.core.errors import ConfigError
from tercet.core.types import InputSpec
from tercet.data.image_cache import BadImage, CachedImages, ImageCache
from tercet.data.load import load_table
from tercet.data.loader import ImageLoader
from tercet.data.splits import assign_splits, check_disjoint, require_rows
from tercet.data.table import SampleTable, Split

Rows = NDArray[np.int64]
_PREDICT_BATCH = 256
SPLITS: dict[str, Split] = {"train": "train", "validation": "val", "test": "test"}
"""Names in reports and files, and in the table."""


@dataclass(frozen=True)
class DataModule:
    """Samples with splits, and their images by row."""

    table: SampleTable
    store: CachedImages
    bad: tuple[BadImage, ...] = ()
    fingerprint: str = ""
    """SHA-256 over ids, labels, classes and contents of all images, as they were read."""

    @property
    def channels(self) -> int:
        """Channels of the stored images: 1 or 3."""
        return self.store.channels

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the first image."""
        height, width = self.store.read(0).shape[:2]
        return height, width

    def rows(self, split: str) -> Rows:
        """Return the rows of train, validation or test."""
        return self.table.rows_of(SPLITS[split])

    def loader(self, rows: Rows, specs: Sequence[InputSpec], *, num_workers: int = 0) -> ImageLoader:
        """Return the rows in order, without augmentation: to predict and to validate."""
        return self._loader(rows, specs, batch_size=_PREDICT_BATCH, num_workers=num_workers)

    def training_loader(
        self, rows: Rows, specs: Sequence[InputSpec], *, training: TrainingConfig, data: DataConfig, seed: int
    ) -> ImageLoader:
        """Return the rows shuffled and augmented as the training asks."""
        return self._loader(
            rows,
            specs,
            batch_size=training.batch_size,
            num_workers=data.num_workers,
            seed=seed,
            shuffle=True,
            augment=training.augment,
            random_erasing=training.random_erasing,
            mixup=training.mixup,
            cutmix=training.cutmix,
            balanced=data.class_balanced_sampling,
        )

    def _loader(self, rows: Rows, specs: Sequence[InputSpec], **options: object) -> ImageLoader:
        return ImageLoader(
            self.store,
            rows,
            ids=[self.table.ids[row] for row in rows],
            labels=self.table.targets(rows),
            num_classes=len(self.table.classes),
            specs=specs,
            **options,  # type: ignore[arg-type]
        )


def held_out_digest(table: SampleTable) -> str:
    """Return a SHA-256 over the ids of the test split: what tells later whether the same rows are held out."""
    ids = sorted(table.ids[row] for row in table.rows_of("test"))
    return hashlib.sha256("\n".join(ids).encode("utf-8", "surrogatepass")).hexdigest()


def without_rows(table: SampleTable, bad: Sequence[BadImage]) -> SampleTable:
    """Return the rows whose images could be read."""
    unreadable = {image.id for image in bad}
    return table.take(np.array([name not in unreadable for name in table.ids], dtype=np.bool_)) if bad else table


def read_data(data: str | Path, config: DataConfig, *, sets: bool = False) -> DataModule:
    """Read the table and decode every image once; the samples are divided as they came, or not at all.

    Args:
        data: Folder, table, zip or name of a data set.
        config: How to read it.
        sets: Whether images may have sets of labels.

    Raises:
        ConfigError: Images have sets of labels where they may not.
        DataError: Nothing to read, or too many unreadable images.
    """
    if config.is_multilabel and not sets:
        raise ConfigError("sets of labels are learned with tercet train: give one data.label_columns, no separator")
    table = load_table(data, config)
    fingerprint = table.fingerprint()
    store, bad = ImageCache.decode(table, config)
    return DataModule(without_rows(table, bad), store, tuple(bad), fingerprint)


def prepare_data(data: str | Path, config: DataConfig, *, sets: bool = False) -> DataModule:
    """Read the table, decode every image once, and divide the samples.

    Args:
        data: Folder, table, zip or name of a data set.
        config: How to read and divide it.
        sets: Whether images may have sets of labels.

    Raises:
        ConfigError: Images have sets of labels where they may not.
        DataError: Nothing to train on, too many unreadable images, or splits that overlap.
    """
    read = read_data(data, config, sets=sets)
    prepared = replace(read, table=assign_splits(read.table, config))
    check_disjoint(prepared.table)
    require_splits(prepared)
    return prepared


def require_splits(prepared: DataModule) -> None:
    """Refuse data without rows to train on or to choose with.

    Raises:
        DataError: There are none.
    """
    require_rows(prepared.table)
