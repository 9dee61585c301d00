"""Packaged recipes: networks can be built, results exist, and a dry run fills the table."""

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
from tercet.experiments.reproduce_steps import Overrides, StepRun, step_runs
from tercet.models.build import build
from tercet.models.members import resolve_members
from tercet.models.registry import registered_network

LARGE = ("cassava", "cifar10", "cifar100", "e2e-3m", "rnn-heads", "svhn")  # networks take seconds to build
FAST = ("inaturalist", "pruning")  # compare; train and prediction files: crossval and ensemble are in test_reproduce
SCALES = [
    pytest.param(name, scale, marks=[pytest.mark.slow] if name in LARGE and scale == "paper" else [])
    for name in recipe_names()
    for scale in load_recipe(name).scales
]
SIGNERS = ("A", "B", "C", "D", "E")
KINDS = ("disc", "square", "stroke")
COUNT = 20  # images per class and signer, so that validation parts of 5 % have five images of every class


def members_of(run: StepRun) -> tuple[MemberConfig, ...]:
    """Return the networks that a step trains."""
    if run.parsed is None or run.step.command == "ensemble":
        return ()
    model, training = run.parsed.of(ModelConfig), run.parsed.of(TrainingConfig)
    if run.step.command == "compare":
        config = run.parsed.of(CompareConfig)
        cells = expand_grid(config, model, training)
        check_fairness(config, cells)
        return cells
    return resolve_members(run.parsed.of(RunConfig).members, model, training)


def result_names(run: StepRun, trained: dict[str, list[str]]) -> set[str]:
    """Return the names of the results of a step, except those of single folds."""
    command = run.step.command
    if run.parsed is None:
        return {Path(file).stem for file in run.step.files} | {"average", "pruned", "vote"}
    if command == "compare":
        return set(trained[run.name])
    members = [name for step in run.step.of or [run.name] for name in trained[step]]
    config = run.parsed.of(EnsembleConfig) if command == "ensemble" else run.parsed.of(RunConfig)
    methods = config.ensemble_methods if len(members) > 1 else ()
    return {*members, *methods, "chosen"} | ({FOLD_MEAN} if command == "crossval" else {"best"})


def build_once(member: MemberConfig, built: set[str] = set()) -> None:  # noqa: B006 - recipes share networks
    """Build a network, unless one was built that differs in cell, widths or image size only."""
    model = member.model
    key = repr((member.network, model.backbone, model.freeze, model.scan))
    if key not in built:
        with torch.device("meta"):
            if registered_network(member.network) is None:
                channels = model.input.channels or 3
                build(member.network, num_classes=2, config=model, channels=channels, load_weights=False)
        built.add(key)


@pytest.mark.parametrize(("name", "scale"), SCALES)
def test_options_are_valid_networks_can_be_built_and_results_exist(name: str, scale: Scale) -> None:
    recipe = load_recipe(name)
    setting = recipe.scales[scale]
    trained: dict[str, list[str]] = {}
    results: dict[str, set[str]] = {}
    for run in step_runs(Overrides().apply(setting), Path("."), {}):
        members = members_of(run)
        trained[run.name] = [member.name for member in members]
        results[run.name] = result_names(run, trained)
        for member in members:
            build_once(member)
            if registered_network(member.network) is None and member.model.pretrained:
                assert is_model_pretrained(member.network), f"{run.name}: {member.network} has no published weights"
    sources = [source for pair in setting.pairs for source in (pair.a, pair.b)]
    for source in [*sources, *(row.result_source(scale) for row in recipe.rows)]:
        if source is not None:
            fold, _, network = source.name.partition(": ")
            name = (network or "chosen") if fold.startswith(FOLD) else source.name
            assert name in results[source.step], str(source)


