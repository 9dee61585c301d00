"""Every packaged recipe: its networks can be built, its readings exist, and a dry run fills its table."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.fixtures.runs import draw
from timm.models import is_model_pretrained

from tercet.config.commands import EnsembleConfig
from tercet.config.experiments import CompareConfig
from tercet.config.model import ModelConfig
from tercet.config.recipe import (
    PublishedResult,
    Recipe,
    RecipeStep,
    ResultSource,
    Scale,
    Setting,
    load_recipe,
    recipe_names,
)
from tercet.config.run import MemberConfig, RunConfig
from tercet.config.training import TrainingConfig
from tercet.core.errors import ConfigError
from tercet.experiments.compare_grid import check_fairness, expand_grid
from tercet.experiments.reproduce import reproduce
from tercet.experiments.reproduce_results import (
    FOLD,
    FOLD_MEAN,
    find_measurement,
    read_measurements,
    table_rows,
    table_text,
)
from tercet.experiments.reproduce_steps import Overrides, StepResult, works
from tercet.models.build import check_build
from tercet.models.members import resolve_members
from tercet.models.registry import registered_network

SCALES = [(name, scale) for name in recipe_names() for scale in load_recipe(name).scales]
SIGNERS = ("A", "B", "C", "D", "E")
KINDS = ("disc", "square", "stroke")
OF_EACH = 20  # images of a class by a signer: a twentieth of them all still validates five of every class


def members_of(work: StepResult) -> tuple[MemberConfig, ...]:
    """Return the networks that a part trains, as its verb resolves them."""
    if work.parsed is None or work.part.command == "ensemble":
        return ()
    model, training = work.parsed.of(ModelConfig), work.parsed.of(TrainingConfig)
    if work.part.command == "compare":
        config = work.parsed.of(CompareConfig)
        cells = expand_grid(config, model, training)
        check_fairness(config, cells)
        return cells
    return resolve_members(work.parsed.of(RunConfig).members, model, training)


def names_of(work: StepResult, trained: dict[str, list[str]]) -> set[str]:
    """Return what a part will have measured, folds aside."""
    verb = work.part.command
    if work.parsed is None:
        return {Path(file).stem for file in work.part.files} | {"average", "pruned", "vote"}
    if verb == "compare":
        return set(trained[work.name])
    names = [name for part in work.part.of or [work.name] for name in trained[part]]
    fused = (
        work.parsed.of(EnsembleConfig).ensemble_methods
        if verb == "ensemble"
        else work.parsed.of(RunConfig).ensemble_methods
    )
    return {*names, *(fused if len(names) > 1 else ()), "chosen"} | ({FOLD_MEAN} if verb == "crossval" else {"best"})


def build_once(member: MemberConfig, seen: set[str] = set()) -> None:  # noqa: B006 - recipes share networks
    """Build a network, unless one was that differs in cell, widths or pixels alone: large ones take seconds."""
    model = member.model
    kind = repr((member.network, model.backbone, model.freeze, model.scan))
    if kind not in seen:
        with torch.device("meta"):
            check_build(member.network, model)
        seen.add(kind)


@pytest.mark.parametrize(("name", "scale"), SCALES)
def test_options_are_known_networks_can_be_built_and_readings_exist(name: str, scale: Scale) -> None:
    recipe = load_recipe(name)
    setting = recipe.scales[scale]
    trained: dict[str, list[str]] = {}
    measured: dict[str, set[str]] = {}
    for work in works(Overrides().apply(setting), Path("."), {}):
        members = members_of(work)
        trained[work.name] = [member.name for member in members]
        measured[work.name] = names_of(work, trained)
        for member in members:
            build_once(member)
            if registered_network(member.network) is None and member.model.pretrained:
                assert is_model_pretrained(member.network), f"{work.name}: no weights are published of {member.network}"
    readings = [reading for pair in setting.pairs for reading in (pair.a, pair.b)]
    for reading in [*readings, *(row.result_source(scale) for row in recipe.rows)]:
        if reading is not None:
            fold, _, network = reading.name.partition(": ")
            name = (network or "chosen") if fold.startswith(FOLD) else reading.name
            assert name in measured[reading.part], str(reading)


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


def give_predictions(part: RecipeStep, folder: Path) -> None:
    """Write the prediction files of a part, right about two thirds of their rows."""
    generator = np.random.default_rng(0)
    truth = np.repeat(np.arange(len(part.runs_of_classes)), part.runs_of_classes)
    for file in part.files:
        scores = generator.random((len(truth), len(part.runs_of_classes))).astype(np.float32)
        scores[np.arange(len(truth)), truth] += 0.7
        np.save(folder / file, scores / scores.sum(axis=1, keepdims=True))


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("name", recipe_names())
def test_a_dry_run_measures_every_row_and_pair(name: str, pictures: Path, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    setting = recipe.scales["small"]
    for part in setting.parts.values():
        give_predictions(part, pictures)
    grouped = any(part.options.get("leave_one_group_out") for part in setting.parts.values())
    options = {"data": {"group_column": "signer"}} if grouped else {}
    done = reproduce(name, pictures, dry_run=True, output=str(tmp_path / "study"), threads=1, **options)
    assert done.metrics["missing"] == []
    readings = [reading for row in recipe.rows if (reading := row.result_source("small"))]
    rows = [row for row in done.metrics["table"] if row["reading"]]
    assert [row["reading"] for row in rows] == [str(reading) for reading in readings]
    assert [row for row in rows if row["measured"] is None] == []
    parts = works(Overrides(str(pictures), options.get("data", {}), dry_run=True).apply(setting), done.path, {})
    found = read_measurements(parts)
    assert all(one.predictions.is_file() for reading in readings for one in found[reading])
    assert [row["what"] for row in done.metrics["tests"]] == [pair.what for pair in setting.pairs]
    assert "DRY RUN" in done.report


def test_other_images_replace_the_variant_of_a_named_data_set() -> None:
    setting = load_recipe("svhn").scales["paper"]
    assert Overrides(None).apply(setting).parts["seven"].data == "svhn:extra"
    assert Overrides("photos").apply(setting).parts["seven"].data == "photos"


def test_only_folds_may_be_missing_where_other_images_make_them() -> None:
    folds = {ResultSource("cv", name): [] for name in ("chosen", "large", "fold ann", "fold ann: large")}
    for name in ("fold A", "fold A: large", FOLD_MEAN):
        assert not find_measurement(ResultSource("cv", name), folds)
    for name in ("lrage", "fold ann: lrage"):
        with pytest.raises(ConfigError, match="nothing called"):
            find_measurement(ResultSource("cv", name), folds)
    with pytest.raises(ConfigError, match="nothing called"):
        find_measurement(ResultSource("run", "fold A"), {ResultSource("run", "average"): []})


def test_a_published_word_stands_without_a_measured_number() -> None:
    setting = Setting({})
    recipe = Recipe("leaves", "", "", {"small": setting}, rows=(PublishedResult("transformer", published="worst"),))
    assert "worst" in table_text("", table_rows(recipe, "small", {}))
