"""Layout of a run folder.

RUN/
  run.json  environment.json  samples.csv  images/         command and options, machine, and data
  members/NAME/{checkpoints/ history.jsonl train.log tensorboard/ tta/ bundle/ member.json}
                                                           checkpoints until the training is finished
  predictions/{NAME,METHOD}-{validation,test}.npz
  metrics.json  report.txt  bundle/                         results
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Self

from tercet.core.errors import ConfigError, DataError, ModelError, PartError, StorageError
from tercet.core.files import UNFINISHED_PREFIX, file_lock, new_folder, read_json, slug, write_json, write_text

RECORD = "run.json"
"""Name of the file that marks a run folder."""
_EARLIER_FILES = ("config.yaml", "study.yaml")  # in place of run.json before version 0.2


def package_version(name: str) -> str:
    """Return the version of an installed package; `absent` if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"


@dataclass(frozen=True)
class RunRecord:
    """Command, source and options of a run folder: the content of `run.json`, which is its first file."""

    command: str
    """train, ensemble, crossval, compare, tune or reproduce."""
    source: str | list[str]
    """The positional argument: data, name of a recipe, or the runs of an ensemble."""
    options: Mapping[str, Any]
    """Resolved options by dotted key."""
    version: str = field(default_factory=lambda: package_version("tercet"))
    created: str = field(default_factory=lambda: datetime.now().astimezone().isoformat(timespec="seconds"))
    custom: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Names of parts of the caller's among the options, by kind."""
    given: Sequence[str] | None = None
    """Options that the user set; None if that is not known."""


def how_to_continue(record: RunRecord, path: str | Path) -> str:
    """Return the advice of a message on an unfinished run: the command to type."""
    if record.command == "ensemble":
        return "repeat the command with another --output"
    return f"continue it with tercet {record.command} --resume {path}"


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run."""

    path: Path

    @classmethod
    def create(cls, path: str | None, name: str, *, resumes: bool = True) -> RunFolder:
        """Create an empty run folder.

        Args:
            path: Path of the folder; None creates the next free `runs/NAME-N`.
            name: Name prefix below `runs/`.
            resumes: Whether the command supports --resume.
        """
        if path is not None:
            return cls(new_folder(Path(path), resumes=resumes))
        number = 1
        while True:
            candidate = Path("runs") / f"{slug(name)}-{number}"
            try:
                candidate.mkdir(parents=True)  # atomic: runs that start together get different numbers
            except FileExistsError:
                if os.path.lexists(candidate):
                    number += 1
                    continue
            except OSError:
                pass  # `new_folder` raises with a message
            return cls(new_folder(candidate))

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Return an existing run.

        Raises:
            StorageError: The folder is not a run folder, or of an earlier version.
        """
        run = cls(Path(path))
        if run.is_begun():
            return run
        if any((run.path / name).is_file() for name in _EARLIER_FILES):
            raise StorageError(f"{path} has no {RECORD}, so an earlier version of Tercet wrote it: use that one")
        raise StorageError(f"{path} is not a run folder: it has no {RECORD}")

    def is_begun(self) -> bool:
        """Return whether the folder has its `run.json`."""
        return (self.path / RECORD).is_file()

    def begin(self, record: RunRecord) -> None:
        """Write the first file of the run; the caller must hold the lock.

        Raises:
            StorageError: Another process has used the folder meanwhile.
        """
        if self.is_begun():
            raise StorageError(f"{self.path} was created by another process: choose another --output")
        self.remove_unfinished()
        self.write_record(record)

    def write_record(self, record: RunRecord) -> None:
        """Write or replace `run.json`."""
        write_json(self.path / RECORD, asdict(record))

    def record(self) -> RunRecord:
        """Read `run.json`.

        Raises:
            ModelError: The file is damaged.
        """
        try:
            return RunRecord(**read_json(self.path / RECORD))
        except TypeError as error:
            raise ModelError(f"{self.path / RECORD} is damaged: {error}") from error

    def write_results(self, metrics: Mapping[str, Any], report: str) -> None:
        """Write `metrics.json` and `report.txt`, the last files of a run."""
        write_json(self.metrics, metrics)
        write_text(self.report, report)

    @property
    def samples(self) -> Path:
        """Table of samples with their splits."""
        return self.path / "samples.csv"

    @property
    def images(self) -> Path:
        """Files of the images: see `data.image_store`."""
        return self.path / "images"

    @property
    def plan(self) -> Path:
        """Resolved members, and the properties of the data that they need."""
        return self.path / "plan.json"

    @property
    def metrics(self) -> Path:
        """All scores."""
        return self.path / "metrics.json"

    @property
    def report(self) -> Path:
        """Text report."""
        return self.path / "report.txt"

    @property
    def bundle(self) -> Path:
        """The selected ensemble."""
        return self.path / "bundle"

    def member(self, name: str) -> MemberFolder:
        """Return the folder of a member."""
        return MemberFolder(self.path / "members" / slug(name))

    def predictions(self, name: str, split: str) -> Path:
        """Return the file for the predictions of a member or ensemble method on a split."""
        return self.path / "predictions" / f"{slug(name)}-{split}.npz"

    def lock(self) -> AbstractContextManager[None]:
        """Return the lock of this run; acquiring it raises StorageError if another process holds it."""

        def raise_busy(owner: str) -> None:
            raise StorageError(f"process {owner} works on {self.path}: wait for it, or choose another --output")

        return file_lock(self.path / ".lock", busy=raise_busy)

    def remove_unfinished(self) -> None:
        """Delete temporary files of a killed process; the caller must hold the lock."""
        for path in [*self.path.rglob(f"{UNFINISHED_PREFIX}*"), *self.path.rglob(".*.tmp")]:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    @contextmanager
    def delete_if_invalid(self) -> Iterator[None]:
        """Delete the run on errors of the caller's, so that the corrected command can use the same folder."""
        try:
            yield
        except (ConfigError, DataError, ModelError, PartError):
            shutil.rmtree(self.path, ignore_errors=True)
            raise


@dataclass(frozen=True)
class MemberFolder:
    """Paths of one member."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        """Training checkpoints."""
        return self.path / "checkpoints"

    @property
    def bundle(self) -> Path:
        """Bundle of this member only."""
        return self.path / "bundle"

    @property
    def done(self) -> Path:
        """Summary of the finished training; written last."""
        return self.path / "member.json"

    @property
    def predictions(self) -> Path:
        """Predictions of a fold training on its held-out fold."""
        return self.path / "predictions.npz"

    def level(self, views: str, split: str) -> Path:
        """Return the file for predictions with one variant of test-time augmentation, kept until one is selected."""
        return self.path / "tta" / slug(views) / f"{split}.npz"

    def fold(self, index: int) -> MemberFolder:
        """Return the folder of the training that holds out a fold."""
        return MemberFolder(self.path / "folds" / str(index + 1))

    def folds(self) -> list[MemberFolder]:
        """Return the existing folders of fold trainings."""
        return [MemberFolder(path) for path in sorted(self.path.glob("folds/*"))]

    def finished(self) -> bool:
        """Return whether the training of the member is complete."""
        return self.done.is_file()

    def summary(self) -> dict[str, Any]:
        """Return the summary written by `finish`."""
        summary: dict[str, Any] = read_json(self.done)
        return summary

    def finish(self, summary: dict[str, Any]) -> None:
        """Write the summary, which marks the member as complete; then its checkpoints are not needed any more."""
        write_json(self.done, summary)
        shutil.rmtree(self.checkpoints, ignore_errors=True)
