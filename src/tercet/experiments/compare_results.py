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
from tercet.core.output import count, printable
from tercet.core.predictions import Predictions
from tercet.core.run_folder import RunFolder
from tercet.core.untrusted_files import escape_formula
from tercet.experiments.compare_grid import member_name
from tercet.experiments.copy_scores import copy_warnings
from tercet.experiments.fit_ensemble import TrainedMember, read_members
from tercet.metrics.classification import score
from tercet.metrics.metric import Detail, is_better, metric_names, spread_of
from tercet.metrics.run_tables import network_tables
from tercet.metrics.significance import (
    Difficulty,
    compare_seeds,
    confused_class_pairs,
    correct_by_run,
    difficulty,
    diversity,
    holm,
)

_COSTS = ("train_accuracy", "updates", "seconds_per_epoch", "seconds", "images_per_second")
_NETWORK_KEYS = ("parameters", "trainable", "buffers", "flops", "input")


@dataclass(frozen=True)
class ComparedNetwork:
    """One network of a comparison with its finished trainings."""

    name: str
    trainings: Mapping[int, TrainedMember]
    """By seed, without failed ones."""

    def predictions(self, split: str, seeds: Sequence[int] | None = None) -> list[Predictions]:
        """Return the predictions on a split, of the given seeds or of all."""
        return [self.trainings[seed].predictions[split] for seed in seeds or self.trainings]

    def has_labels(self, split: str) -> bool:
        """Return whether the split has predictions and labels."""
        return all(
            split in member.predictions and member.predictions[split].known.any() for member in self.trainings.values()
        )


def read_networks(run: RunFolder, names: Sequence[str], seeds: Sequence[int]) -> list[ComparedNetwork]:
    """Read the finished trainings of all networks."""
    networks = []
    for name in names:
        finished = [seed for seed in seeds if run.member(member_name(name, seed)).finished()]
        members = read_members(run, [member_name(name, seed) for seed in finished], ("validation", "test"))
        networks.append(ComparedNetwork(name, dict(zip(finished, members, strict=True))))
    return networks


def compare_networks(networks: Sequence[ComparedNetwork], *, baseline: str, monitor: Monitor) -> dict[str, Any]:
    """Return `networks`, `pairs`, `easy`, `hard`, `chosen` and `tested_on` as plain values.

    Args:
        networks: The networks; those without a finished training get an almost empty row.
        baseline: Name of the network that the others are tested against.
        monitor: Validation score that selects the best network.
    """
    trained = [network for network in networks if network.trainings]
    split = "test" if trained and all(network.has_labels("test") for network in trained) else "validation"
    base = next((network for network in trained if network.name == baseline), None)
    rows: dict[str, dict[str, Any]] = {
        network.name: {"name": network.name, "seeds": list(network.trainings), **_results(network, split)}
        for network in networks
    }
    tests: dict[str, dict[str, Any]] = {}
    for network in trained:
        if base is None or network is base:
            continue
        seeds = [seed for seed in network.trainings if seed in base.trainings]
        if seeds:
            comparison = compare_seeds(network.predictions(split, seeds), base.predictions(split, seeds))
            tests[network.name] = comparison.to_dict()
    for test, p_holm in zip(tests.values(), holm([test["p_value"] for test in tests.values()]), strict=True):
        test["p_holm"] = p_holm
    pairs = _pairs(trained, split)
    for name, row in rows.items():
        row["against_baseline"] = tests.get(name)
        row["errors"] = _pair_with_baseline(pairs, name, baseline)
    images = difficulty_of(trained, split)
    return {
        "tested_on": split,
        "networks": list(rows.values()),
        "pairs": pairs,
        "easy": _images(images, images.easy) if images else None,
        "hard": _images(images, images.hard) if images else None,
        "chosen": _best(trained, monitor),
    }


def difficulty_of(networks: Sequence[ComparedNetwork], split: str) -> Difficulty | None:
    """Return the difficulty of each image over all trainings; None without trainings."""
    predictions = [item for network in networks for item in network.predictions(split)]
    return difficulty(predictions) if predictions else None


def _images(images: Difficulty, ids: Sequence[str]) -> dict[str, Any]:
    return {"n": len(images.ids), "count": len(ids), "ids": list(ids)}


