"""Summary, protocol, warnings and environment of a report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from tercet.core.files import read_json
from tercet.core.run_folder import RunFolder
from tercet.core.yaml_io import dump_yaml
from tercet.data.run_reader import RunReader
from tercet.metrics.metric import describe_metric
from tercet.metrics.table import MISSING, interval, number
from tercet.metrics.tables import tta_table
from tercet.plots.page import Block, Code, Details, Paragraph, Section, Table, Warning
from tercet.report.command import SPACE, command_of, space_of

_COMMANDS = {
    "train": "trains members and combines them",
    "ensemble": "combines trained members",
    "crossval": "cross-validation",
    "compare": "comparison of networks",
    "tune": "hyperparameter search",
    "reproduce": "reproduction of a published experiment",
}
_SPLITS = {"test": "test images", "validation": "validation images", "pooled": "held-out images of all folds"}
_OPTIMISTIC = (
    "Epochs, ensembles or both were selected on the same test images that are scored here (monitor_split: test). These "
    "scores are optimistic. Do not compare them with scores on images that were not used for selection."
)
_PROTOCOL = {"seed": "seed", "seeds": "seeds", "equal": "equal budget of", "budget": "budget", "device": "device"}


def headline(record: RunReader) -> tuple[str, Mapping[str, Any]] | None:
    """Return name and scores of the selected model on the judged split; None if the run has none."""
    if record.selected is None:
        return None
    name, validation, test = record.selected
    if record.kind == "crossval":
        return "one per fold", validation
    scores = test if record.evaluation_split == "test" else validation
    return (name, scores) if scores else None


def warnings_of(record: RunReader) -> list[Warning]:
    """Return warnings: selection on test images, torn copies, failed trainings, dry runs."""
    warnings: list[Warning] = []
    if record.monitor_split == "test":
        warnings.append(Warning(_OPTIMISTIC, "Model selection on test images"))
    warnings += [
        Warning(f"Step {title}: {_OPTIMISTIC}", "Model selection on test images")
        for title, path in record.step_runs.items()
        if _selects_on_test(path)
    ]
    for torn in (record.metrics.get("copies") or {}).values():
        warnings.append(Warning(torn["text"], "Copies of images in several splits or folds"))
    for failure in record.metrics.get("failed", ()):
        step = failure.get("step", "")
        training = f"{failure['network']}, seed {failure['seed']}: {failure['message']}"
        warnings.append(Warning(f"{step}: {training}" if step else training, "A training failed"))
    if record.record.options.get("dry_run"):
        text = "Every training was one step of a tiny network, so the numbers on this page have no meaning."
        warnings.append(Warning(text, "Dry run"))
    return warnings


def summary(record: RunReader) -> Section:
    """Return warnings, the main result in a sentence, and what the run did."""
    return Section("Summary", [*warnings_of(record), *_result(record), Table((), list(_facts(record)))])


def protocol(record: RunReader) -> Section:
    """Return how models were selected and evaluated."""
    values = record.metrics.get("protocol", {})
    optimistic = " (optimistic)" if record.monitor_split == "test" else ""
    monitor = values.get("monitor") or record.metrics.get("monitor") or MISSING
    facts = [("model selection", f"by {describe_metric(monitor).title} on {record.monitor_split} images{optimistic}")]
    facts += [
        ("evaluation", f"on {_SPLITS[record.evaluation_split] if record.kind != 'tune' else 'validation images only'}")
    ]
    if record.kind == "crossval":
        facts += [("folds", f"{values['folds']} ({values['how']})")]
    facts += [(title, _join(values[key])) for key, title in _PROTOCOL.items() if values.get(key) is not None]
    blocks: list[Block] = [Table((), facts)]
    if record.kind == "crossval":
        blocks.append(Paragraph("Every image is predicted once, by models that were not trained on it."))
    elif record.metrics.get("ensembles"):
        blocks.append(Paragraph("Ensemble weights fitted on validation images are scored there by cross-fitting."))
    return Section("Protocol", [*blocks, *_tta_levels(record)])


def how_to_repeat(record: RunReader) -> list[Section]:
    """Return the sections on the environment, and on the command that repeats the run."""
    values = record.environment
    facts = [(name, _join(values[name])) for name in ("python", "system", "cores", "threads") if name in values]
    facts += [("accelerators", ", ".join(values["accelerators"]) or "none")] if "accelerators" in values else []
    facts += [(name, str(version)) for name, version in values.get("packages", {}).items()]
    environment: list[Block] = [Table((), facts)] if facts else [Paragraph("Not recorded.", quiet=True)]
    return [Section("Environment", environment), Section("Reproduce", list(_reproduce(record)))]


def _selects_on_test(folder: Path) -> bool:
    metrics = RunFolder(folder).metrics
    document = read_json(metrics) if metrics.is_file() else {}
    return bool(document.get("protocol", {}).get("monitor_split") == "test")


def _result(record: RunReader) -> Iterator[Block]:
    selected = headline(record)
    if selected is None:
        if record.kind != "reproduce":
            yield Paragraph("No image has a label, so the result cannot be evaluated.", quiet=True)
        return
    name, scores = selected
    split = _SPLITS[record.evaluation_split]
    size = f"{scores['n']:,} " if "n" in scores else ""
    if record.is_multilabel:
        o_f1 = f"O-F1 {number(scores['o_f1'])} (95 % interval {interval(scores, 'o_f1')})"
        exact = f"exact match {number(scores['exact_match'])}"
        yield Paragraph(f"Selected model: {name}. {o_f1}, {exact} on {size}{split}.")
        yield from _choice(record)
        return
    bounds = f" (95 % interval {interval(scores)})" if "accuracy_low" in scores else ""
    values = f"Accuracy {number(scores.get('accuracy'))}{bounds}, macro F1 {number(scores.get('macro_f1'))}"
    means = " (means over seeds)" if record.kind == "compare" else ""
    yield Paragraph(f"Selected model: {name}. {values}{means} on {size}{split}.")
    yield from _choice(record)


def _choice(record: RunReader) -> Iterator[Block]:
    """Say why this model was selected, and which members are at chance level."""
    choice = record.metrics.get("choice")
    if choice is not None and len(record.metrics["members"]) > 1:
        yield Paragraph(choice["reason"])
    for row in record.metrics.get("at_chance", ()):
        combined = "; it is not combined" if row["left_out"] else ""
        values = f"accuracy {number(row['accuracy'])}, of guesses {number(row['expected'])}"
        yield Paragraph(f"{row['name']} is at chance level on validation ({values}){combined}.")


def _facts(record: RunReader) -> Iterator[tuple[str, str]]:
    document = record.metrics
    yield "command", f"tercet {record.kind} ({_COMMANDS[record.kind]})"
    if record.kind == "reproduce":
        yield "recipe", f"{document['title']} ({document['recipe']}, scale {document['scale']})"
        yield "source", document["source"]
    else:
        yield "data", record.source
    if record.classes:
        yield "labels" if record.is_multilabel else "classes", f"{len(record.classes):,}"
    if record.kind in ("train", "ensemble", "crossval"):
        yield "members", _join([row["name"] for row in document["members"]])
        yield "ensemble methods", _join([row["name"] for row in document["ensembles"]]) or "none (single member)"
    if record.kind == "compare":
        yield "networks", _join([row["name"] for row in document["networks"]])
        yield "baseline", str(document.get("baseline", MISSING))
    if record.kind == "tune":
        yield "trials", f"{len(document['trials'])}"
        yield "options searched", _join(list(document["trials"][0].get("options", {})))
    yield "folder", str(record.run.path)
    yield "finished", datetime.fromtimestamp(record.finished_at).isoformat(sep=" ", timespec="minutes")


def _tta_levels(record: RunReader) -> Iterator[Block]:
    tta = record.metrics.get("tta")
    if not tta:
        return
    title = f"Test-time augmentation on {tta.get('split', 'validation')} images"
    yield tta_table(tta["levels"], tta["chosen"], title=title, page=True)


def _reproduce(record: RunReader) -> Iterator[Block]:
    command = command_of(record)
    if command is None:
        text = "The options of the run were written by another version of Tercet."
        yield Paragraph(text, quiet=True)
    else:
        yield Code(command, "command")
        yield Paragraph("Options with default values and the output folder are omitted.", quiet=True)
    if space := space_of(record):
        yield Paragraph(f"{SPACE}:")
        yield Code(space, SPACE)
    yield Details("Full configuration", [Code(dump_yaml(dict(record.record.options)), "configuration")])


def _join(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        items = [str(item) for item in value[:40]]
        return ", ".join(items) + (f" and {len(value) - 40} more" if len(value) > 40 else "")
    return str(value)