def test_the_vgg16_of_the_leaf_report_trains_with_its_dropout() -> None:
    runs = step_runs(Overrides().apply(load_recipe("leaves").scales["paper"]), Path("."), {})
    (vgg,) = (member for run in runs for member in members_of(run) if member.name == "vgg")
    with torch.device("meta"):
        classifier = build(vgg.network, num_classes=176, config=vgg.model, load_weights=False)
    rates: list[float] = []
    for layer in classifier.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.register_forward_hook(lambda layer, *_: rates.append(layer.p))
    classifier.to_empty(device="cpu")
    assert classifier.training
    classifier.features.network.features = torch.nn.Identity()  # the convolutions have no dropout
    classifier.head(classifier.features(torch.rand(2, 512, 7, 7)))
    assert [rate for rate in rates if rate] == [0.5, 0.5]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Draw a data set for every recipe: grey images with class, signer, and a test split by another signer."""
    folder, generator = tmp_path_factory.mktemp("data") / "pictures", np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    rows = [(kind, signer, number) for signer in SIGNERS for kind in KINDS for number in range(COUNT)]
    rows += [(kind, "test", number) for kind in KINDS for number in range(6)]
    with open(folder / "table.csv", "w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["image", "label", "signer", "split"])
        for kind, signer, number in rows:
            name = f"images/{kind}-{signer}-{number}.png"
            draw(kind, generator, size=28).save(folder / name)
            table.writerow([name, kind, signer, "test" if signer == "test" else "train"])
    return folder


def write_predictions(step: RecipeStep, folder: Path) -> None:
    """Write the prediction files of a step, correct for about two thirds of the rows."""
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(len(step.runs_of_classes)), step.runs_of_classes)
    for file in step.files:
        scores = generator.random((len(labels), len(step.runs_of_classes))).astype(np.float32)
        scores[np.arange(len(labels)), labels] += 0.7
        np.save(folder / file, scores / scores.sum(axis=1, keepdims=True))


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in FAST else [pytest.mark.slow]) for name in recipe_names()]
)
def test_a_dry_run_measures_every_row_and_pair(name: str, pictures: Path, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    setting = recipe.scales["small"]
    for step in setting.steps.values():
        write_predictions(step, pictures)
    grouped = any(step.options.get("leave_one_group_out") for step in setting.steps.values())
    options = {"data": {"group_column": "signer"}} if grouped else {}
    result = reproduce(name, pictures, dry_run=True, output=str(tmp_path / "run"), threads=1, **options)
    assert result.metrics["missing"] == []
    sources = [source for row in recipe.rows if (source := row.result_source("small"))]
    rows = [row for row in result.metrics["table"] if row["result"]]
    assert [row["result"] for row in rows] == [str(source) for source in sources]
    assert [row for row in rows if row["measured"] is None] == []
    overrides = Overrides(str(pictures), options.get("data", {}), dry_run=True)
    measurements = read_measurements(step_runs(overrides.apply(setting), result.path, {}))
    assert all(item.predictions.is_file() for source in sources for item in measurements[source])
    assert [row["what"] for row in result.metrics["tests"]] == [pair.what for pair in setting.pairs]
    assert "DRY RUN" in result.report


def test_other_images_replace_the_variant_of_a_named_data_set() -> None:
    setting = load_recipe("svhn").scales["paper"]
    assert Overrides(None).apply(setting).steps["seven"].data == "svhn:extra"
    assert Overrides("photos").apply(setting).steps["seven"].data == "photos"


def test_only_results_of_folds_may_be_missing() -> None:
    folds = {ResultSource("cv", name): [] for name in ("chosen", "large", "fold ann", "fold ann: large")}
    for name in ("fold A", "fold A: large", FOLD_MEAN):
        assert not find_measurement(ResultSource("cv", name), folds)
    for name in ("lrage", "fold ann: lrage"):
        with pytest.raises(ConfigError, match="has no result"):
            find_measurement(ResultSource("cv", name), folds)
    with pytest.raises(ConfigError, match="has no result"):
        find_measurement(ResultSource("run", "fold A"), {ResultSource("run", "average"): []})


def test_published_text_is_kept_without_a_measured_number() -> None:
    setting = Setting({})
    recipe = Recipe("leaves", "", "", {"small": setting}, rows=(PublishedResult("transformer", published="worst"),))
    assert "worst" in table_text("", table_rows(recipe, "small", {}))
