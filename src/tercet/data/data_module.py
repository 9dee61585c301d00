"""Data prepared once and shared by all members: the sample table with its splits, and the decoded images."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tercet.config.run import DataConfig
from tercet.config.training import TrainingConfig
from tercet.core.errors import ConfigError, DataError
from tercet.core.output import count, join_few
from tercet.core.types import InputSpec
from tercet.data.copies import torn_notes, with_copies
from tercet.data.image_cache import CachedImages, ImageCache
from tercet.data.load import load_table, require_classes
from tercet.data.read_ahead import BadImage, require_readable
from tercet.data.readers.table import require_files
from tercet.data.splits import assign_splits, check_disjoint, require_rows
from tercet.data.table import SampleTable, Split
from tercet.data.unseen_classes import leave_out_unseen_classes

if TYPE_CHECKING:
    from tercet.data.loader import ImageLoader

Rows = NDArray[np.int64]
_PREDICT_BATCH = 256
SPLITS: dict[str, Split] = {"train": "train", "validation": "val", "test": "test"}
"""Split names in reports and files, and the table's names for them."""


@dataclass(frozen=True)
class DataModule:
    """Samples with splits, and their images by row."""

    table: SampleTable
    images: CachedImages
    bad: tuple[BadImage, ...] = ()
    """Images that could not be decoded; the table does not contain them."""
    fingerprint: str = ""
    """SHA-256 over ids, labels, classes and contents of all images of the data, bad ones included."""

    @property
    def channels(self) -> int:
        """Channels of the decoded images: 1 or 3."""
        return self.images.channels

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the first image."""
        height, width = self.images.read(0).shape[:2]
        return height, width

    def rows(self, split: str) -> Rows:
        """Return the rows of train, validation or test."""
        return self.table.rows_of(SPLITS[split])

    def loader(self, rows: Rows, specs: Sequence[InputSpec], *, num_workers: int = 0) -> ImageLoader:
        """Return a loader for prediction: in order, without augmentation."""
        return self._loader(rows, specs, batch_size=_PREDICT_BATCH, num_workers=num_workers)

    def training_loader(
        self, rows: Rows, specs: Sequence[InputSpec], *, training: TrainingConfig, data: DataConfig, seed: int
    ) -> ImageLoader:
        """Return a loader for training: shuffled and augmented as configured."""
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
            weights=self.table.take(rows).normalized_weights(),
        )

    def _loader(self, rows: Rows, specs: Sequence[InputSpec], **options: object) -> ImageLoader:
        from tercet.data.loader import ImageLoader  # the other functions are used without PyTorch

        return ImageLoader(
            self.images,
            rows,
            ids=[self.table.ids[row] for row in rows],
            labels=self.table.targets(rows),
            num_classes=len(self.table.classes),
            specs=specs,
            **options,  # type: ignore[arg-type]
        )


def read_data(data: str | Path | SampleTable, config: DataConfig, *, multilabel: bool = False) -> DataModule:
    """Read the table and decode every image once; the splits stay as given.

    Args:
        data: Folder, table, zip or name of a data set; or its samples.
        config: How to read it.
        multilabel: Whether multi-label data are accepted.

    Raises:
        ConfigError: The data are multi-label but not accepted.
        DataError: There is nothing to read, or too many images are unreadable.
    """
    table = load_table(data, config)
    if table.membership is not None and not multilabel:
        raise ConfigError(
            "only tercet train supports label sets: give one of --data.label-columns (or one-hot columns), and no "
            "--data.label-separator"
        )
    fingerprint = table.fingerprint()
    images, bad = ImageCache.decode(table, config)
    readable = drop_unreadable(table, bad).with_notes(*images.notes)
    _require_readable_classes(table, readable)
    if images.traits is not None:
        readable = with_copies(readable, images.traits, config)
        images.traits = images.traits.without_grey()  # half a gigabyte for half a million images
    return DataModule(readable, images, tuple(bad), fingerprint)


def _require_readable_classes(table: SampleTable, readable: SampleTable) -> None:
    """Raise a `DataError` if none of the images of a class can be decoded."""
    lost = table.classes_in(np.arange(len(table))) - readable.classes_in(np.arange(len(readable)))
    if lost:
        names = join_few([f"'{table.classes[label]}'" for label in sorted(lost)])
        raise DataError(
            f"{table.name}: no image of {count(len(lost), 'class')} can be read: {names}; replace them, or remove "
            "the class from the data"
        )


def prepare_data(data: str | Path | SampleTable, config: DataConfig, *, multilabel: bool = False) -> DataModule:
    """Read the table, decode every image once, and assign the splits.

    Args:
        data: Folder, table, zip or name of a data set; or its samples.
        config: How to read and split it.
        multilabel: Whether multi-label data are accepted.

    Raises:
        ConfigError: The data are multi-label but not accepted.
        DataError: There is nothing to train on, too many images are unreadable, or splits overlap.
    """
    module = read_data(data, config, multilabel=multilabel)
    table = leave_out_unseen_classes(module.table) if config.unseen_classes == "leave-out" else module.table
    module = replace(module, table=assign_splits(table, config))
    check_disjoint(module.table)
    require_rows(module.table)
    return replace(module, table=module.table.with_notes(*torn_notes(module.table)))


def drop_unreadable(table: SampleTable, bad: Sequence[BadImage]) -> SampleTable:
    """Return the rows whose images could be decoded."""
    unreadable = {image.id for image in bad}
    return table.take(np.array([name not in unreadable for name in table.ids], dtype=np.bool_)) if bad else table


@dataclass(frozen=True)
class SplitPreview:
    """A table with the splits that a training would assign."""

    table: SampleTable
    description: str
    """Origin of the splits."""
    problems: tuple[str, ...]
    """Reasons for which `tercet train` would reject the splits."""
    notes: tuple[str, ...]
    """Warnings of the split assignment."""


def preview_splits(table: SampleTable, config: DataConfig) -> SplitPreview:
    """Assign splits as a training would; if that fails, keep the given ones and report the problem."""
    given = table.splits is not None
    table = leave_out_unseen_classes(table) if config.unseen_classes == "leave-out" else table
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            split_table = assign_splits(table, config, all_classes_learned=True)
        except (DataError, ConfigError) as error:
            description = "in the given splits" if given else "there are no splits"
            return SplitPreview(table, description, (str(error),), ())
    notes = tuple(str(warning.message) for warning in caught)
    assigned = {split for split in SPLITS.values() if len(split_table.rows_of(split))} - set(table.splits or ())
    if not given:
        description = f"as tercet train would split them with seed {config.split_seed}"
    elif assigned:
        description = f"in the given splits; {' and '.join(sorted(assigned))} as tercet train would hold it out"
    else:
        description = "in the given splits"
    return SplitPreview(split_table, description, _messages(lambda: require_rows(split_table)), notes)


def read_problems(table: SampleTable, bad: Sequence[BadImage], config: DataConfig) -> tuple[str, ...]:
    """Return the reasons for which `tercet train` would reject data before assigning splits.

    Args:
        table: The samples, read without limits on missing files and classes.
        bad: Images that cannot be decoded.
        config: Limits of the training.
    """
    return _messages(
        lambda: require_files(len(table.missing), len(table), table.name, table.notes, config),
        lambda: require_classes(table, table.name),
        lambda: require_readable(bad, len(table), config),
    )


def _messages(*checks: Callable[[], None]) -> tuple[str, ...]:
    messages = []
    for check in checks:
        try:
            check()
        except DataError as error:
            messages.append(str(error))
    return tuple(messages)


def held_out_digest(table: SampleTable) -> str:
    """Return a SHA-256 over the ids of the test split, to check later that the same rows are held out."""
    ids = sorted(table.ids[row] for row in table.rows_of("test"))
    return hashlib.sha256("\n".join(ids).encode("utf-8", "surrogatepass")).hexdigest()
