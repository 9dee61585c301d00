"""Results of compare: tables, paired tests and metrics.json."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from tercet.config.training import Monitor
from tercet.core.files import csv_text, write_text
from tercet.core.history import History
from tercet.core.predictions import Predictions
from tercet.core.run_folder import RunFolder
from tercet.core.streams import printable
from tercet.core.untrusted_files import untrusted
from tercet.experiments.compare_grid import member_name
from tercet.experiments.fit_ensemble import TrainedMember, read_members
from tercet.metrics.classification import is_better, score
from tercet.metrics.comparison_tables import tables_text
from tercet.metrics.seed_comparison import (
    Difficulty,
    compare_seeds,
    confused_class_pairs,
    correct_by_run,
    difficulty,
    diversity,
)
from tercet.metrics.significance import holm
from tercet.metrics.tables import spread_of

_SCORES = ("accuracy", "macro_f1", "kappa", "log_loss")
_SPREAD = ("train_accuracy", "updates", "seconds_per_epoch", "seconds", "images_per_second")
_OF_THE_NETWORK = ("parameters", "trainable", "buffers", "flops", "input")


@dataclass(frozen=True)
class ComparedNetwork:
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


def read_networks(run: RunFolder, names: Sequence[str], seeds: Sequence[int]) -> list[ComparedNetwork]:
    """Read what is finished of every network."""
    contenders = []
    for name in names:
        done = [seed for seed in seeds if run.member(member_name(name, seed)).finished()]
        members = read_members(run, [member_name(name, seed) for seed in done], ("validation", "test"))
        contenders.append(ComparedNetwork(name, dict(zip(done, members, strict=True))))
    return contenders


def tested_split(contenders: Sequence[ComparedNetwork]) -> str:
    """Return test where its labels are known, else validation."""
    trained = [one for one in contenders if one.trainings]
    return "test" if trained and all(one.scored("test") for one in trained) else "validation"


def compare_networks(contenders: Sequence[ComparedNetwork], *, baseline: str, monitor: Monitor) -> dict[str, Any]:
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
    hardness = difficulty_of(trained, split)
    return {
        "tested_on": split,
        "networks": list(rows.values()),
        "pairs": pairs,
        "easy": _images(hardness, hardness.easy) if hardness else None,
        "hard": _images(hardness, hardness.hard) if hardness else None,
        "chosen": _best(trained, monitor),
    }


def difficulty_of(contenders: Sequence[ComparedNetwork], split: str) -> Difficulty | None:
    """Return how many of all trainings get each image right; None where nothing is trained."""
    said = [each for one in contenders for each in one.said(split)]
    return difficulty(said) if said else None


def correct_by_network(contenders: Sequence[ComparedNetwork], split: str) -> dict[str, list[int]]:
    """Return, by network, how many of its trainings get each labelled image right."""
    return {one.name: correct_by_run(one.said(split)).sum(axis=1).tolist() for one in contenders if one.trainings}


def _images(hardness: Difficulty, ids: Sequence[str]) -> dict[str, Any]:
    return {"n": len(hardness.ids), "count": len(ids), "ids": list(ids)}


def _results(contender: ComparedNetwork, split: str) -> dict[str, Any]:
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
        "hard_pairs": confused_class_pairs(contender.said(split)) if contender.scored(split) else [],
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


def _pairs(contenders: Sequence[ComparedNetwork], split: str) -> list[dict[str, Any]]:
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


def _best(contenders: Sequence[ComparedNetwork], monitor: Monitor) -> str | None:
    """Return the network whose mean validation score is best; the first at equal scores."""
    best: tuple[str | None, dict[str, float] | None] = (None, None)
    for one in contenders:
        scores = [score(said).monitored() for said in one.said("validation")]
        means = {key: statistics.fmean(each[key] for each in scores) for key in scores[0]}
        if is_better(monitor, means, best[1]):
            best = (one.name, means)
    return best[0]


_SPREADS = (
    ("train_accuracy", ("train_accuracy",)),
    ("validation_accuracy", ("validation", "accuracy")),
    ("test_accuracy", ("test", "accuracy")),
    ("test_macro_f1", ("test", "macro_f1")),
    ("test_kappa", ("test", "kappa")),
    ("test_log_loss", ("test", "log_loss")),
    ("updates", ("updates",)),
    ("seconds_per_epoch", ("seconds_per_epoch",)),
    ("seconds", ("seconds",)),
    ("images_per_second", ("images_per_second",)),
)
_PLAIN = ("parameters", "trainable", "flops", "own_agreement")
_TEST = ("difference", "low", "high", "p_value", "p_holm")
_PAIR = ("agreement", "both", "only_a", "only_b", "neither", "disagreement")
_POINTS = "points: difference in {split} accuracy from the baseline, with its 95 % interval. p: "
_CROSSED = _POINTS + "images and seeds both taken as drawn by chance; below it Holm's correction for {count} test(s)."
_ONE_SEED = (
    _POINTS + "McNemar's exact test; below it Holm's correction for {count} test(s). One seed tells nothing about the "
    "luck of a seed: --seeds 3 would."
)
_COSTS = (
    "FLOPs: one image, forward, matrix products and convolutions, recurrent ones included; a multiply-add is two. "
    "s / epoch includes validation. Images / s: forward passes on {device} after training."
)


def report_text(metrics: Mapping[str, Any]) -> str:
    """Return the report of a comparison, from what `metrics.json` holds."""
    split, baseline, networks = metrics["tested_on"], metrics["baseline"], metrics["networks"]
    tested = [row for row in networks if row["against_baseline"]]
    trained = [row for row in networks if row["seeds"]]
    parts = []
    if metrics["protocol"]["monitor_split"] == "test":
        parts.append(
            "WARNING: epochs were chosen on the test split (monitor_split: test): its scores are optimistic.\n"
        )
    title = f"{metrics['data']['source']}: {len(networks)} network(s) x {len(metrics['protocol']['seeds'])} seed(s)"
    parts.append(tables_text(networks, baseline=baseline, title=title, split=split))
    if tested:
        crossed = any(row["against_baseline"]["test"] == "images and seeds" for row in tested)
        parts.append((_CROSSED if crossed else _ONE_SEED).format(split=split, count=len(tested)))
    parts.append(_COSTS.format(device=metrics["protocol"]["device"]))
    parts += _size_lines(networks)
    if metrics["easy"]:
        count = sum(len(row["seeds"]) for row in trained)
        parts.append(
            f"Of the {metrics['easy']['n']} {split} images all {count} trainings get {metrics['easy']['count']} right "
            f"('easy') and {metrics['hard']['count']} wrong: images.csv names them, the hardest first."
        )
        parts += ["", f"classes taken for each other most often ({split}, mistakes a training, either way round):"]
        parts += _pair_lines(trained)
        parts.append(f"\nbest on validation: {printable(metrics['chosen'])}")
    parts += [
        f"FAILED: {printable(one['network'])}, seed {one['seed']}: {printable(one['message'])}"
        for one in metrics["failed"]
    ]
    if metrics["failed"]:
        parts.append(f"Try what failed again with --resume {printable(metrics['run'])}")
    return "\n".join(part if "\n" in part else textwrap.fill(part, 80) for part in parts) + "\n"


def _pair_lines(networks: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for row in networks:
        pairs = (
            f"{printable(pair['a'])} / {printable(pair['b'])} {pair['mistakes']:.1f}" for pair in row["hard_pairs"]
        )
        yield f"{printable(row['name'])}: {', '.join(pairs) or 'none'}"


def _size_lines(networks: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for row in networks:
        if matched := row.get("matched"):
            option = "--" + matched["option"].replace("_", "-")
            yield (
                f"{printable(row['name'])}: {option} {matched['width']} gives {matched['parameters']:,} "
                f"parameters, {100 * matched['deviation']:+.2f} % of the baseline's {matched['target']:,}"
            )


def write_tables(run: RunFolder, metrics: Mapping[str, Any], contenders: Sequence[ComparedNetwork]) -> None:
    """Write `networks.csv`, `pairs.csv` and `images.csv` into the folder of a comparison."""
    networks = metrics["networks"]
    header = ["network", "seeds", *_PLAIN, *(f"{name}_{what}" for name, _ in _SPREADS for what in ("mean", "sd"))]
    rows = (_network_row(row) for row in networks)
    _write(run, "networks.csv", [*header, *_TEST, *(f"baseline_{key}" for key in _PAIR)], rows)
    pairs = ([untrusted(pair["a"]), untrusted(pair["b"]), *(pair[key] for key in _PAIR)] for pair in metrics["pairs"])
    _write(run, "pairs.csv", ["a", "b", *_PAIR], pairs)
    trained = [one for one in contenders if one.trainings]
    hardness = difficulty_of(trained, metrics["tested_on"])
    if hardness is None:
        return
    by_network = correct_by_network(trained, metrics["tested_on"])
    columns = list(zip(*by_network.values(), strict=True))
    order = sorted(range(len(hardness.ids)), key=lambda row: hardness.num_correct[row])
    images = (
        [
            untrusted(hardness.ids[row]),
            untrusted(hardness.labels[row]),
            hardness.num_correct[row],
            hardness.models,
            *columns[row],
        ]
        for row in order
    )
    _write(run, "images.csv", ["id", "label", "right", "trainings", *map(untrusted, by_network)], images)


def _network_row(row: Mapping[str, Any]) -> list[Any]:
    cells = [untrusted(row["name"]), len(row["seeds"]), *(row.get(key) for key in _PLAIN)]
    for _, path in _SPREADS:
        value: Any = row
        for key in path:
            value = value.get(key) if value else None
        cells += [value["mean"], value["sd"]] if value else [None, None]
    test, pair = row["against_baseline"] or {}, row["errors"] or {}
    return [*cells, *(test.get(key) for key in _TEST), *(pair.get(key) for key in _PAIR)]


def _write(run: RunFolder, name: str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    write_text(run.path / name, csv_text([header, *rows]))
