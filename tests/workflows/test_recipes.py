"""Every packaged recipe: its networks can be built at both scales, and a rehearsal of the small one fills its table."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.models import is_model_pretrained

from tercet.models.build import check_build
from tercet.models.networks import own_network
from tercet.records.compare_config import CompareConfig
from tercet.records.config import MemberConfig, RunConfig
from tercet.records.model_config import ModelConfig
from tercet.records.recipe import Part, Recipe, Scale
from tercet.records.training_config import TrainingConfig
from tercet.workflows.grid import check_fairness, expand_grid
from tercet.workflows.members import resolve_members
from tercet.workflows.study.changes import Changes
from tercet.workflows.study.parts import Work, works
from tercet.workflows.study.recipes import load_recipe, recipe_names
from tercet.workflows.study.run import study
from tests.workflows.conftest import draw

SCALES = [(name, scale) for name in recipe_names() for scale in load_recipe(name).scales]
SIGNERS = ("A", "B", "C", "D", "E")
KINDS = ("disc", "square", "stroke")
OF_EACH = 24  # images of a class by a signer: a twentieth of them all still validates five of every class


def parts_of(recipe: Recipe, scale: Scale) -> list[Work]:
    return works(Changes().apply(recipe.scales[scale]), Path("."), {})


def networks_of(work: Work) -> tuple[MemberConfig, ...]:
    if work.parsed is None or work.part.verb == "ensemble":
        return ()
    model, training = work.parsed.of(ModelConfig), work.parsed.of(TrainingConfig)
    if work.part.verb == "compare":
        config = work.parsed.of(CompareConfig)
        cells = expand_grid(config, model, training)
        check_fairness(config, cells)
        return cells
    return resolve_members(work.parsed.of(RunConfig).members, model, training)


def build_once(network: str, model: ModelConfig, seen: set[str] = set()) -> None:  # noqa: B006 - recipes share networks
    """Build a network, widths of its head aside, unless another recipe has it too; that takes a second for large ones."""
    if repr((network, model)) not in seen:
        with torch.device("meta"):
            check_build(network, model)
        seen.add(repr((network, model)))


@pytest.mark.parametrize(("name", "scale"), SCALES)
def test_all_options_are_known_and_all_networks_can_be_built(name: str, scale: Scale) -> None:
    for work in parts_of(load_recipe(name), scale):
        for member in networks_of(work):
            build_once(member.network, replace(member.model, dense=None, units=None))
            if own_network(member.network) is None and member.model.pretrained:
                assert is_model_pretrained(member.network), f"{work.name}: no weights are published of {member.network}"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Draw a data set that suits every recipe: grey, classes, signers, a test split by nobody else."""
    folder, generator = tmp_path_factory.mktemp("data") / "pictures", np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    rows = [(kind, signer, number) for signer in SIGNERS for kind in KINDS for number in range(OF_EACH)]
    rows += [(kind, "test", number) for kind in KINDS for number in range(6)]
    with open(folder / "table.csv", "w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["image", "label", "signer", "split"])
        for kind, signer, number in rows:
            name = f"images/{kind}-{signer}-{number}.png"
            draw(kind, generator, size=28).save(folder / name)
            table.writerow([name, kind, signer, "test" if signer == "test" else "train"])
    return folder


def give_predictions(part: Part, folder: Path) -> None:
    """Write the files that a part blends, right about two thirds of their rows."""
    generator = np.random.default_rng(0)
    truth = np.repeat(np.arange(len(part.runs_of_classes)), part.runs_of_classes)
    for file in part.files:
        scores = generator.random((len(truth), len(part.runs_of_classes))).astype(np.float32)
        scores[np.arange(len(truth)), truth] += 0.7
        np.save(folder / file, scores / scores.sum(axis=1, keepdims=True))


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("name", recipe_names())
def test_a_rehearsal_measures_every_row_and_pair(name: str, pictures: Path, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    setting = recipe.scales["small"]
    for part in setting.parts.values():
        give_predictions(part, pictures)
    grouped = any(part.options.get("leave_one_group_out") for part in setting.parts.values())
    options = {"data": {"group_column": "signer"}} if grouped else {}
    done = study(name, pictures, rehearse=True, output=str(tmp_path / "study"), threads=1, **options)
    assert done.metrics["missing"] == []
    readings = [row.reading("small") for row in recipe.rows]
    measured = {row["reading"]: row["measured"] for row in done.metrics["table"] if row["reading"]}
    assert set(measured) == {str(reading) for reading in readings if reading}
    assert [reading for reading, value in measured.items() if value is None] == []
    assert [row["what"] for row in done.metrics["tests"]] == [pair.what for pair in setting.pairs]
    assert "REHEARSAL" in done.report
