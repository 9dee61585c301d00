"""Sections of first_minute.py that measure frozen networks: probes, folds, epochs, and other programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, median

from first_minute_bench import BY_ORIGINAL, ENCODER, Bench, Row, alternate, chosen_of, medians, metrics_of, scores
from measured_process import tercet
from tercet.core.predictions import Predictions
from tercet.metrics.significance import mcnemar

HERE = Path(__file__).parent


def probe_run(bench: Bench, run: Path, source: Path, options: Sequence[str]) -> Row:
    """Measure `tercet probe`."""
    took = bench.measure(tercet("probe", str(source), *bench.encoder, *options, "--output", str(run)))
    return {**took.seconds(), **scores(chosen_of(metrics_of(run))["test"])}


def script_run(bench: Bench, script: str, run: Path, source: Path, *words: str, python: str = sys.executable) -> Row:
    """Measure a script of another library on the splits of a run."""
    folder = source if source.is_dir() else source.parent
    command = [python, str(HERE / script), str(folder), str(run / "samples.csv"), bench.weights, *words]
    took = bench.measure(command)
    values = json.loads(took.output.splitlines()[-1])
    return {**took.seconds(), **values, "accuracy": round(values["test"], 6)}


def probe(bench: Bench) -> Row:
    """Compare probes on two data sets, and export each."""
    results: Row = {}
    for name, (source, options) in bench.sources().items():
        folder = bench.work / "probe" / name.replace(", ", "-").replace(" ", "-")

        def side(number: int, source: Path = source, options: list[str] = options, folder: Path = folder) -> Row:
            run = folder / str(number)
            row = probe_run(bench, run, source, options)
            took = bench.measure(tercet("export", str(run), str(run / "model.onnx")))
            return {**row, "export": took.seconds(), "first_onnx": round(row["wall"] + took.wall, 2)}

        def script(number: int, source: Path = source, folder: Path = folder) -> Row:
            return script_run(bench, "linear_probe.py", folder / "0", source)

        rows = alternate(bench, {"tercet": side, "script": script})
        predictions = Predictions.load(folder / "0" / "predictions" / f"{ENCODER}-test.npz")
        wrong = predictions.probabilities.argmax(axis=1) != predictions.labels
        ours = {str(sample) for sample, error in zip(predictions.ids, wrong, strict=True) if error}
        theirs = set(rows["script"][0]["errors"])
        first = rows["tercet"]
        results[name] = {
            **{side: medians(values) for side, values in rows.items()},
            "p_value": round(mcnemar(len(ours - theirs), len(theirs - ours)), 4),
            "cpu_ratio": round(median(row["cpu"] for row in first) / median(row["cpu"] for row in rows["script"]), 3),
            "export_wall": round(median(row["export"]["wall"] for row in first), 2),
            "first_onnx": round(median(row["first_onnx"] for row in first), 2),
            "rounds": rows,
        }
    return results


def folds(bench: Bench) -> Row:
    """Compare five folds with one probe."""
    source = bench.data / "potato-leaves" / "potato-leaf-160.zip"

    def crossval(number: int) -> Row:
        run = bench.work / "folds" / f"crossval-{number}"
        words = ["--preset", "fast", "--folds", "5", *BY_ORIGINAL, *bench.encoder, "--output", str(run)]
        took = bench.measure(tercet("crossval", str(source), *words))
        metrics = metrics_of(run)
        return {**took.seconds(), **scores(metrics["pooled"]), "features": metrics["features"]}

    def single(number: int) -> Row:
        return probe_run(bench, bench.work / "folds" / f"probe-{number}", source, BY_ORIGINAL)

    rows = alternate(bench, {"probe": single, "five folds": crossval})
    ratio = median(row["cpu"] for row in rows["five folds"]) / median(row["cpu"] for row in rows["probe"])
    return {**{name: medians(values) for name, values in rows.items()}, "cpu_ratio": round(ratio, 3), "rounds": rows}


def frozen(bench: Bench) -> Row:
    """Compare epochs of a frozen network with and without stored features."""
    source = bench.data / "potato-leaves" / "potato-leaf-160.zip"
    options = ["--freeze", "backbone", "--head", "linear", "--epochs", "4", "--lr", "1e-3"]

    def side(augment: str) -> Callable[[int], Row]:
        def training(number: int) -> Row:
            run = bench.work / "frozen" / f"{augment}-{number}"
            words = [*options, "--augment", augment, *bench.encoder, "--output", str(run)]
            took = bench.measure(tercet("train", str(source), *words))
            history = (run / "members" / ENCODER / "history.jsonl").read_text("utf-8").splitlines()
            epochs = [json.loads(line)["seconds"] for line in history]
            later = {"first_epoch": round(epochs[0], 3), "later_epochs": round(mean(epochs[1:]), 4)}
            return {**took.seconds(), **later, **scores(chosen_of(metrics_of(run))["validation"])}

        return training

    rows = alternate(bench, {"stored": side("none"), "computed": side("light")})
    later = {name: median(row["later_epochs"] for row in values) for name, values in rows.items()}
    return {
        **{name: {**medians(values), "later_epochs": round(later[name], 4)} for name, values in rows.items()},
        "ratio": round(later["computed"] / later["stored"], 1),
        "rounds": rows,
    }


def others(bench: Bench) -> Row:
    """Compare programs on the same split, with the same weights."""
    results: Row = {}
    for name, (source, options) in bench.sources().items():
        folder = bench.work / "others" / name.replace(", ", "-").replace(" ", "-")

        def probed(number: int, source: Path = source, options: list[str] = options, folder: Path = folder) -> Row:
            return probe_run(bench, folder / f"probe-{number}", source, options)

        def trained(number: int, source: Path = source, options: list[str] = options, folder: Path = folder) -> Row:
            run = folder / f"train-{number}"
            words = ["--weights", bench.weights, *bench.limited, *options]  # no --members: the default ladder
            took = bench.measure(tercet("train", str(source), *words, "--output", str(run)))
            return {**took.seconds(), **scores(chosen_of(metrics_of(run))["test"])}

        def script(
            file: str, *words: str, python: str = sys.executable, source: Path = source, folder: Path = folder
        ) -> Callable[[int], Row]:
            return lambda number: script_run(bench, file, folder / "probe-0", source, *words, python=python)

        sides = {"tercet probe": probed, "linear_probe.py": script("linear_probe.py"), "tercet train": trained}
        if bench.fastai_python:
            for epochs in ("1", "3"):
                tuned = script("fastai_fine_tune.py", epochs, python=bench.fastai_python)
                sides[f"fastai fine_tune({epochs})"] = tuned
        rows = alternate(bench, sides)
        results[name] = {**{side: medians(values) for side, values in rows.items()}, "rounds": rows}
    return results
