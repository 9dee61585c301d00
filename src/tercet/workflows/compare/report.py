"""What a comparison leaves for people: the report, and tables of networks, pairs and images as CSV."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tercet.evaluation.grid_report import tables_text
from tercet.ground.files import csv_text, write_text
from tercet.ground.streams import printable
from tercet.records.foreign_files import guarded
from tercet.workflows.compare.comparison import Contender, hardness_of, right_by_network
from tercet.workflows.train.run_folder import RunFolder

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


def write_tables(run: RunFolder, metrics: Mapping[str, Any], contenders: Sequence[Contender]) -> None:
    """Write `networks.csv`, `pairs.csv` and `images.csv` into the folder of a comparison."""
    networks = metrics["networks"]
    header = ["network", "seeds", *_PLAIN, *(f"{name}_{what}" for name, _ in _SPREADS for what in ("mean", "sd"))]
    rows = (_network_row(row) for row in networks)
    _write(run, "networks.csv", [*header, *_TEST, *(f"baseline_{key}" for key in _PAIR)], rows)
    pairs = ([guarded(pair["a"]), guarded(pair["b"]), *(pair[key] for key in _PAIR)] for pair in metrics["pairs"])
    _write(run, "pairs.csv", ["a", "b", *_PAIR], pairs)
    trained = [one for one in contenders if one.trainings]
    hardness = hardness_of(trained, metrics["tested_on"])
    if hardness is None:
        return
    by_network = right_by_network(trained, metrics["tested_on"])
    columns = list(zip(*by_network.values(), strict=True))
    order = sorted(range(len(hardness.ids)), key=lambda row: hardness.right[row])
    images = (
        [guarded(hardness.ids[row]), guarded(hardness.labels[row]), hardness.right[row], hardness.models, *columns[row]]
        for row in order
    )
    _write(run, "images.csv", ["id", "label", "right", "trainings", *map(guarded, by_network)], images)


def _network_row(row: Mapping[str, Any]) -> list[Any]:
    cells = [guarded(row["name"]), len(row["seeds"]), *(row.get(key) for key in _PLAIN)]
    for _, path in _SPREADS:
        value: Any = row
        for key in path:
            value = value.get(key) if value else None
        cells += [value["mean"], value["sd"]] if value else [None, None]
    test, pair = row["against_baseline"] or {}, row["errors"] or {}
    return [*cells, *(test.get(key) for key in _TEST), *(pair.get(key) for key in _PAIR)]


def _write(run: RunFolder, name: str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    write_text(run.path / name, csv_text([header, *rows]))
