"""Copies of images in a table: identical pixels, and near copies by perceptual hash.

Copies form groups: the connected components of all pairs. N rows of a table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tercet.config.run import DataConfig
from tercet.core.output import count, join_few
from tercet.data.duplicates import exact_groups, near_pairs
from tercet.data.image_traits import ImageTraits
from tercet.data.perceptual_hashes import hashes, is_uniform
from tercet.data.table import PIXEL_BYTES, UNLABELLED, Ints, SampleTable

MAX_DISTANCE = 6
"""Different bits of the perceptual hashes of near copies, as by default in `tercet audit`."""
_MAX_GROUP, _MAX_SHARE = 20, 0.1  # images of a group of near copies beyond which images are similar, not copies
_TITLES = {"train": "training", "val": "validation", "test": "test"}
_EXAMPLES = 3


def with_pixels(table: SampleTable, traits: ImageTraits) -> SampleTable:
    """Return the table with the digests of the decoded pixels."""
    return replace(table, pixels=tuple(digest[:PIXEL_BYTES] for digest in traits.digests))


def with_copies(table: SampleTable, traits: ImageTraits, config: DataConfig) -> SampleTable:
    """Return the table with pixel digests, the groups of copies, and notes about them.

    Args:
        table: Samples whose images were decoded.
        traits: Their N traits.
        config: `find_copies`: near copies are searched as far as the traits have downscaled images.
    """
    table = with_pixels(table, traits)
    if config.find_copies == "none":
        return table
    exact = exact_groups(traits.digests)
    links = [(int(group[0]), int(row)) for group in exact for row in group[1:]]
    near, note = _near_links(traits, exact, limited=config.find_copies == "auto")
    table = replace(table, copies=_numbered(len(table), [*links, *near]))
    return table.with_notes(*_notes(table), *([note] if note else []))


def _near_links(traits: ImageTraits, exact: Sequence[Ints], *, limited: bool) -> tuple[list[tuple[int, int]], str]:
    """Return the pairs of near copies, one of identical images each, and a note if they are ignored."""
    if not len(traits.grey):
        return [], ""
    repeated = np.zeros(len(traits.grey), dtype=np.bool_)
    for group in exact:
        repeated[group[1:]] = True
    rows = np.flatnonzero(~repeated & ~is_uniform(traits.grey))
    grey = traits.grey[rows]
    pairs = near_pairs(hashes(grey), grey, max_distance=MAX_DISTANCE)
    links = list(zip(rows[pairs.first].tolist(), rows[pairs.second].tolist(), strict=True))
    largest = np.bincount(_numbered(len(traits.grey), links), minlength=2)[1:].max()
    if limited and largest > max(_MAX_GROUP, _MAX_SHARE * len(traits.grey)):
        return [], (
            f"{largest} images look alike, so near copies are not kept together: give groups (--data.group-from, "
            "--data.group-column), or --data.find-copies near to keep them on one side of a split"
        )
    return links, ""


def _numbered(size: int, links: Sequence[tuple[int, int]]) -> Ints:
    """Return the number of each row's group from 1, in the order of the rows; 0 without a link."""
    numbers = np.zeros(size, dtype=np.int64)
    if links:
        first, second = np.array(links, dtype=np.int64).T
        edges = coo_array((np.ones(len(first), dtype=np.int8), (first, second)), shape=(size, size))
        component = connected_components(edges, directed=False)[1]
        linked = np.unique(np.concatenate([first, second]))
        _, start, inverse = np.unique(component[linked], return_index=True, return_inverse=True)
        numbers[linked] = np.argsort(np.argsort(start))[inverse] + 1
    return numbers


def _notes(table: SampleTable) -> list[str]:
    groups = copy_groups(table)
    if not groups:
        return []
    identical = sum(_identical(table, rows) for rows in groups)
    kinds = [f"{count(identical, 'group')} of identical images"] if identical else []
    kinds += [f"{count(len(groups) - identical, 'group')} of near copies"] if identical < len(groups) else []
    notes = [f"{' and '.join(kinds)} ({sum(map(len, groups))} images)"]
    names = table.label_names()
    pairs = [pair for rows in groups if (pair := _conflict(table, names, rows))]
    if pairs:
        notes.append(
            f"copies with different labels: {count(len(pairs), 'group')}, such as {join_few(pairs, limit=_EXAMPLES)}; "
            "tercet audit lists them"
        )
    return notes


def copy_groups(table: SampleTable) -> list[Ints]:
    """Return the rows of each group of at least two copies."""
    if table.copies is None:
        return []
    order = np.argsort(table.copies, kind="stable")
    order = order[table.copies[order] > 0]
    edges = np.flatnonzero(np.diff(table.copies[order])) + 1
    return [rows for rows in np.split(order, edges) if len(rows) > 1]


