"""The model that a run ships, and members at chance level, which are not combined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tercet.core.output import printable
from tercet.core.predictions import Predictions
from tercet.ensemble.choice import MEMBER, Candidate, Choice, choose_among, complexity
from tercet.experiments.fit_ensemble import FittedEnsemble, TrainedMember, is_fitted_on_one_group
from tercet.experiments.plan import Plan
from tercet.metrics.classification import score
from tercet.metrics.paired import ChanceTest, chance_test


@dataclass(frozen=True)
class ChanceLevel:
    """Members whose validation accuracy is not better than chance."""

    tests: Mapping[str, ChanceTest]
    """By name; empty if all members are better."""
    left_out: bool
    """Whether these members are left out of all combinations and of the choice."""
    reason: str = ""
    """Why they are not left out."""

    def keeps(self, name: str) -> bool:
        """Whether a member is combined."""
        return not self.left_out or name not in self.tests

    def to_list(self) -> list[dict[str, Any]]:
        """Return plain values for JSON, a row for each member at chance level."""
        return [{"name": name, **test.to_dict(), "left_out": self.left_out} for name, test in self.tests.items()]

    def to_text(self) -> str:
        """Return the note of the report, a line for each member at chance level."""
        lines = [
            f"{printable(name)} is at chance level on validation: accuracy {test.accuracy:.4f}, of guesses with the "
            f"same class frequencies {test.expected:.4f} (n = {test.rows}, p = {test.p_value:.2g})."
            for name, test in self.tests.items()
        ]
        end = "Members at chance level are not combined." if self.left_out else self.reason
        return "".join(f"{line}\n" for line in (*lines, end) if line) if lines else ""


def members_at_chance(plan: Plan, predictions: Mapping[str, Predictions]) -> ChanceLevel:
    """Test the members of a run by their predictions on validation images.

    None is left out if all are at chance level, if there is only one, or with `fusion.choose best`.
    """
    tests = {name: test for name, rows in predictions.items() if (test := chance_test(rows)).at_chance}
    if len(tests) == len(predictions):
        several = "All members are at chance level: none was left out." if len(tests) > 1 else ""
        return ChanceLevel(tests, False, several)
    if plan.fusion.choose == "best":
        return ChanceLevel(tests, False, "Not left out of combinations, because of fusion.choose best.")
    return ChanceLevel(tests, True)


def best_member(members: Sequence[TrainedMember], plan: Plan) -> TrainedMember:
    """Return the member with the best score on the monitored split."""
    candidates = [_of_member(member, plan) for member in members]
    name = choose_among(candidates, (), plan.monitor, "best", requested=(), split=plan.monitor_split).shipped.name
    return next(member for member in members if member.name == name)


def choose_model(
    members: Sequence[TrainedMember],
    ensembles: Sequence[FittedEnsemble],
    plan: Plan,
    groups: tuple[str, ...] | None,
) -> Choice:
    """Choose among members and ensembles on the monitored split; see `choose_simplest`.

    Ensembles fitted on a single group of validation rows are not considered, unless such a method is the only one that
    was requested.
    """
    split = plan.monitor_split
    fair = [ensemble for ensemble in ensembles if split != "validation" or not is_fitted_on_one_group(ensemble, groups)]
    single = [_of_member(member, plan) for member in members]
    methods = plan.run.ensemble_methods
    considered = fair if fair or len(methods) > 1 else ensembles
    combined = [
        Candidate(ensemble.method, complexity(ensemble.method), rows := ensemble.predictions[split], score(rows))
        for ensemble in considered
    ]
    return choose_among(single, combined, plan.monitor, plan.fusion.choose, requested=methods, split=split)


def _of_member(member: TrainedMember, plan: Plan) -> Candidate:
    predictions = member.predictions[plan.monitor_split]
    return Candidate(member.name, MEMBER, predictions, score(predictions))
