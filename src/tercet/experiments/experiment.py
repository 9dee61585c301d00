"""The common part of the commands that write a run folder: start or resume, prepare, work and report.

The order makes every moment safe to be killed at: `run.json` comes first, then the data, then the plan, by which a
resume sees that the preparation is complete; metrics and report come last.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

from rich.console import Console

from tercet.config.parser import CommandOptions, ParsedArguments
from tercet.config.run import DataConfig
from tercet.core.errors import ConfigError, StorageError, to_interrupted
from tercet.core.files import write_json
from tercet.core.progress import phase
from tercet.core.run_folder import RECORD, RunFolder, RunRecord, how_to_continue
from tercet.core.runtime import describe_environment
from tercet.data.in_memory import DataLike, data_name, resolve_data
from tercet.data.table import SampleTable
from tercet.experiments.custom_parts import require_parts, used_parts
from tercet.experiments.results import RunResult

_UNSTORED = frozenset({"resume", "json", "debug"})
State = TypeVar("State")
Result = TypeVar("Result", bound=RunResult)


@dataclass(frozen=True)
class Experiment(ABC, Generic[State, Result]):
    """One command on one source; subclasses say what differs."""

    source: str | Path | SampleTable
    """The positional argument, such as the data."""
    parsed: ParsedArguments

    command: ClassVar[str]
    """Name of the command."""
    options: ClassVar[CommandOptions]
    source_name: ClassVar[str] = "data"
    missing_source: ClassVar[str] = "give a folder of images, a table, a zip file or the name of a data set"
    """Advice if there is no source."""
    suffix: ClassVar[str] = ""
    """Added to the name of the data for the default folder."""
    changeable: ClassVar[frozenset[str]] = frozenset()
    """Options that a resume may change."""

    @classmethod
    def restore(cls, record: RunRecord, changes: Mapping[str, Any]) -> Self:
        """Return the experiment of a run folder, with changed options."""
        options = {**record.options, **changes}
        arguments = {name: options.pop(name, None) for name in cls._arguments()}
        parsed = cls.options.parse_object(options, source=RECORD)
        if record.given is not None:  # a preset changes only options that the user did not set
            parsed = replace(parsed, given=frozenset(record.given))
        return cls(str(record.source), parsed, **arguments)

    @classmethod
    def _arguments(cls) -> list[str]:
        """Return the names of the arguments that only this command has; `run.json` has them among the options."""
        return [field.name for field in fields(cls)][2:]

    def stored_options(self) -> dict[str, Any]:
        """Return the options for `run.json`."""
        arguments = {name: getattr(self, name) for name in self._arguments()}
        return {key: value for key, value in self.parsed.to_dict().items() if key not in _UNSTORED} | arguments

    def check(self) -> None:
        """Check the options before any data are read or anything is written."""

    @abstractmethod
    def prepare(self, run: RunFolder) -> State:
        """Read the data and write all that the work needs; the plan last."""

    @abstractmethod
    def reopen(self, run: RunFolder) -> State | None:
        """Read what `prepare` wrote; None if it was interrupted."""

    @abstractmethod
    def work(self, run: RunFolder, state: State, console: Console) -> Result:
        """Do what is not done yet, and return the results of all."""

    def start(self, console: Console) -> Result:
        """Create the folder and run the command in it.

        Raises:
            TercetError: See `tercet.core.errors`; an invalid command leaves no folder.
        """
        self.check()
        run = RunFolder.create(self.parsed.to_dict()["output"], f"{data_name(self.source)}{self.suffix}")
        with run.lock():
            options = self.stored_options()
            given = sorted(self.parsed.given)
            run.begin(RunRecord(self.command, str(self.source), options, custom=used_parts(options), given=given))
            with _explain_interruption(run):
                with run.delete_if_invalid(), phase(console, "loading images"):
                    state = self._prepare(run)
                return self._finish(run, state, console)

    @classmethod
    def resume(
        cls, path: str | Path, source: DataLike, parsed: ParsedArguments, console: Console, **more: Any
    ) -> Result:
        """Continue in an existing folder.

        Args:
            path: The run folder.
            source: The data, if given again.
            parsed: The options that were given again, or changed.
            console: For progress.
            **more: Arguments that only this command has; None if not given again.

        Raises:
            StorageError: The folder was written by another command.
            ConfigError: A value differs from that of the run and is not in `changeable`.
        """
        run = RunFolder.open(path)
        record = run.record()
        if record.command != cls.command:
            raise StorageError(f"{path} was created by tercet {record.command}: {how_to_continue(record, path)}")
        require_parts(run.path, record.custom)
        values = parsed.to_dict()
        given = {key: values[key] for key in sorted(parsed.given - _UNSTORED)}
        given |= {key: value for key, value in more.items() if value is not None}
        changed = [key for key in given if key not in cls.changeable and given[key] != record.options.get(key)]
        if source is not None and str(source) != record.source:
            changed.insert(0, cls.source_name)
        if changed:
            raise ConfigError(
                f"--resume continues with the options in {run.path / RECORD}: remove {', '.join(changed)}, or repeat "
                "the same values"
            )
        experiment = cls.restore(record, {key: given[key] for key in given if key in cls.changeable})
        with run.lock(), _explain_interruption(run):
            run.remove_unfinished()
            state = experiment.reopen(run)
            if state is None:
                with phase(console, "loading images"):
                    state = experiment._prepare(run)
            if (options := experiment.stored_options()) != record.options:
                run.write_record(replace(record, options=options))
            return experiment._finish(run, state, console)

    def _prepare(self, run: RunFolder) -> State:
        write_json(run.path / "environment.json", describe_environment())
        return self.prepare(run)

    def _finish(self, run: RunFolder, state: State, console: Console) -> Result:
        result = self.work(run, state, console)
        run.write_results(result.metrics, result.report)
        return result


@contextmanager
def _explain_interruption(run: RunFolder) -> Iterator[None]:
    """Say how to continue after a signal that arrived outside a training."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise to_interrupted(stop, f"continue with --resume {run.path}") from None


def run_experiment(
    kind: type[Experiment[Any, Result]],
    source: DataLike,
    parsed: ParsedArguments,
    *,
    resume: str | Path | None,
    console: Console,
    **arguments: Any,
) -> Result:
    """Start an experiment, or resume it; `arguments` are those that only this command has.

    Raises:
        ConfigError: There is neither a source nor a folder to resume.
    """
    if resume is not None:
        return kind.resume(resume, source, parsed, console, **arguments)
    if source is None:
        raise ConfigError(f"{kind.missing_source}, or --resume FOLDER")
    if not isinstance(source, (str, Path)):
        source = resolve_data(source, parsed.of(DataConfig))
    return kind(source, parsed, **arguments).start(console)
