"""Values of an audit: duplicates, leaks, label issues, findings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from typing import Any, Literal

from tercet.audit.duplicate_groups import Cluster, Duplicate, Leak, Method, clusters_of
from tercet.audit.quality import OddImages
from tercet.config.commands import FINDING_KINDS, FindingKind
from tercet.core import output
from tercet.data.read_ahead import BadImage
from tercet.data.readers.scan import SkippedFile, skipped_documents

MAX_LISTED = 1000
"""Duplicates, and label issues, listed in audit.json, the most severe first; all are counted."""
TITLES = {"train": "train", "val": "validation", "test": "test", "": "left out"}
"""Names of the splits in reports."""
join_few = partial(output.join_few, limit=3)


@dataclass(frozen=True)
class LabelIssue:
    """A label that contradicts a held-out prediction."""

    id: str
    """Sample name."""
    label: str
    suggested: str
    """Class with the highest probability."""
    own_probability: float
    """Probability of the given class."""
    suggested_probability: float
    """Probability of the suggested class."""


@dataclass(frozen=True)
class LabelCheck:
    """Result of the label check with predictions."""

    run: str
    predictions: str
    """Description of the predictions used."""
    checked: int
    """Number of labelled images with a prediction."""
    issues: tuple[LabelIssue, ...]
    """Likely label errors, the most certain first."""


@dataclass(frozen=True)
class Finding:
    """One kind of problem in the data."""

    kind: FindingKind
    """Name, as in `--fail-on`."""
    count: int
    text: str


@dataclass(frozen=True)
class AuditResult:
    """Everything that an audit computes."""

    name: str
    classes: tuple[str, ...]
    multilabel: bool
    """Whether an image may have several labels."""
    images: int
    """All images, including unreadable ones."""
    unlabelled: int
    """Readable images without a label."""
    counts: Mapping[str, int]
    """Readable labelled images per class."""
    by_split: Mapping[str, Mapping[str, int]]
    """The same per split; empty without splits."""
    split_sizes: Mapping[str, int]
    """Images per split."""
    split_source: str
    """Origin of the splits, in words."""
    given_splits: bool
    """Whether the data have splits."""
    training_errors: tuple[str, ...]
    """Reasons for which training would reject the data."""
    unreadable: tuple[BadImage, ...]
    """Images that cannot be decoded."""
    missing_files: tuple[str, ...]
    """Files listed in a table that do not exist."""
    empty_folders: tuple[str, ...]
    """Class folders without images."""
    sizes: tuple[tuple[int, int, int], ...]
    """Height, width, number of images; the most frequent first."""
    modes: tuple[tuple[str, int], ...]
    """File format with colour mode, number of images; the most frequent first."""
    uniform: tuple[str, ...]
    """Images of one colour, excluded from the search for near duplicates."""
    odd: OddImages
    """Images that are dark, bright, blurred, or of an unusual size."""
    duplicates: tuple[Duplicate, ...]
    """Across splits first, then with conflicting labels; within each kind exact ones first, then by similarity."""
    complete: bool
    """Whether all pairs are listed; otherwise pairs are omitted that connect no further images and splits."""
    leaks_complete: bool
    """Whether all pairs across splits were compared; the search stops if too many images look alike."""
    max_hash_distance: int | None
    """Maximum number of different hash bits; None if near duplicates were not searched."""
    leaks: tuple[Leak, ...]
    """Pairs of splits with duplicates across them."""
    leaking_groups: Mapping[str, tuple[str, ...]]
    """Groups in several given splits, with these splits."""
    folds: int
    """Number of folds that classes must be large enough for."""
    small_classes: Mapping[str, int]
    """Classes too small for the folds, with their size."""
    small_unit: Literal["images", "groups"]
    """Unit of this size."""
    missing_classes: Mapping[str, tuple[str, ...]]
    """Classes without images, by given split."""
    max_imbalance: float
    """Maximum ratio of the largest to the smallest class."""
    labels: LabelCheck | None
    """Label check; None without a run."""
    notes: tuple[str, ...]
    """Notes about reading and splitting the data."""
    skipped: tuple[SkippedFile, ...] = ()
    """Files that are not images, with the reason."""

    @property
    def readable(self) -> int:
        """Number of images that can be decoded."""
        return self.images - len(self.unreadable)

    def duplicates_by(self, *methods: Method) -> tuple[Duplicate, ...]:
        """Return the duplicates that were detected by one of the methods."""
        return tuple(duplicate for duplicate in self.duplicates if duplicate.method in methods)

    @cached_property
    def clusters(self) -> tuple[Cluster, ...]:
        """Groups of images that are connected by duplicates: across splits first, then with conflicting labels."""
        return clusters_of(self.duplicates)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The kinds of problems that occur, in the order of `FINDING_KINDS`."""
        return tuple(finding for kind in FINDING_KINDS if (finding := self.finding(kind)).count)

    def finding(self, kind: FindingKind) -> Finding:
        """Return the finding of one kind; its count is 0 if there is no such problem."""
        count, text = {
            "unreadable": self._unreadable,
            "duplicates": self._duplicates,
            "leakage": self._leakage,
            "imbalance": self._imbalance,
            "small-classes": self._small,
            "missing-classes": self._missing,
            "labels": self._labels,
            "odd-images": self._odd,
        }[kind]()
        return Finding(kind, count, text)

    def _unreadable(self) -> tuple[int, str]:
        parts = [f"{len(self.unreadable)} unreadable images"] if self.unreadable else []
        parts += [f"{len(self.missing_files)} missing files"] if self.missing_files else []
        names = [*map(str, self.unreadable), *self.missing_files]
        return len(names), f"{', '.join(parts)}: {join_few(names)}"

    def _duplicates(self) -> tuple[int, str]:
        exact = [cluster for cluster in self.clusters if cluster.identical]
        near = len(self.clusters) - len(exact)
        parts = [f"groups of identical images: {len(exact)}"] if exact else []
        parts += [f"groups of near duplicates: {near}"] if near else []
        examples = join_few([cluster.equation() for cluster in self.clusters])
        images = sum(len(cluster.ids) for cluster in self.clusters)
        return len(self.clusters), f"{', '.join(parts)}, {images} images ({examples})"

    def _odd(self) -> tuple[int, str]:
        kinds = self.odd.by_kind()
        return len(self.odd.ids), "; ".join(f"{kind}: {len(ids)} ({join_few(ids)})" for kind, ids in kinds.items())

    def _leakage(self) -> tuple[int, str]:
        crossing = [duplicate for duplicate in self.duplicates if duplicate.crosses]
        minimum = "" if self.leaks_complete else "at least "
        parts = []
        for leak in self.leaks:
            names = [names for duplicate in crossing if (names := duplicate.between(leak.split, leak.other))]
            text = f"{TITLES[leak.split]} images with a duplicate in {TITLES[leak.other]}: {minimum}{leak.images}"
            parts.append(f"{text} ({join_few(names)})" if names else text)
        groups = [
            f"{group} in {' and '.join(TITLES[split] for split in splits)}"
            for group, splits in self.leaking_groups.items()
        ]
        parts += [f"groups in several splits: {len(groups)} ({join_few(groups)})"] if groups else []
        if not self.leaks_complete:
            parts.append(
                "the search stopped because too many images look alike, so duplicates across splits may be missing: "
                "use a smaller --max-hash-distance"
            )
        count = len(crossing) + len(groups) + (not self.leaks_complete)
        return count, f"{'; '.join(parts)}; splits: {self.split_source}"

    def _imbalance(self) -> tuple[int, str]:
        present = {name: count for name, count in self.counts.items() if count}
        if len(present) < 2 or max(present.values()) <= self.max_imbalance * min(present.values()):
            return 0, ""
        large, small = max(present, key=lambda name: present[name]), min(present, key=lambda name: present[name])
        ratio = present[large] / present[small]
        return 1, (
            f"the largest class ({large}, {present[large]} images) is {ratio:.1f} times the size of the smallest "
            f"({small}, {present[small]})"
        )

    def _small(self) -> tuple[int, str]:
        names = [f"{name}: {count}" for name, count in self.small_classes.items()]
        return len(names), f"classes with fewer than {self.folds} {self.small_unit}: {len(names)} ({join_few(names)})"

    def _missing(self) -> tuple[int, str]:
        parts = [
            f"classes without images in {TITLES[split]}: {len(names)} ({join_few(names)})"
            for split, names in self.missing_classes.items()
        ]
        folders = self.empty_folders
        parts += [f"empty class folders: {len(folders)} ({join_few(folders)})"] if folders else []
        return sum(map(len, self.missing_classes.values())) + len(folders), "; ".join(parts)

    def _labels(self) -> tuple[int, str]:
        conflicts = [duplicate for duplicate in self.duplicates_by("pixels") if duplicate.disagrees]
        issues = self.labels.issues if self.labels else ()
        parts = []
        if conflicts:
            names = join_few([duplicate.equation(duplicate.labels) for duplicate in conflicts])
            parts.append(f"identical images with different labels: {len(conflicts)} ({names})")
        if issues:
            names = join_few([f"{issue.id}: {issue.label}, suggested {issue.suggested}" for issue in issues])
            parts.append(f"likely label errors: {len(issues)} ({names})")
        return len(conflicts) + len(issues), "; ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; long lists are truncated, counts are not."""
        document = asdict(replace(self, duplicates=()))
        document["skipped"] = skipped_documents(self.skipped)
        document["duplicates"] = [duplicate.to_dict() for duplicate in self.duplicates[:MAX_LISTED]]
        document["clusters"] = [cluster.to_dict() for cluster in self.clusters[:MAX_LISTED]]
        if self.labels is not None:
            document["labels"]["issues"] = document["labels"]["issues"][:MAX_LISTED]
        return {
            "findings": [asdict(finding) for finding in self.findings],
            "readable": self.readable,
            "num_duplicates": {method: len(self.duplicates_by(method)) for method in ("pixels", "hash", "network")},
            "num_clusters": len(self.clusters),
            "num_crossing_duplicates": sum(duplicate.crosses for duplicate in self.duplicates),
            **document,
        }
