"""What a comparison found: scores over seeds, tests against the baseline, costs, and how the errors differ.

Nothing is chosen by test scores: the baseline is named beforehand, and `chosen` goes by validation.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from tercet.evaluation.diversity import Difficulty, difficulty, diversity, hard_pairs
from tercet.evaluation.metrics import is_better, score
from tercet.evaluation.repeated import compare_seeds, rightness
from tercet.evaluation.significance import holm
from tercet.evaluation.spread import spread_of
from tercet.records.history import History
from tercet.records.predictions import Predictions
from tercet.records.training_config import Monitor
from tercet.workflows.compare.grid import member_name
from tercet.workflows.train.fusing import TrainedMember, read_members
from tercet.workflows.train.run_folder import RunFolder

_SCORES = ("accuracy", "macro_f1", "kappa", "log_loss")
_SPREAD = ("train_accuracy", "updates", "seconds_per_epoch", "seconds", "images_per_second")
_OF_THE_NETWORK = ("parameters", "trainable", "buffers", "flops", "input")


@dataclass(frozen=True)
class Contender:
    """One network of a comparison with its finished trainings."""

    name: str
    """Name in the grid."""
    trainings: Mapping[int, TrainedMember]
    """By seed; those that failed are absent."""

    def said(self, split: str, seeds: Sequence[int] | None = None) -> list[Predictions]:
        """Return the predictions on a split, of all seeds or of some."""
        return [self.trainings[seed].predictions[split] for seed in seeds or self.trainings]

    def scored(self, split: str) -> bool:
        """Tell whether there is a training, and the split has labels."""
        return all(split in one.predictions and one.predictions[split].known.any() for one in self.trainings.values())


def read_contenders(run: RunFolder, names: Sequence[str], seeds: Sequence[int]) -> list[Contender]:
    """Read what is finished of every network."""
    contenders = []
    for name in names:
        done = [seed for seed in seeds if run.member(member_name(name, seed)).finished()]
        members = read_members(run, [member_name(name, seed) for seed in done], ("validation", "test"))
        contenders.append(Contender(name, dict(zip(done, members, strict=True))))
    return contenders


def tested_split(contenders: Sequence[Contender]) -> str:
    """Return test where its labels are known, else validation."""
    trained = [one for one in contenders if one.trainings]
    return "test" if trained and all(one.scored("test") for one in trained) else "validation"


def compare_contenders(contenders: Sequence[Contender], *, baseline: str, monitor: Monitor) -> dict[str, Any]:
    """Return the findings as plain values: `networks`, `pairs`, `easy`, `hard`, `chosen`, `tested_on`.

    Args:
        contenders: The networks; those without a finished training have a name and nothing else in the answer.
        baseline: The network that the others are tested against.
        monitor: What chooses, on validation.
    """
    split = tested_split(contenders)
    trained = [one for one in contenders if one.trainings]
    base = next((one for one in trained if one.name == baseline), None)
    rows = {one.name: {"name": one.name, "seeds": list(one.trainings), **_results(one, split)} for one in contenders}
    tests: dict[str, dict[str, Any]] = {}
    for one in trained:
        shared = [] if base is None or one is base else [seed for seed in one.trainings if seed in base.trainings]
        if base is not None and shared:
            tests[one.name] = compare_seeds(one.said(split, shared), base.said(split, shared)).to_dict()
    for adjusted, found in zip(holm([each["p_value"] for each in tests.values()]), tests.values(), strict=True):
        found["p_holm"] = adjusted
    pairs = _pairs(trained, split)
    for name, row in rows.items():
        row["against_baseline"] = tests.get(name)
        row["errors"] = _beside(pairs, name, baseline)
    hardness = hardness_of(trained, split)
    return {
        "tested_on": split,
        "networks": list(rows.values()),
        "pairs": pairs,
        "easy": _images(hardness, hardness.easy) if hardness else None,
        "hard": _images(hardness, hardness.hard) if hardness else None,
        "chosen": _best(trained, monitor),
    }


def hardness_of(contenders: Sequence[Contender], split: str) -> Difficulty | None:
    """Return how many of all trainings get each image right; None where nothing is trained."""
    said = [each for one in contenders for each in one.said(split)]
    return difficulty(said) if said else None


def right_by_network(contenders: Sequence[Contender], split: str) -> dict[str, list[int]]:
    """Return, by network, how many of its trainings get each labelled image right."""
    return {one.name: rightness(one.said(split)).sum(axis=1).tolist() for one in contenders if one.trainings}


def _images(hardness: Difficulty, ids: Sequence[str]) -> dict[str, Any]:
    return {"n": len(hardness.ids), "count": len(ids), "ids": list(ids)}


def _results(contender: Contender, split: str) -> dict[str, Any]:
    """Return scores and costs, over seeds and of each training; nothing where nothing is finished."""
    if not contender.trainings:
        return {}
    trainings = [_training(seed, member) for seed, member in contender.trainings.items()]
    summary = next(iter(contender.trainings.values())).summary
    found: dict[str, Any] = {key: summary[key] for key in _OF_THE_NETWORK}
    found |= {key: spread_of([one[key] for one in trainings]) for key in _SPREAD}
    for part in ("validation", "test"):
        if contender.scored(part):
            found[part] = {key: spread_of([one[part][key] for one in trainings]) for key in _SCORES}
    own = list(combinations(contender.said(split), 2))
    return {
        **found,
        "own_agreement": diversity(own).agreement if own else None,
        "hard_pairs": hard_pairs(contender.said(split)) if contender.scored(split) else [],
        "trainings": trainings,
    }


def _training(seed: int, member: TrainedMember) -> dict[str, Any]:
    history = History.load(member.folder.path / "history.jsonl")
    summary = member.summary
    scores = {split: score(said).to_dict() for split, said in member.predictions.items() if said.known.any()}
    return {
        "seed": seed,
        "member": member.name,
        "train_accuracy": summary["train_accuracy"],
        **scores,
        "updates": summary["steps"],
        "seconds_per_epoch": statistics.median(history.column("seconds")),
        "seconds": summary["seconds"],
        "images_per_second": summary["images_per_second"],
        "best": summary["best"],
    }


def _pairs(contenders: Sequence[Contender], split: str) -> list[dict[str, Any]]:
    """Return how every two networks differ, mean over the seeds that both have; pairs without one are left out."""
    rows = []
    for a, b in combinations(contenders, 2):
        shared = [seed for seed in a.trainings if seed in b.trainings]
        if shared:
            pairs = list(zip(a.said(split, shared), b.said(split, shared), strict=True))
            rows.append({"a": a.name, "b": b.name, **diversity(pairs).to_dict()})
    return rows


def _beside(pairs: Sequence[Mapping[str, Any]], name: str, baseline: str) -> dict[str, Any] | None:
    """Return the pair of a network and the baseline, the network as `a`."""
    for pair in pairs:
        if (pair["a"], pair["b"]) == (name, baseline):
            return dict(pair)
        if (pair["a"], pair["b"]) == (baseline, name):
            return {**pair, "a": name, "b": baseline, "only_a": pair["only_b"], "only_b": pair["only_a"]}
    return None


def _best(contenders: Sequence[Contender], monitor: Monitor) -> str | None:
    """Return the network whose mean validation score is best; the first at equal scores."""
    best: tuple[str | None, dict[str, float] | None] = (None, None)
    for one in contenders:
        scores = [score(said).monitored() for said in one.said("validation")]
        means = {key: statistics.fmean(each[key] for each in scores) for key in scores[0]}
        if is_better(monitor, means, best[1]):
            best = (one.name, means)
    return best[0]
