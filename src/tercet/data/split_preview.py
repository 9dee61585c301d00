"""How a training would divide a table, and every reason for which it would refuse the data."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tercet.config.run import DataConfig
from tercet.core.errors import ConfigError, DataError
from tercet.data.image_cache import BadImage, require_readable
from tercet.data.load import require_classes
from tercet.data.readers.table import require_files
from tercet.data.splits import assign_splits, require_rows
from tercet.data.table import SPLITS, SampleTable


@dataclass(frozen=True)
class SplitPreview:
    """A table divided as a training would divide it."""

    table: SampleTable
    """With splits, as far as there are any."""
    how: str
    """Where they are from, in words."""
    refusals: tuple[str, ...]
    """Why a training would refuse to divide it, if it would."""
    notes: tuple[str, ...]
    """What dividing had to say."""


def preview_splits(table: SampleTable, config: DataConfig) -> SplitPreview:
    """Divide a table as a training would; where that would be refused, the given splits stay as they are."""
    given = table.splits is not None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            divided = assign_splits(table, config, all_classes_learned=True)
        except (DataError, ConfigError) as error:
            how = "in the given splits" if given else "there are no splits"
            return SplitPreview(table, how, (str(error),), ())
    notes = tuple(str(warning.message) for warning in caught)
    made = {split for split in SPLITS if len(divided.rows_of(split))} - set(table.splits or ())
    if not given:
        how = f"as tercet train would divide them, with seed {config.split_seed}"
    elif made:
        how = f"in the given splits; {' and '.join(sorted(made))} as tercet train would hold it out"
    else:
        how = "in the given splits"
    return SplitPreview(divided, how, _reasons(lambda: require_rows(divided)), notes)


def read_problems(table: SampleTable, bad: Sequence[BadImage], config: DataConfig) -> tuple[str, ...]:
    """Return why a training would refuse data before it divides them, if it would.

    Args:
        table: The samples as they were read, with as many files missing and as few classes as there are.
        bad: Images that cannot be read.
        config: What a training accepts.
    """
    return _reasons(
        lambda: require_files(len(table.missing), len(table), table.name, table.notes, config),
        lambda: require_classes(table, table.name),
        lambda: require_readable(bad, len(table), config.max_bad_fraction),
    )


def _reasons(*checks: Callable[[], None]) -> tuple[str, ...]:
    reasons = []
    for check in checks:
        try:
            check()
        except DataError as error:
            reasons.append(str(error))
    return tuple(reasons)
