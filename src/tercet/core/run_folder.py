"""The folder of a run: where everything is, and nothing is overwritten silently.

RUN/
  config.yaml  environment.json  samples.csv  images/      what was asked, where, of what
  members/NAME/{checkpoints/ history.jsonl train.log tensorboard/ tta/ bundle/ member.json}
  predictions/{NAME,METHOD}-{validation,test}.npz
  metrics.json  report.txt  bundle/                         what came out
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tercet.core.errors import ConfigError, DataError, StorageError
from tercet.core.files import UNFINISHED_PREFIX, new_folder, read_json, slug, write_json
from tercet.core.locks import FileLock


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run."""

    path: Path

    @classmethod
    def create(cls, path: str | None, name: str, *, resumes: bool = True) -> RunFolder:
        """Make an empty run folder: the one asked for, or the next free one under `runs/`.

        Args:
            path: Where, if it was said.
            name: Beginning of the folder's name under `runs/`.
            resumes: Whether the verb can continue what it began.
        """
        if path is not None:
            return cls(new_folder(Path(path), resumes=resumes))
        number = 1
        while True:
            candidate = Path("runs") / f"{slug(name)}-{number}"
            try:
                candidate.mkdir(parents=True)  # of runs that start together, one gets each number
            except FileExistsError:
                if os.path.lexists(candidate):
                    number += 1
                    continue
            except OSError:
                pass  # `new_folder` says what is wrong
            return cls(new_folder(candidate))

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Return an existing run.

        Raises:
            StorageError: The folder is no run.
        """
        run = cls(Path(path))
        if not run.config.is_file():
            raise StorageError(f"{path} is not a run folder: it has no config.yaml")
        return run

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def samples(self) -> Path:
        """The table of samples with their splits."""
        return self.path / "samples.csv"

    @property
    def images(self) -> Path:
        """The decoded images that the members share."""
        return self.path / "images"

    @property
    def plan(self) -> Path:
        """The resolved members and what they need to know of the data."""
        return self.path / "plan.json"

    @property
    def metrics(self) -> Path:
        """All scores."""
        return self.path / "metrics.json"

    @property
    def report(self) -> Path:
        """The report as text."""
        return self.path / "report.txt"

    @property
    def bundle(self) -> Path:
        """The chosen ensemble."""
        return self.path / "bundle"

    def member(self, name: str) -> MemberFolder:
        """Return a member's folder."""
        return MemberFolder(self.path / "members" / slug(name))

    def predictions(self, name: str, split: str) -> Path:
        """Return where the predictions of a member or method on a split are."""
        return self.path / "predictions" / f"{slug(name)}-{split}.npz"

    def lock(self) -> FileLock:
        """Return a lock that a second process on this run is refused."""

        def refuse(owner: str) -> None:
            raise StorageError(f"process {owner} works on {self.path}: wait for it, or choose another --output")

        return FileLock(self.path / ".lock", busy=refuse)

    def remove_unfinished(self) -> None:
        """Delete what a process that was killed left half written; only for the one that holds the lock."""
        for path in [*self.path.rglob(f"{UNFINISHED_PREFIX}*"), *self.path.rglob(".*.tmp")]:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    @contextmanager
    def beginning(self) -> Iterator[None]:
        """Delete the run where options or data are refused: the corrected command may name the same folder."""
        try:
            yield
        except (ConfigError, DataError):
            shutil.rmtree(self.path, ignore_errors=True)
            raise


@dataclass(frozen=True)
class MemberFolder:
    """Paths of one member."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        """Where the training saves itself."""
        return self.path / "checkpoints"

    @property
    def bundle(self) -> Path:
        """The member alone, ready to predict."""
        return self.path / "bundle"

    @property
    def done(self) -> Path:
        """Written last: what the finished member cost."""
        return self.path / "member.json"

    @property
    def predictions(self) -> Path:
        """What the training without one fold says of that fold."""
        return self.path / "predictions.npz"

    def level(self, views: str, split: str) -> Path:
        """Return where the predictions at one level of test-time augmentation wait until a level is chosen."""
        return self.path / "tta" / slug(views) / f"{split}.npz"

    def fold(self, index: int) -> MemberFolder:
        """Return the folder of this member's training without one fold."""
        return MemberFolder(self.path / "folds" / str(index + 1))

    def folds(self) -> list[MemberFolder]:
        """Return the folders of the trainings without one fold, as far as they exist."""
        return [MemberFolder(path) for path in sorted(self.path.glob("folds/*"))]

    def finished(self) -> bool:
        """Tell whether the member was trained to the end."""
        return self.done.is_file()

    def summary(self) -> dict[str, Any]:
        """Return what `finish` wrote."""
        summary: dict[str, Any] = read_json(self.done)
        return summary

    def finish(self, summary: dict[str, Any]) -> None:
        """Record that the member is complete."""
        write_json(self.done, summary)


def command_of(document: Mapping[str, Any], place: Path) -> str:
    """Return the command that wrote a folder: train, ensemble, compare, crossval, tune or reproduce."""
    if "recipe" in document:
        return "reproduce"
    if "pooled" in document:
        return "crossval"
    if "trials" in document:
        return "tune"
    return str(
        document.get("kind")
        or ("train" if any((place / left).exists() for left in ("plan.json", "members")) else "ensemble")
    )
