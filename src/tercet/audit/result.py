"""What an audit of a data set finds, as values: nothing here computes, prints or draws.

K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from tercet.config.analysis import FINDING_KINDS, FindingKind
from tercet.data.image_cache import BadImage

MOST_LISTED = 1000
"""Copies, and suspicious labels, that a document lists, the gravest first; the numbers count all."""
Method = Literal["pixels", "hash", "network"]
TITLES = {"train": "train", "val": "validation", "test": "test", "": "left out"}
"""Splits as people read them."""
_NAMED = 3  # examples in a sentence


@dataclass(frozen=True)
class Copy:
    """One picture that is there more than once."""

    how: Method
    """What told it: equal pixels, near hashes, or a network's features."""
    ids: tuple[str, ...]
    """Sample names: all that have these pixels, or a pair."""
    splits: tuple[str, ...]
    """Split of each; empty where it has none."""
    labels: tuple[str, ...]
    """Class name of each; empty where unlabelled."""
    similarity: float = 1.0
    """Correlation of small grey copies, or cosine of features."""
    distance: int | None = None
    """hash: bits that differ."""
    orientation: str = "as it is"
    """How the first image lies to look like the second."""

    def apart(self, values: Sequence[str] | None = None) -> tuple[int, ...]:
        """Return the places of all images, one of each value first: of each split, or label where it lies in one."""
        told = values or (self.splits if self.crosses else self.labels)
        ahead = sorted({value: place for place, value in reversed([*enumerate(told)]) if value}.values())
        return (*ahead, *(place for place in range(len(self.ids)) if place not in ahead))

    def equation(self, values: Sequence[str] | None = None) -> str:
        """Return the names of two images, of different values where there are such (see `apart`)."""
        return " = ".join(self.ids[place] for place in self.apart(values)[:2])

    def between(self, split: str, other: str) -> str | None:
        """Return the names of an image of each split, where it lies in both."""
        if not {split, other} <= {*self.splits}:
            return None
        return " = ".join(self.ids[self.splits.index(name)] for name in (split, other))

    @property
    def crosses(self) -> bool:
        """Whether it lies in two splits."""
        return len(set(self.splits) - {""}) > 1

    @property
    def disagrees(self) -> bool:
        """Whether it has two labels."""
        return len(set(self.labels) - {""}) > 1

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "crosses_splits": self.crosses, "labels_disagree": self.disagrees}


@dataclass(frozen=True)
class Leak:
    """How many images of one split have a copy in another."""

    split: str
    """The split whose images are counted."""
    other: str
    """Where their copies are."""
    images: int
    """How many."""


@dataclass(frozen=True)
class LabelIssue:
    """A label that predictions of images never trained on contradict."""

    id: str
    """Sample name."""
    label: str
    """Class it is given."""
    suggested: str
    """Class with the highest probability."""
    own_probability: float
    """What the given class gets."""
    suggested_probability: float
    """What the suggested class gets."""


@dataclass(frozen=True)
class LabelCheck:
    """What predictions say about labels."""

    run: str
    """The run."""
    predictions: str
    """Which of its predictions were used, in words."""
    checked: int
    """Labelled images that they cover."""
    issues: tuple[LabelIssue, ...]
    """Suspicious labels, the worst first."""


@dataclass(frozen=True)
class Finding:
    """Something that should be looked at before training."""

    kind: FindingKind
    """What kind of thing, as `--fail-on` names it."""
    count: int
    """How many."""
    text: str
    """One sentence."""