def _results(network: ComparedNetwork, split: str) -> dict[str, Any]:
    """Return scores and costs, aggregated over seeds and per training."""
    if not network.trainings:
        return {}
    trainings = [_training(seed, member) for seed, member in network.trainings.items()]
    summary = next(iter(network.trainings.values())).summary
    results: dict[str, Any] = {key: summary[key] for key in _NETWORK_KEYS}
    results |= {key: spread_of([training[key] for training in trainings]) for key in _COSTS}
    for part in ("validation", "test"):
        if network.has_labels(part):
            names = metric_names("single", Detail.COMPARISON)
            results[part] = {name: spread_of([training[part][name] for training in trainings]) for name in names}
    predictions = network.predictions(split)
    seed_pairs = list(combinations(predictions, 2))
    return {
        **results,
        "own_agreement": diversity(seed_pairs).agreement if seed_pairs else None,
        "hard_pairs": confused_class_pairs(predictions) if network.has_labels(split) else [],
        "trainings": trainings,
    }


def _training(seed: int, member: TrainedMember) -> dict[str, Any]:
    history = History.load(member.folder.path / "history.jsonl")
    summary = member.summary
    scores = {split: score(predictions) for split, predictions in member.predictions.items() if predictions.known.any()}
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


def _pairs(networks: Sequence[ComparedNetwork], split: str) -> list[dict[str, Any]]:
    """Return the diversity of all pairs of networks with common seeds, averaged over those seeds."""
    rows = []
    for a, b in combinations(networks, 2):
        seeds = [seed for seed in a.trainings if seed in b.trainings]
        if seeds:
            pairs = list(zip(a.predictions(split, seeds), b.predictions(split, seeds), strict=True))
            rows.append({"a": a.name, "b": b.name, **diversity(pairs).to_dict()})
    return rows


def _pair_with_baseline(pairs: Sequence[Mapping[str, Any]], name: str, baseline: str) -> dict[str, Any] | None:
    """Return the pair of a network and the baseline, with the network as `a`."""
    for pair in pairs:
        if (pair["a"], pair["b"]) == (name, baseline):
            return dict(pair)
        if (pair["a"], pair["b"]) == (baseline, name):
            return {**pair, "a": name, "b": baseline, "only_a": pair["only_b"], "only_b": pair["only_a"]}
    return None


def _best(networks: Sequence[ComparedNetwork], monitor: Monitor) -> str | None:
    """Return the network with the best mean validation score; the first of equals."""
    best_name, best_means = None, None
    for network in networks:
        scores = [score(predictions) for predictions in network.predictions("validation")]
        means = {key: statistics.fmean(values[key] for values in scores) for key in (monitor, "loss")}
        if is_better(monitor, means, best_means):
            best_name, best_means = network.name, means
    return best_name


_VALUES = ("parameters", "trainable", "flops", "own_agreement")
_TEST = ("difference", "low", "high", "p_value", "p_holm")
_PAIR = ("agreement", "both", "only_a", "only_b", "neither", "disagreement")
_POINTS_NOTE = "points: difference in {split} accuracy from the baseline, with its 95 % interval. p: "
_SEEDS_NOTE = _POINTS_NOTE + "images and seeds as random effects; below it Holm's correction for {count} test(s)."
_ONE_SEED_NOTE = (
    _POINTS_NOTE + "McNemar's exact test; below it Holm's correction for {count} test(s). A single seed does not show "
    "the variation between seeds: use --seeds 3."
)
_COST_NOTE = (
    "FLOPs: forward pass of one image, matrix products and convolutions, recurrent ones included; a multiply-add is "
    "two. s / epoch includes validation. Images / s: forward passes on {device} after training."
)


