"""Folders as `tercet train` leaves them, written without a training: any names, any number of classes."""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from tercet.data.samples import SampleTable
from tercet.data.sources import ArraySource
from tercet.data.store import ImageStore
from tercet.evaluation.metrics import score
from tercet.evaluation.significance import compare
from tercet.ground.files import write_json, write_text
from tercet.records.config import DataConfig
from tercet.records.documents import dump_yaml
from tercet.records.predictions import Predictions
from tercet.workflows.options.run import TRAIN
from tercet.workflows.train.run_folder import RunFolder
from tests.pictures.conftest import HOSTILE, history

SPLITS = {"validation": "val", "test": "test"}


def write_run(
    folder: Path,
    *,
    classes: tuple[str, ...] = HOSTILE,
    count: int = 60,
    source: str = "photos",
    members: tuple[str, ...] = ("first", "second"),
    splits: tuple[str, ...] = ("validation", "test"),
    options: dict[str, Any] | None = None,
) -> Path:
    """Write a finished run with `count` images a split, and return its folder."""
    run = RunFolder(folder)
    generator = np.random.default_rng(len(classes))
    names = {split: [f"{split}/{classes[0]}-{row}" for row in range(count)] for split in splits}
    labels = np.arange(count) % len(classes)
    said: dict[str, dict[str, Predictions]] = {}
    for name in (*members, "average"):
        for split in splits:
            logits = generator.normal(0, 1, (count, len(classes)))
            logits[np.arange(count), labels] += 1.5
            predictions = Predictions.from_logits(logits, ids=names[split], classes=classes, labels=labels)
            predictions.save(run.predictions(name, split))
            said.setdefault(name, {})[split] = predictions
    table = SampleTable(
        name=source,
        ids=tuple(name for split in splits for name in names[split]),
        locations=tuple(str(row) for row in range(count * len(splits))),
        labels=np.tile(labels, len(splits)),
        classes=classes,
        source=ArraySource(generator.integers(0, 256, (count * len(splits), 9, 12, 3), dtype=np.uint8)),
        splits=tuple(SPLITS[split] for split in splits for _ in range(count)),
    )
    table.save(run.samples)
    store, _ = ImageStore.decode(table, DataConfig())
    store.save(run.images)
    for index, name in enumerate(members):
        history(3, 2, offset=0.1 * index).save(run.member(name).path / "history.jsonl")
    values = TRAIN.parse_object(asked(members, options or {})).to_dict()
    write_text(run.config, dump_yaml({"data_source": source, **values}))
    write_json(run.path / "environment.json", {"python": "3", "cores": 2, "packages": {"tercet": "0"}})
    write_json(run.plan, {"classes": classes, "members": [{"name": name} for name in members]})
    write_json(run.metrics, metrics_of(said, members, classes, source, monitor_split=str(values["monitor_split"])))
    return folder


def asked(members: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a training of three epochs, or of `stages`."""
    return {"members": list(members), **({} if "stages" in options else {"epochs": 3}), **options}


def metrics_of(
    said: dict[str, dict[str, Predictions]],
    members: tuple[str, ...],
    classes: tuple[str, ...],
    source: str,
    *,
    monitor_split: str,
) -> dict[str, Any]:
    """Return what `metrics.json` holds."""
    scores = {name: {split: score(one).to_dict() for split, one in both.items()} for name, both in said.items()}
    cost = {"seconds": 12.5, "parameters": 1200, "flops": 34_000, "epochs": 5, "steps": 50, "precision": "32"}
    last = list(said["average"])[-1]
    found = compare(said["average"][last], said[members[0]][last])
    fingerprint = sha256("/".join(classes).encode()).hexdigest()
    return {
        "data": {
            "source": source,
            "classes": classes,
            "fingerprint": fingerprint,
            "notes": [f"unreadable: {classes[0]}"],
        },
        "protocol": {"monitor": "accuracy", "monitor_split": monitor_split, "seed": 0},
        "tta": None,
        "members": [{"name": name, **cost, **scores[name]} for name in members],
        "ensembles": [{"name": "average", "members": list(members), **cost, **scores["average"]}],
        "best_member": members[0],
        "chosen": "average",
        "comparison": {"of": "average", "against": members[0], **found.to_dict()},
        "versions": {"tercet": "0"},
    }