def _identical(table: SampleTable, rows: Ints) -> bool:
    return table.pixels is not None and len({table.pixels[row] for row in rows.tolist()}) == 1


def _conflict(table: SampleTable, names: Sequence[str], rows: Ints) -> str:
    """Return two images of a group with different labels; empty if all have the same."""
    labelled = [row for row in rows.tolist() if table.labels[row] != UNLABELLED]
    other = next((row for row in labelled if names[row] != names[labelled[0]]), None)
    if other is None:
        return ""
    return " = ".join(f"{table.ids[row]} ({names[row]})" for row in (labelled[0], other))


def first_copies(copies: Ints) -> NDArray[np.bool_]:
    """Return which of N rows are the first of their group, or in none."""
    mask: NDArray[np.bool_] = copies == 0
    mask[np.unique(copies, return_index=True)[1]] = True
    return mask


def with_their_copies(rows: Ints, copies: Ints) -> Ints:
    """Return some of N rows with all copies of them, in increasing order."""
    mask = np.isin(copies, np.setdiff1d(copies[rows], 0))
    mask[rows] = True
    return np.flatnonzero(mask)


def joined_groups(groups: Sequence[str] | None, copies: Ints) -> list[str]:
    """Return N group names that neither divide a group nor copies; without groups, a row without copies is its own."""
    names = [str(row) for row in range(len(copies))] if groups is None else list(groups)
    index = np.unique(np.array(names, dtype=np.str_), return_inverse=True)[1]
    size = int(index.max(initial=-1)) + 1
    copied = np.flatnonzero(copies > 0)
    shape = (size + int(copies.max(initial=0)) + 1,) * 2
    edges = coo_array((np.ones(len(copied), dtype=np.int8), (index[copied], size + copies[copied])), shape=shape)
    component = connected_components(edges, directed=False)[1][index]
    first = np.unique(component, return_index=True)[1]
    name_of = {int(component[row]): names[row] for row in first.tolist()}
    return [name_of[number] for number in component.tolist()]


@dataclass(frozen=True)
class TornCopies:
    """Images whose copies are on the other side of a split, or in other folds."""

    part: str
    """test, validation, or held-out images."""
    others: str
    """The images that have the copies."""
    ids: tuple[str, ...]
    total: int
    """Number of labelled images of the part."""

    def to_text(self) -> str:
        """Return a sentence with numbers and examples."""
        names = join_few(self.ids, limit=_EXAMPLES)
        return (
            f"{len(self.ids)} of {self.total} {self.part} images have copies among the {self.others} images ({names})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"images": len(self.ids), "of": self.total, "copies_among": self.others, "ids": list(self.ids)}


def torn_copies(table: SampleTable) -> Mapping[str, TornCopies]:
    """Return the torn copies of the test and of the validation split, as far as there are any."""
    splits = np.array(table.splits or ("",) * len(table), dtype=np.str_)
    torn = {}
    for split, others in (("test", ("train", "val")), ("val", ("train",))):
        rows = np.flatnonzero((splits == split) & (table.labels != UNLABELLED))
        if ids := _with_copies_among(table, rows, np.isin(splits, others)):
            found_in = [_TITLES[name] for name in others if _with_copies_among(table, rows, splits == name)]
            torn[_TITLES[split]] = TornCopies(_TITLES[split], " and ".join(found_in), ids, len(rows))
    return torn


def torn_folds(table: SampleTable) -> TornCopies | None:
    """Return the torn copies of folds, whose numbers the table has; None if no copies are in different folds."""
    if table.copies is None or table.folds is None:
        return None
    folds, copies = table.folds, table.copies
    rows = np.flatnonzero((folds >= 0) & (table.labels != UNLABELLED))
    ids: list[str] = []
    for fold in np.unique(folds[rows]).tolist():
        ids += _with_copies_among(table, rows[folds[rows] == fold], (folds >= 0) & (folds != fold) & (copies > 0))
    return TornCopies("held-out", "other folds'", tuple(ids), len(rows)) if ids else None


def _with_copies_among(table: SampleTable, rows: Ints, others: NDArray[np.bool_]) -> tuple[str, ...]:
    if table.copies is None:
        return ()
    numbers = np.setdiff1d(table.copies[others], 0)
    return tuple(table.ids[row] for row in rows[np.isin(table.copies[rows], numbers)].tolist())


def torn_notes(table: SampleTable) -> tuple[str, ...]:
    """Return a sentence for each split with torn copies, and for torn folds; the table has splits."""
    folds = torn_folds(table)
    torn = [*torn_copies(table).values(), *([folds] if folds else [])]
    return tuple(
        f"{item.to_text()}: scores are reported with and without them; tercet audit lists the copies" for item in torn
    )
