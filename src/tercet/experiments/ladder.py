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
from tercet.data.data_module import DataModule
from tercet.experiments.estimate import Estimator, members_within
from tercet.experiments.jobs import print_data, raise_failures, split_sizes, train_waiting
from tercet.experiments.ladder_plan import PROBE, start_rung
from tercet.experiments.plan import Plan, Rung
from tercet.experiments.task import task_of
from tercet.metrics.metric import describe_metric
from tercet.metrics.significance import mcnemar
from tercet.metrics.table import Table, duration
from tercet.models.heads import FITTED
from tercet.models.members import is_pretrained
from tercet.models.registry import has_fitted_head

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
        name = self.metric()
        if name is None:
            return "-"
        low, high = (self.validation.get(f"{name}_{end}", math.nan) for end in ("low", "high"))
        return f"{self.validation[name]:.4f} ({low:.4f} to {high:.4f})"

    def metric(self) -> str | None:
        """Return the name of the main score."""
        return next((name for name in ("accuracy", "o_f1") if name in self.validation), None)

    def errors(self) -> int | None:
        """Return the number of misclassified validation images; None for multi-label data."""
        return round((1 - self.validation["accuracy"]) * self.validation["n"]) if self.metric() == "accuracy" else None

    def describe(self) -> str:
        """Return the result in one line, for a reader who does not know the rungs."""
        name, images = self.metric(), count(int(self.validation.get("n", 0)), "validation image")
        title = describe_metric(name).title if name else "score"
        low, high = (self.validation.get(f"{name}_{end}", math.nan) for end in ("low", "high"))
        value = f"{self.validation[name]:.4f} (95 % interval {low:.4f} to {high:.4f})" if name else "-"
        return f"{self.rung} finished after {duration(self.seconds)}: {title} {value} by {self.chosen} on {images}"


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
                metrics, report = task_of(self.plan).finalize(self.run, self.plan, self.prepared)
            row = self.record(metrics, time.monotonic() - began)
            line = f"{row.describe()}; bundle: {self.run.bundle}"
            results = self.with_rungs(metrics, report)
            self.run.write_results(*results)
            if not self.plan.rungs:
                print_status(self.console, line)
                return results
            waiting = self.plan.rungs[0]
            reason = self.start_next()
            if not reason:
                print_status(self.console, f"{line}; {self.describe_next(row)}")
                continue
            status = f"not trained: {reason}"
            print_status(self.console, f"{line}; {waiting.name} {status}")
            self.results.append(RungResult(waiting.name, [member.name for member in waiting.members], status))
            return self.with_rungs(metrics, report)

    def record(self, metrics: Mapping[str, Any], seconds: float) -> RungResult:
        """Add the result of the rung, and return it."""
        assert self.plan.rung is not None
        models = [*metrics["members"], *metrics["ensembles"]]
        chosen = next(model for model in models if model["name"] == metrics["chosen"])
        before = {name for row in self.results for name in row.members if row.rung != self.plan.rung}
        names = [member.name for member in self.plan.members if member.name not in before]
        earlier = next((result.seconds for result in self.results if result.rung == self.plan.rung), None)
        seconds = seconds if earlier is None else earlier  # this process has only read what another one trained
        row = RungResult(self.plan.rung, names, "finished", seconds, metrics["chosen"], dict(chosen["validation"]))
        self.results = [*(result for result in self.results if result.rung != row.rung), row]
        return row

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

    def start_next(self) -> str:
        """Move the members of the next rung into the plan; return why not, empty if so."""
        rung, *later = self.plan.rungs
        if reason := self.reason_to_stop(rung):
            return reason
        members, left = self.divide(rung)
        fitting = members_within(self.plan, members, self.config.remaining(self.started), self.estimator)
        if not fitting:
            needed = min(self.estimator.least_seconds(self.plan, member) for member in members)
            left_time = duration(max(0.0, self.config.remaining(self.started)))
            return f"{left_time} of the time budget are left, and it takes about {duration(needed)}"
        if later:
            later[0] = replace(later[0], members=(*left, *later[0].members))
        elif left:
            later = [Rung("ensemble", tuple(left))]
        self.plan = start_rung(self.plan, rung.name, fitting, later)
        self.plan.save(self.run)
        return ""

    def reason_to_stop(self, rung: Rung) -> str:
        """Return why the next rung is not worth its time, empty if it is."""
        best, errors = self.results[-1].validation, self.results[-1].errors()
        if self.config.stop_at is not None:
            return (
                f"--stop-at {self.config.stop_at}" if RUNGS.index(rung.name) > RUNGS.index(self.config.stop_at) else ""
            )
        if self.complete or errors is None or mcnemar(errors, 0) <= _LEVEL or errors > _SMALL_ERROR * best["n"]:
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
        """Print the data, and the rungs with their members and estimated times."""
        if all(self.run.member(member.name).finished() for member in self.plan.members) and not self.plan.rungs:
            return
        print_data(self.plan, split_sizes(self.prepared), self.console)
        end = "" if self.complete else "; it ends early if no further model could be shown to be better"
        print_status(self.console, f"plan, from cheap to expensive models{end}; Ctrl-C keeps the best so far:")
        rungs, left = [Rung(self.plan.rung or "probe", self.plan.members), *self.plan.rungs], 0.0
        for rung in rungs:
            waiting = [member for member in rung.members if not self.run.member(member.name).finished()]
            with phase(self.console, "estimating the time of the trainings"):
                seconds = [self.estimator.seconds(self.plan, member) for member in waiting]
            members, total = [_describe(member) for member in waiting], sum(seconds)
            if rung.name == "fine-tune" and len(waiting) > 1:  # the others are left to the next rung
                best = "the first" if self.plan.multilabel else "the best, by its probe,"
                members, total, left = [f"{best} of {', '.join(members)}"], max(seconds), total - max(seconds)
            elif left:
                members, total, left = ["the others of these", *members], total + left, 0.0
            if members:
                print_status(self.console, f"  {rung.name}: {', '.join(members)}; {_about(total)}")
        if left:
            print_status(self.console, f"  ensemble: the others of these; {_about(left)}")

    def describe_next(self, row: RungResult) -> str:
        """Return what the rung that starts costs, and what it can gain at most."""
        members = [member for member in self.plan.members if not self.run.member(member.name).finished()]
        seconds = sum(self.estimator.seconds(self.plan, member) for member in members)
        errors = row.errors()
        gain = "" if errors is None else f", and can correct at most {count(errors, 'error')}"
        return f"next, {self.plan.rung} of {', '.join(member.name for member in members)}: {_about(seconds)}{gain}"


def _describe(member: MemberConfig) -> str:
    """Return the name of a member, what is trained, and where its weights come from."""
    weights = f"weights: {member.model.weights or 'published'}"
    pretrained = is_pretrained(member.network, member.model)
    if has_fitted_head(member.network, member.model):
        head = member.model.head if member.model.head in FITTED else "logistic"
        inputs = f"features of the frozen network, {weights}" if pretrained else "the pixels"
        return f"{member.name} ({head} head, fitted on {inputs})"
    return f"{member.name} ({weights if pretrained else 'from scratch'})"


def _about(seconds: float) -> str:
    return f"about {duration(seconds)}" if seconds >= 1 else "about a second"


def _rank(scores: Mapping[str, float] | None) -> tuple[float, float]:
    """Return a key that is higher for better probes."""
    return (scores["accuracy"], -scores["log_loss"]) if scores else (-1.0, 0.0)
