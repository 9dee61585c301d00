"""The ladder of `train`: a probe, then a fine-tuned network, then an ensemble, as far as the time allows and it pays.

Every rung ends with metrics, a report and a bundle of the best model so far. The ladder ends before a rung that the
time budget does not allow, or if the best model makes so few errors on validation that no other could be shown to be
better.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from rich.console import Console

from tercet.config.presets import RUNGS, LadderConfig
from tercet.config.run import MemberConfig
from tercet.core.errors import Interrupted, TercetError, to_interrupted
from tercet.core.files import read_json
from tercet.core.output import count
from tercet.core.progress import phase, print_status
from tercet.core.run_folder import RunFolder
from tercet.core.runtime import plan_threads
from tercet.data.data_module import DataModule
from tercet.experiments.estimate import Estimator, members_within
from tercet.experiments.jobs import raise_failures, train_waiting
from tercet.experiments.ladder_plan import PROBE
from tercet.experiments.plan import Plan, Rung
from tercet.experiments.task import task_of
from tercet.metrics.significance import mcnemar
from tercet.metrics.table import Table, duration
from tercet.models.members import is_pretrained

_LEVEL = 0.05  # of significance
_SMALL_ERROR = 0.05
Results = tuple[Mapping[str, Any], str]


@dataclass(frozen=True)
class RungResult:
    """Result of a rung, for metrics and report."""

    rung: str
    members: list[str]
    status: str
    """`finished`, or why the ladder ended before it."""
    seconds: float | None = None
    chosen: str | None = None
    """The best model so far."""
    validation: Mapping[str, float] = field(default_factory=dict)
    """Its scores on validation."""

    def score(self) -> str:
        """Return the main score with its 95 % interval."""
        name = next((name for name in ("accuracy", "o_f1") if name in self.validation), None)
        if name is None:
            return "-"
        low, high = (self.validation.get(f"{name}_{end}", math.nan) for end in ("low", "high"))
        return f"{self.validation[name]:.4f} ({low:.4f} to {high:.4f})"


@dataclass
class Ladder:
    """Trains the rungs of a plan, from the one at which an interrupted run stopped.

    Args:
        run: The run folder.
        plan: Its plan.
        prepared: Its data.
        config: Time budget and last rung.
        complete: Climb all rungs, even if it does not pay.
        console: For progress.
    """

    run: RunFolder
    plan: Plan
    prepared: DataModule
    config: LadderConfig
    complete: bool
    console: Console
    results: list[RungResult] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.estimator = Estimator(self.prepared)
        if self.run.metrics.is_file():  # of the rungs that were finished before an interruption
            rows = [RungResult(**row) for row in read_json(self.run.metrics).get("ladder", [])]
            self.results = [row for row in rows if row.seconds is not None]
        earlier = sum(row.seconds or 0.0 for row in self.results)
        self.started = (self.plan.started or time.monotonic()) - earlier

    def climb(self) -> Results:
        """Train one rung after the other, and return metrics and report."""
        with self.keeping_best():
            self.print_plan()
            return self._climb()

    def _climb(self) -> Results:
        while True:
            began = time.monotonic()
            raise_failures(train_waiting(self.run, self.plan, self.prepared, self.console), self.run)
            with phase(self.console, "combining members"):
                metrics, report = task_of(self.plan).finalize(self.run, self.plan, self.prepared, self.console)
            self.record(metrics, time.monotonic() - began)
            results = self.with_rungs(metrics, report)
            self.run.write_results(*results)
            if not self.plan.rungs:
                return results
            reason = self.start_next()
            if reason:
                waiting = self.plan.rungs[0]
                members = [member.name for member in waiting.members]
                self.results.append(RungResult(waiting.name, members, f"not trained: {reason}"))
                print_status(self.console, f"{waiting.name} not trained: {reason}")
                return self.with_rungs(metrics, report)

    def record(self, metrics: Mapping[str, Any], seconds: float) -> None:
        """Add the result of the rung, and print it."""
        assert self.plan.rung is not None
        models = [*metrics["members"], *metrics["ensembles"]]
        chosen = next(model for model in models if model["name"] == metrics["chosen"])
        before = {name for row in self.results for name in row.members if row.rung != self.plan.rung}
        names = [member.name for member in self.plan.members if member.name not in before]
        earlier = next((result.seconds for result in self.results if result.rung == self.plan.rung), None)
        seconds = seconds if earlier is None else earlier  # this process has only read what another one trained
        row = RungResult(self.plan.rung, names, "finished", seconds, metrics["chosen"], dict(chosen["validation"]))
        self.results = [*(result for result in self.results if result.rung != row.rung), row]
        images = count(int(row.validation.get("n", 0)), "validation image")
        print_status(
            self.console,
            f"{row.rung}: {row.score()} on {images} by {row.chosen}, after {duration(seconds)}; "
            f"bundle: {self.run.bundle}",
        )

    def with_rungs(self, metrics: Mapping[str, Any], report: str) -> Results:
        """Return metrics and report with the rungs so far."""
        finished = [row for row in self.results if row.seconds is not None]
        cells = [[row.rung, row.score(), duration(row.seconds), str(row.chosen)] for row in finished]
        header = ["rung", "validation", "time", "best so far"]
        text = Table(header, cells, "lrrl", caption="from cheap to expensive models").to_text()
        text += "".join(f"{row.rung}: {row.status}\n" for row in self.results if row.seconds is None)
        return {**metrics, "ladder": [dict(row.__dict__) for row in self.results]}, f"{report}\n{text}"

    @contextmanager
    def keeping_best(self) -> Iterator[None]:
        """Name the bundle of the last finished rung in the message of an error."""
        try:
            yield
        except (TercetError, KeyboardInterrupt) as error:
            if isinstance(error, KeyboardInterrupt):
                error = to_interrupted(error, f"continue with --resume {self.run.path}")
            if not self.results:
                raise error from None
            message = f"{error}. The bundle of {self.results[-1].chosen} is complete: {self.run.bundle}"
            if isinstance(error, Interrupted):
                raise Interrupted(message, error.exit_code - 128) from None
            complete = TercetError(message)
            complete.exit_code = error.exit_code
            raise complete from error

    def remaining(self) -> float:
        """Return the seconds that are left of the budget; infinite without one."""
        if self.config.seconds is None:
            return math.inf
        return self.config.seconds - (time.monotonic() - self.started)

    def start_next(self) -> str:
        """Move the members of the next rung into the plan; return why not, empty if so."""
        rung, *later = self.plan.rungs
        if reason := self.reason_to_stop(rung):
            return reason
        members, left = self.divide(rung)
        fitting = members_within(self.plan, members, self.remaining(), self.estimator)
        if not fitting:
            needed = min(self.estimator.least_seconds(self.plan, member) for member in members)
            left_time = duration(max(0.0, self.remaining()))
            return f"{left_time} of the time budget are left, and it takes about {duration(needed)}"
        if later:
            later[0] = replace(later[0], members=(*left, *later[0].members))
        elif left:
            later = [Rung("ensemble", tuple(left))]
        config = self.plan.run
        threads = plan_threads(len(fitting), threads=config.threads, device=self.plan.device).threads
        members = (*self.plan.members, *fitting)
        self.plan = replace(self.plan, members=members, rung=rung.name, rungs=tuple(later), threads=threads)
        self.plan.save(self.run)
        return ""

    def reason_to_stop(self, rung: Rung) -> str:
        """Return why the next rung is not worth its time, empty if it is."""
        best = self.results[-1].validation
        if self.config.stop_at is not None:
            return (
                f"--stop-at {self.config.stop_at}" if RUNGS.index(rung.name) > RUNGS.index(self.config.stop_at) else ""
            )
        if self.complete or "accuracy" not in best:
            return ""
        errors = round((1 - best["accuracy"]) * best["n"])
        if mcnemar(errors, 0) <= _LEVEL or errors > _SMALL_ERROR * best["n"]:
            return ""
        images = count(int(best["n"]), "validation image")
        return (
            f"{count(errors, 'error')} in {images}, so no model can be shown to be better; to train it anyway: "
            f"tercet train --resume {self.run.path} --stop-at {rung.name}"
        )

    def divide(self, rung: Rung) -> tuple[Sequence[MemberConfig], Sequence[MemberConfig]]:
        """Return the members to train now and those to train later: a single network is fine-tuned first."""
        if rung.name != "fine-tune":
            return rung.members, ()
        metrics = read_json(self.run.metrics)["members"]
        scores = {row["name"]: row["validation"] for row in metrics}
        first = max(rung.members, key=lambda member: _rank(scores.get(f"{member.name}{PROBE}")))
        return [first], [member for member in rung.members if member is not first]

    def print_plan(self) -> None:
        """Print the rungs with estimated times."""
        current = Rung(self.plan.rung or "probe", self.plan.members)
        for rung in (current, *self.plan.rungs):
            waiting = [member for member in rung.members if not self.run.member(member.name).finished()]
            if waiting:
                seconds = sum(self.estimator.seconds(self.plan, member) for member in waiting)
                members = ", ".join(map(_describe, waiting))
                print_status(self.console, f"plan: {rung.name} of {members}; about {duration(seconds)}")


def _describe(member: MemberConfig) -> str:
    """Return the name of a member and where its weights come from."""
    if not is_pretrained(member.network, member.model):
        return member.name
    return f"{member.name} (weights: {member.model.weights or 'published'})"


def _rank(scores: Mapping[str, float] | None) -> tuple[float, float]:
    """Return a key that is higher for better probes."""
    return (scores["accuracy"], -scores["log_loss"]) if scores else (-1.0, 0.0)