@dataclass(frozen=True)
class AuditResult:
    """What is known of a data set before training."""

    name: str
    """Name of the data."""
    classes: tuple[str, ...]
    """K class names."""
    sets: bool
    """Whether images have sets of labels."""
    images: int
    """Images in all, unreadable ones included."""
    unlabelled: int
    """Readable images without a label."""
    counts: Mapping[str, int]
    """Readable labelled images of each class."""
    by_split: Mapping[str, Mapping[str, int]]
    """The same in each split; empty without splits."""
    split_sizes: Mapping[str, int]
    """Images in each split."""
    division: str
    """Where the splits are from, in words."""
    refusals: tuple[str, ...]
    """Why training would refuse the data, if it would."""
    unreadable: tuple[BadImage, ...]
    """Images that cannot be decoded."""
    missing: tuple[str, ...]
    """Files that a table names and that are not there."""
    empty: tuple[str, ...]
    """Class folders without an image."""
    sizes: tuple[tuple[int, int, int], ...]
    """Height, width, number of images; the most frequent first."""
    modes: tuple[tuple[str, int], ...]
    """Ways to store an image and their numbers, the most frequent first."""
    flat: tuple[str, ...]
    """Images of one colour, which have no near duplicates."""
    copies: tuple[Copy, ...]
    """Pictures that are there more than once: those in two splits first, then those with two labels; of each kind
    equal pixels first, then the surest pairs."""
    complete: bool
    """Whether these are all; left out are pairs that join no further images and tell of no further split."""
    leaks_complete: bool
    """Whether all images that lie in two splits were compared: the search stops where look-alikes are too many."""
    max_hash_distance: int | None
    """Bits up to which hashes proposed near duplicates; None where they were not looked for."""
    leaks: tuple[Leak, ...]
    """Splits whose images have copies in another."""
    torn: Mapping[str, tuple[str, ...]]
    """Groups that lie in several given splits, and these."""
    folds: int
    """Folds that classes must be large enough for."""
    small: Mapping[str, int]
    """Classes too small for the folds, and their images or groups."""
    units: Literal["images", "groups"]
    """What is counted there."""
    absent: Mapping[str, tuple[str, ...]]
    """Classes that a given split does not show, by split."""
    most_imbalance: float
    """Largest class over smallest one beyond which classes are imbalanced."""
    labels: LabelCheck | None
    """What a run's predictions say about labels."""
    notes: tuple[str, ...]
    """What reading and dividing the data had to say."""

    @property
    def readable(self) -> int:
        """Images that can be decoded."""
        return self.images - len(self.unreadable)

    def copies_by(self, *how: Method) -> tuple[Copy, ...]:
        """Return the copies that were told in some way."""
        return tuple(copy for copy in self.copies if copy.how in how)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What should be looked at, in the order of `FINDING_KINDS`; nothing where all is well."""
        told = [finding for kind in FINDING_KINDS if (finding := self.finding(kind)).count]
        return tuple(told)

    def finding(self, kind: FindingKind) -> Finding:
        """Return what was found of one kind; its count is 0 where nothing was."""
        count, text = {
            "unreadable": self._unreadable,
            "duplicates": self._duplicates,
            "leakage": self._leakage,
            "imbalance": self._imbalance,
            "small-classes": self._small,
            "missing-classes": self._absent,
            "labels": self._labels,
        }[kind]()
        return Finding(kind, count, text)

    def _unreadable(self) -> tuple[int, str]:
        parts = [f"{len(self.unreadable)} images cannot be read"] if self.unreadable else []
        parts += [f"{len(self.missing)} files of the table are not there"] if self.missing else []
        named = [*map(str, self.unreadable), *self.missing]
        return len(named), f"{' and '.join(parts)}: {join_few(named)}"

    def _duplicates(self) -> tuple[int, str]:
        same, near = self.copies_by("pixels"), self.copies_by("hash", "network")
        parts = [f"{len(same)} pictures are there more than once, pixel by pixel"] if same else []
        more = "" if self.complete else " or more"
        parts += [f"{len(near)}{more} near-duplicate pair{'s' if len(near) > 1 else ''}"] if near else []
        return len(self.copies), f"{'; '.join(parts)}: {join_few([copy.equation() for copy in self.copies])}"

    def _leakage(self) -> tuple[int, str]:
        crossing = [copy for copy in self.copies if copy.crosses]
        least = "" if self.leaks_complete else "at least "
        parts = []
        for leak in self.leaks:
            named = [both for copy in crossing if (both := copy.between(leak.split, leak.other))]
            told = f"{least}{leak.images} images of {TITLES[leak.split]} have a copy in {TITLES[leak.other]}"
            parts.append(f"{told}: {join_few(named)}" if named else told)
        torn = [f"{group} ({', '.join(TITLES[split] for split in found)})" for group, found in self.torn.items()]
        parts += [f"{len(torn)} groups lie in several splits: {join_few(torn)}"] if torn else []
        if not self.leaks_complete:
            parts.append(
                "the search stopped, so that copies between splits may be missing: too many images look alike; a "
                "smaller --max-hash-distance compares fewer"
            )
        return len(crossing) + len(torn) + (not self.leaks_complete), f"{'; '.join(parts)} ({self.division})"

    def _imbalance(self) -> tuple[int, str]:
        present = {name: count for name, count in self.counts.items() if count}
        if len(present) < 2 or max(present.values()) <= self.most_imbalance * min(present.values()):
            return 0, ""
        large, small = max(present, key=lambda name: present[name]), min(present, key=lambda name: present[name])
        ratio = present[large] / present[small]
        return 1, (
            f"the largest class ({large}, {present[large]} images) has {ratio:.1f} times as many as the smallest "
            f"({small}, {present[small]})"
        )

    def _small(self) -> tuple[int, str]:
        named = [f"{name} ({count})" for name, count in self.small.items()]
        return len(
            named
        ), f"{len(named)} classes have fewer than {self.folds} {self.units} for folds: {join_few(named)}"

    def _absent(self) -> tuple[int, str]:
        parts = [
            f"{len(names)} classes are not in {TITLES[split]}: {join_few(names)}"
            for split, names in self.absent.items()
        ]
        parts += [f"{len(self.empty)} class folders hold no images: {join_few(self.empty)}"] if self.empty else []
        return sum(map(len, self.absent.values())) + len(self.empty), "; ".join(parts)

    def _labels(self) -> tuple[int, str]:
        torn = [copy for copy in self.copies_by("pixels") if copy.disagrees]
        issues = self.labels.issues if self.labels else ()
        several = "different sets of labels" if self.sets else "several labels"
        parts = [f"{len(torn)} pictures have {several}: {join_few([one.equation(one.labels) for one in torn])}"]
        suspicious = join_few([f"{one.id} ({one.label}, rather {one.suggested})" for one in issues])
        parts += [f"{len(issues)} labels are suspicious: {suspicious}"]
        return len(torn) + len(issues), "; ".join(parts[not torn : 1 + bool(issues)])

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; long lists are cut, their numbers are not."""
        document = asdict(replace(self, copies=()))
        document["copies"] = [copy.to_dict() for copy in self.copies[:MOST_LISTED]]
        if self.labels is not None:
            document["labels"]["issues"] = document["labels"]["issues"][:MOST_LISTED]
        return {
            "findings": [asdict(finding) for finding in self.findings],
            "readable": self.readable,
            "num_copies": {how: len(self.copies_by(how)) for how in ("pixels", "hash", "network")},
            "num_crossing_copies": sum(copy.crosses for copy in self.copies),
            **document,
        }


def join_few(names: Sequence[str]) -> str:
    """Return the first names, and dots where there are more."""
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