def report_text(metrics: Mapping[str, Any]) -> str:
    """Return the report of a comparison from the content of `metrics.json`."""
    split, baseline, networks = metrics["tested_on"], metrics["baseline"], metrics["networks"]
    tested = [row for row in networks if row["against_baseline"]]
    trained = [row for row in networks if row["seeds"]]
    parts = [*copy_warnings(metrics["copies"])]
    if metrics["protocol"]["monitor_split"] == "test":
        parts.append(
            "WARNING: epochs were chosen on the test split (monitor_split: test): its scores are optimistic.\n"
        )
    seeds = count(len(metrics["protocol"]["seeds"]), "seed")
    title = f"{metrics['data']['source']}: {count(len(networks), 'network')} x {seeds}"
    tables = network_tables(networks, baseline=baseline, title=title, split=split)
    parts.append("\n".join(table.to_text() for table in tables))
    if tested:
        several_seeds = any(row["against_baseline"]["test"] == "images and seeds" for row in tested)
        parts.append((_SEEDS_NOTE if several_seeds else _ONE_SEED_NOTE).format(split=split, count=len(tested)))
    parts.append(_COST_NOTE.format(device=metrics["protocol"]["device"]))
    parts += _size_lines(networks)
    if metrics["easy"]:
        trainings = sum(len(row["seeds"]) for row in trained)
        parts.append(
            f"Of the {metrics['easy']['n']} {split} images, all {trainings} trainings classify "
            f"{metrics['easy']['count']} correctly ('easy') and {metrics['hard']['count']} wrongly; images.csv lists "
            "them, the hardest first."
        )
        parts += ["", f"most confused classes ({split}, mistakes per training, both directions):"]
        parts += _pair_lines(trained)
        parts.append(f"\nbest on validation: {printable(metrics['chosen'])}")
    parts += [
        f"FAILED: {printable(failure['network'])}, seed {failure['seed']}: {printable(failure['message'])}"
        for failure in metrics["failed"]
    ]
    if metrics["failed"]:
        parts.append(f"Repeat the failed trainings with --resume {printable(metrics['run'])}")
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


def write_tables(run: RunFolder, metrics: Mapping[str, Any], networks: Sequence[ComparedNetwork]) -> None:
    """Write `networks.csv`, `pairs.csv` and `images.csv` into the folder of a comparison."""
    spreads = [f"{key.replace('.', '_')}_{suffix}" for key in _spread_keys() for suffix in ("mean", "sd")]
    header = ["network", "seeds", *_VALUES, *spreads, *_TEST, *(f"baseline_{key}" for key in _PAIR)]
    _write(run, "networks.csv", header, map(_network_row, metrics["networks"]))
    pairs = (
        [escape_formula(pair["a"]), escape_formula(pair["b"]), *(pair[key] for key in _PAIR)]
        for pair in metrics["pairs"]
    )
    _write(run, "pairs.csv", ["a", "b", *_PAIR], pairs)
    split, trained = metrics["tested_on"], [network for network in networks if network.trainings]
    images = difficulty_of(trained, split)
    if images is None:
        return
    correct = {network.name: correct_by_run(network.predictions(split)).sum(axis=1).tolist() for network in trained}
    columns = list(zip(*correct.values(), strict=True))
    order = sorted(range(len(images.ids)), key=lambda row: images.num_correct[row])
    names = [list(map(escape_formula, pair)) for pair in zip(images.ids, images.labels, strict=True)]
    image_rows = ([*names[row], images.num_correct[row], images.models, *columns[row]] for row in order)
    _write(run, "images.csv", ["id", "label", "right", "trainings", *map(escape_formula, correct)], image_rows)


def _spread_keys() -> list[str]:
    """Return the keys of networks.csv with mean and standard deviation; a dot separates split and metric."""
    tests = (f"test.{name}" for name in metric_names("single", Detail.COMPARISON))
    return ["train_accuracy", "validation.accuracy", *tests, *_COSTS[1:]]


def _network_row(row: Mapping[str, Any]) -> list[Any]:
    cells = [escape_formula(row["name"]), len(row["seeds"]), *(row.get(key) for key in _VALUES)]
    for path in _spread_keys():
        value: Any = row
        for key in path.split("."):
            value = value.get(key) if value else None
        cells += [value["mean"], value["sd"]] if value else [None, None]
    test, pair = row["against_baseline"] or {}, row["errors"] or {}
    return [*cells, *(test.get(key) for key in _TEST), *(pair.get(key) for key in _PAIR)]


def _write(run: RunFolder, name: str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    write_text(run.path / name, csv_text([header, *rows]))
