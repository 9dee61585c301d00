"""Headline, protocol and warnings of a report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from tercet.core.files import read_json
from tercet.core.run_folder import RunFolder
from tercet.core.yaml_io import dump_yaml
from tercet.data.run_reader import RunReader
from tercet.plots.page import Block, Code, Details, Paragraph, Section, Table, Warning
from tercet.report.command import SPACE, command_of, space_of

MISSING = "-"


def number(value: float | None, digits: int = 4) -> str:
    """Return a score, or a dash where there is none."""
    return MISSING if value is None else f"{value:.{digits}f}"


def mean_sd(value: Mapping[str, Any] | None, digits: int = 4) -> str:
    """Return mean and standard deviation, as far as there are."""
    if value is None:
        return MISSING
    return number(value["mean"], digits) + ("" if value["sd"] is None else f" ± {number(value['sd'], digits)}")


def interval(scores: Mapping[str, Any], name: str = "accuracy") -> str:
    """Return the 95 % interval of a score."""
    low, high = scores.get(f"{name}_low"), scores.get(f"{name}_high")
    return MISSING if low is None or high is None else f"{low:.3f} to {high:.3f}"


def points(found: Mapping[str, Any]) -> tuple[str, str]:
    """Return a difference of accuracies in points, and its interval."""
    return f"{100 * found['difference']:+.2f}", f"{100 * found['low']:+.2f} to {100 * found['high']:+.2f}"


def chance(p_value: float) -> str:
    """Return a p-value."""
    return "< 0.0001" if p_value < 0.0001 else f"{p_value:.2g}"


def duration(seconds: float | None) -> str:
    """Return a time in the unit that suits it."""
    if seconds is None:
        return MISSING
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def count(value: int, what: str) -> str:
    """Return how many there are of something, in the singular for one."""
    return f"{value:,} {what}{'' if value == 1 else 'es' if what.endswith('s') else 's'}"


_VERBS = {
    "train": "training of members, and their fusion",
    "ensemble": "fusion of members that were trained before",
    "crossval": "cross-validation",
    "compare": "comparison of networks",
    "tune": "search for options",
    "reproduce": "reproduction of a published experiment",
}
_SPLITS = {"test": "test images", "validation": "validation images", "pooled": "held-out images of all folds"}
_OPTIMISTIC = (
    "Epochs, ensembles or both were chosen by the very images that are scored here (monitor_split: test). These scores "
    "are optimistic and must not be compared with scores on images that chose nothing."
)


def headline(record: RunReader) -> tuple[str, Mapping[str, Any]] | None:
    """Return the name of what was chosen and its scores on the judged split; None where a run has no such thing."""
    document = record.metrics
    if record.kind == "crossval":
        return "Each fold's own choice", document["pooled"]
    if record.kind == "compare":
        row = next((row for row in document["networks"] if row["name"] == document["chosen"]), None)
        means = (row or {}).get(record.evaluation_split)
        return (row["name"], {key: value["mean"] for key, value in means.items()}) if row and means else None
    if record.kind == "tune":
        best = document["best"]
        return f"Trial {best['number']}", best["scores"]
    if record.kind == "reproduce":
        return None
    rows = [*document["members"], *document["ensembles"]]
    row = next((row for row in reversed(rows) if row["name"] == document["chosen"]), None)
    return (row["name"], row[record.evaluation_split]) if row and row.get(record.evaluation_split) else None


def warnings_of(record: RunReader) -> list[Warning]:
    """Return what cannot be overlooked: test images that chose, trainings that failed."""
    found: list[Warning] = []
    if record.monitor_split == "test":
        found.append(Warning(_OPTIMISTIC, "Chosen on the test images"))
    found += [
        Warning(f"In part {title}: {_OPTIMISTIC}", "Chosen on the test images")
        for title, path in record.step_runs.items()
        if _chosen_on_test(path)
    ]
    for failure in record.metrics.get("failed", ()):
        where = failure.get("part", "")
        told = f"{where + ': ' if where else ''}{failure['network']}, seed {failure['seed']}: {failure['message']}"
        found.append(Warning(told, "A training failed"))
    if record.config.get("dry_run"):
        found.append(Warning("Every training was one update of a tiny network; no number means anything.", "Rehearsal"))
    return found


def summary(record: RunReader) -> Section:
    """Return what was asked, and what came out in a sentence."""
    return Section("Summary", [*warnings_of(record), *_result(record), Table((), list(_asked(record)))])


def protocol(record: RunReader) -> Section:
    """Return how it was measured: what chose, and what was looked at once."""
    told = record.metrics.get("protocol", {})
    facts = [
        (
            "chosen on",
            f"{record.monitor_split} (what is scored: optimistic)" if record.monitor_split == "test" else "validation",
        )
    ]
    facts += [("monitor", str(told.get("monitor") or record.metrics.get("monitor") or MISSING))]
    facts += [("judged on", _SPLITS[record.evaluation_split] if record.kind != "tune" else "validation images alone")]
    if record.kind == "crossval":
        facts += [("folds", f"{told['folds']} ({told['how']})")]
    for key in ("seed", "seeds", "equal", "budget", "device"):
        if told.get(key) is not None:
            facts.append((key, _listed(told[key])))
    blocks: list[Block] = [Table((), facts)]
    if record.kind == "crossval":
        blocks.append(Paragraph("Every held-out image was predicted once, by networks that never saw it."))
    elif record.metrics.get("ensembles"):
        blocks.append(Paragraph("Whatever was fitted on validation images is scored there by cross-fitting."))
    return Section("Protocol", [*blocks, *_views(record)])


def how_to_repeat(record: RunReader) -> list[Section]:
    """Return where the run was made, and the command that makes it again."""
    noted = record.environment
    facts = [(name, _listed(noted[name])) for name in ("python", "system", "cores", "threads") if name in noted]
    facts += [("accelerators", ", ".join(noted["accelerators"]) or "none")] if "accelerators" in noted else []
    facts += [(name, str(version)) for name, version in noted.get("packages", {}).items()]
    environment: list[Block] = [Table((), facts)] if facts else [Paragraph("Not noted.", quiet=True)]
    return [Section("Environment", environment), Section("Reproduce", list(_reproduce(record)))]


def _chosen_on_test(part: Path) -> bool:
    metrics = RunFolder(part).metrics
    told = read_json(metrics) if metrics.is_file() else {}
    return bool(told.get("protocol", {}).get("monitor_split") == "test")


def _result(record: RunReader) -> Iterator[Block]:
    found = headline(record)
    if found is None:
        if record.kind != "reproduce":
            yield Paragraph("There is no image with a label to judge the result by.", quiet=True)
        return
    name, scores = found
    where = _SPLITS[record.evaluation_split]
    size = f"{scores['n']:,} " if "n" in scores else ""
    if record.is_multilabel:
        text = f"O-F1 {number(scores['o_f1'])} (95 % interval {interval(scores, 'o_f1')}), exact match "
        yield Paragraph(f"{name}: {text}{number(scores['exact_match'])} on {size}{where}.")
        return
    sure = f" (95 % interval {interval(scores)})" if "accuracy_low" in scores else ""
    best = f"accuracy {number(scores.get('accuracy'))}{sure}, macro F1 {number(scores.get('macro_f1'))}"
    over = " (means over seeds)" if record.kind == "compare" else ""
    yield Paragraph(f"{name}: {best}{over} on {size}{where}.")


def _asked(record: RunReader) -> Iterator[tuple[str, str]]:
    document = record.metrics
    yield "what", f"tercet {record.kind}: {_VERBS[record.kind]}"
    if record.kind == "reproduce":
        yield "recipe", f"{document['title']} ({document['recipe']}, scale {document['scale']})"
        yield "source", document["source"]
    else:
        yield "data", record.source
    yield from (("classes", f"{len(record.classes):,}") for _ in [0] if record.classes)
    if record.kind in ("train", "ensemble", "crossval"):
        yield "members", _listed([row["name"] for row in document["members"]])
        yield "ways to fuse", _listed([row["name"] for row in document["ensembles"]]) or "none: one member"
    if record.kind == "compare":
        yield "networks", _listed([row["name"] for row in document["networks"]])
        yield "baseline", str(document.get("baseline", MISSING))
    if record.kind == "tune":
        yield "trials", f"{len(document['trials'])}"
        yield "options searched", _listed(list(document["trials"][0].get("options", {})))
    yield "folder", str(record.run.path)
    yield "finished", datetime.fromtimestamp(record.finished_at).isoformat(sep=" ", timespec="minutes")


def _views(record: RunReader) -> Iterator[Block]:
    found = record.metrics.get("tta")
    if not found:
        return
    rows = [
        (level["views"], f"{level['passes']}", number(level["accuracy"]), interval(level), number(level["log_loss"]))
        for level in found["levels"]
    ]
    chosen = {index for index, level in enumerate(found["levels"]) if level["views"] == found["chosen"]}
    header = ("views", "passes an image", "accuracy", "95 % interval", "log loss")
    caption = f"Test-time augmentation, measured on {found.get('split', 'validation')}; the one used stands out"
    yield Table(header, rows, "lrrrr", caption, frozenset(chosen))


def _reproduce(record: RunReader) -> Iterator[Block]:
    command = command_of(record)
    if command is None:
        yield Paragraph("The configuration of the run is gone, or of another version of Tercet.", quiet=True)
    else:
        yield Code(command, "command")
        yield Paragraph("Options at their defaults are left out, and so is the output folder.", quiet=True)
    if space := space_of(record):
        yield Paragraph(f"{SPACE}:")
        yield Code(space, SPACE)
    if record.config:
        yield Details("the whole configuration", [Code(dump_yaml(dict(record.config)), "configuration")])


def _listed(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        shown = [str(item) for item in value[:40]]
        return ", ".join(shown) + (f" and {len(value) - 40} more" if len(value) > 40 else "")
    return str(value)
