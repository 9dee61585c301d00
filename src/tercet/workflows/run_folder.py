"""The folder of a run: where everything is, and nothing is overwritten silently.

RUN/
  config.yaml  environment.json  samples.csv  images/      what was asked, where, of what
  members/NAME/{checkpoints/ history.jsonl train.log tensorboard/ bundle/ member.json}
  predictions/{NAME,METHOD}-{validation,test}.npz
  metrics.json  report.txt  bundle/                         what came out
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tercet.ground.errors import StorageError
from tercet.ground.files import new_folder, read_json, slug, write_json


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run."""

    path: Path

    @classmethod
    def create(cls, path: str | None, name: str) -> RunFolder:
        """Make an empty run folder: the one asked for, or the next free one under `runs/`."""
        if path is not None:
            return cls(new_folder(Path(path)))
        number = 1
        while (candidate := Path("runs") / f"{slug(name)}-{number}").exists():
            number += 1
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

    def lock(self) -> RunLock:
        """Return a lock that a second process on this run is refused."""
        return RunLock(self.path / ".lock")


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

    def fold(self, index: int) -> MemberFolder:
        """Return the folder of this member's training without one fold."""
        return MemberFolder(self.path / "folds" / str(index + 1))

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


class RunLock:
    """A file with the process number of the one that works on a run; a dead owner's lock is taken over."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> RunLock:
        for _ in range(2):
            try:
                descriptor = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            except FileExistsError:
                owner = self.path.read_text("utf-8").strip()
                if owner.isdigit() and _alive(int(owner)):
                    raise StorageError(
                        f"process {owner} works on {self.path.parent}: wait for it, or choose another --output"
                    ) from None
                self.path.unlink(missing_ok=True)
                continue
            with os.fdopen(descriptor, "w") as stream:
                stream.write(str(os.getpid()))
            return self
        raise StorageError(f"cannot lock {self.path.parent}: another process is starting on it")

    def __exit__(self, *_: object) -> None:
        self.path.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
