"""Section of first_minute.py that measures the rungs of the ladder on three data sets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from first_minute_bench import BY_ORIGINAL, ENCODER, Bench, Row, chosen_of, medians, metrics_of, scores
from measured_process import tercet

HERE = Path(__file__).parent
BY_HAND = ("--leave-one-group-out", "--data.image-column", "file", "--data.group-column", "hand")


def encoders(bench: Bench, *, size: int | None) -> list[Row]:
    """Return both encoders as members."""
    weights = bench.data / "weights"
    small = str(weights / "mobilenetv2_035_keras_backbone.safetensors")
    members: list[Row] = [
        {"model": ENCODER, "weights": bench.weights},
        {
            "model": "mobilenetv2_035",
            "weights": small,
            "backbone.args": {"pad_type": "same", "bn_eps": 0.001},
            "input.mean": 0.5,
            "input.std": 0.5,
        },
    ]
    return [{**member, **({"input.size": size} if size else {})} for member in members]


def crossvals(bench: Bench, name: str, words: Sequence[str], *, tuned: bool) -> Row:
    """Cross-validate probes of both encoders and, on demand, probes with both fine-tuned networks."""
    probes = [
        {**member, "name": f"{member['model']}-probe", "head": "logistic"} for member in encoders(bench, size=None)
    ]
    presets: dict[str, list[Row]] = {"fast": probes}
    if tuned:
        presets["good"] = [*probes, *encoders(bench, size=bench.size)]
    results: Row = {}
    for preset, members in presets.items():
        rows: list[Row] = []
        for number in range(bench.rounds):
            run = bench.work / "ladder" / f"{name}-{preset}-{number}"
            options = ["--preset", preset, "--members", json.dumps(members), *bench.limited, "--output", str(run)]
            took = bench.measure(tercet("crossval", *words, *options))
            rows.append(took.seconds())
        metrics = metrics_of(run)
        models = {row["name"]: scores(row["pooled"]) for row in [*metrics["members"], *metrics["ensembles"]]}
        results[preset] = {**medians(rows), **scores(metrics["pooled"]), "models": models, "rounds": rows}
    return results


def stored(name: str) -> Row:
    """Return score and seconds of an earlier training from benchmarks/results/."""
    document = json.loads((HERE / "results" / f"{name}.json").read_text("utf-8"))
    document = document.get("by original", document)
    return {**scores(document["pooled"]), "seconds": round(sum(row["seconds"] for row in document["members"]), 1)}


def fashion(bench: Bench) -> list[Row]:
    """Climb the ladder on Fashion-MNIST with one process per rung."""
    run, cache = bench.work / "ladder" / "fashion", bench.work / "ladder" / "cache"
    words = ["--data-dir", str(bench.data), "--data.limit", str(bench.limit or 10_000), "--data.val-fraction", "0.05"]
    members = json.dumps(encoders(bench, size=96))
    rows: list[Row] = []
    for rung in ("probe", "fine-tune", "ensemble"):
        start = ["fashion-mnist", *words, "--members", members, "--output", str(run)]
        command = tercet("train", *(["--resume", str(run)] if rows else start), "--stop-at", rung)
        took = bench.measure(command, cache=cache)
        metrics = metrics_of(run)
        chosen = chosen_of(metrics)
        seconds = next(row["seconds"] for row in metrics["ladder"] if row["rung"] == rung)
        tested = scores(chosen["test"]) if chosen.get("test") else None
        row = {**took.seconds(), "rung": rung, "chosen": chosen["name"], "rung_wall": round(seconds, 2)}
        rows.append({**row, "validation": scores(chosen["validation"]), "test": tested})
    return rows


def ladder(bench: Bench) -> Row:
    """Measure the rungs on three data sets."""
    leaves = str(bench.data / "potato-leaves" / "potato-leaf-160.zip")
    hands = str(bench.data / "hand-signs" / "asl-massey-160.zip")
    by_hand = [hands, *BY_HAND, "--data.val-fraction", "0.2"]
    return {
        "potato leaves": {
            **crossvals(bench, "leaves", [leaves, "--folds", "5", *BY_ORIGINAL], tuned=True),
            "stored": stored("potato_leaves"),
        },
        "hand signs": {
            **crossvals(bench, "hands", by_hand, tuned=bench.long),
            "stored": stored("hand_signs"),
        },
        "Fashion-MNIST": fashion(bench),
    }
