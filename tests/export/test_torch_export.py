"""A program of PyTorch says what the bundle says: every way to combine, every kind of member, views, sets, any size."""

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.export.test_onnx_export import SHOWN, TRUTH, Peculiar, member
from tests.fixtures.bundles import CLASSES, COMBINERS, KINDS, NAMES, make_member
from torch import nn

from tercet.config.model import LabelsConfig, ModelConfig
from tercet.config.tta import TTAConfig
from tercet.core.calibration import Calibration
from tercet.core.errors import DataError, ModelError
from tercet.core.predictions import Predictions
from tercet.core.types import InputSpec
from tercet.ensemble.bundle import Bundle, Member
from tercet.ensemble.combine import Combiner
from tercet.ensemble.combiners import combine
from tercet.ensemble.multilabel import MultilabelRule
from tercet.export.onnx_assembly import describe_bundle
from tercet.export.onnx_members import trace
from tercet.export.torch_export import Combine, EnsembleModule, apply_calibration, assemble_program, chosen_sets
from tercet.export.verification import Verification, compare_outputs
from tercet.inference.torch_model import DOCUMENT, TorchModel, save_program
from tercet.models.classifier import Classifier
from tercet.models.forward import Logits


def written(tmp_path: Path, bundle: Bundle) -> TorchModel:
    save_program(assemble_program(bundle), tmp_path / "model.pt2", describe_bundle(bundle, version="1.2.3"))
    return TorchModel.load(tmp_path / "model.pt2")


def proved(tmp_path: Path, bundle: Bundle) -> Verification:
    found = compare_outputs(bundle, written(tmp_path, bundle), SHOWN)
    assert found.passed, found
    assert found.images == 24 and found.close_calls < 6 and found.member_gap < 1e-5
    return found


# -------------------------------------------------------------------------------------------------- combiners


class Answers(nn.Module):
    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.fusing, self.calibration = Combine(bundle.combiner), bundle.calibration

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return apply_calibration(self.fusing(logits, logits.softmax(2)), self.calibration)


def answered(bundle: Bundle, logits: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return what a traced combiner and the bundle's own make of members' logits N M K."""
    program = trace(Answers(bundle), logits[:2], free={0: "batch"}).module()
    ids = [str(row) for row in range(len(logits))]
    members = [Predictions.from_logits(own.numpy(), ids=ids, classes=CLASSES) for own in logits.double().unbind(1)]
    expected = combine(bundle.combiner, members)
    expected = expected if bundle.calibration is None else bundle.calibration.apply(expected)
    single = program(logits[:1]).detach()
    torch.testing.assert_close(single, program(logits)[:1].detach())
    return program(logits).detach().numpy(), expected.probabilities


@pytest.mark.parametrize("temperature", [None, 2.5])
@pytest.mark.parametrize("kind", KINDS)
def test_every_way_to_combine(kind: str, temperature: float | None, bundles: dict[str, Bundle]) -> None:
    bundle = bundles[kind]
    if temperature is not None:
        bundle = replace(bundle, calibration=Calibration(temperature=temperature, rows=9))
    logits = torch.randn(50, len(bundle.members), 3, generator=torch.Generator().manual_seed(1)) * 3
    found, expected = answered(bundle, logits)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    ordered = np.sort(expected, axis=1)
    clear = ordered[:, -1] - ordered[:, -2] > 1e-7  # what 32 bits can tell apart
    assert clear.sum() > 40 and (found.argmax(1) == expected.argmax(1))[clear].all()


def test_ties_are_decided_as_over_arrays(bundles: dict[str, Bundle]) -> None:
    logits = torch.tensor([[[1.0, 1.0, 0.0], [0.0, 2.0, 0.0], [3.0, 0.0, 3.0]], [[0.0, 0.0, 0.0]] * 3])
    for kind in ("vote", "pruned", "average"):
        found, expected = answered(bundles[kind], logits)
        np.testing.assert_allclose(found, expected, atol=1e-6)
    most = replace(bundles["average"], combiner=Combiner("pruned", NAMES, keep=9))
    np.testing.assert_allclose(*answered(most, logits), atol=1e-6)


# ---------------------------------------------------------------------------------------------------- the file


@pytest.fixture(scope="module")
def whole(bundles: dict[str, Bundle]) -> Bundle:
    """Folds, a head, a row classifier, a network of one layer and a timm backbone with a recurrent module."""
    return replace(bundles["fold-mean"], calibration=Calibration(temperature=1.7, rows=9), card={"data": {"of": "us"}})


@pytest.fixture(scope="module")
def model(whole: Bundle, tmp_path_factory: pytest.TempPathFactory) -> TorchModel:
    return written(tmp_path_factory.mktemp("program"), whole)


def test_a_whole_ensemble(whole: Bundle, model: TorchModel) -> None:
    found = compare_outputs(whole, model, SHOWN)
    assert found.passed and found.largest_gap < 1e-5 and found.accuracy_bundle == found.accuracy_file is not None


@pytest.mark.parametrize(("height", "width", "count"), [(1, 1, 1), (1, 40, 5), (90, 1, 1), (12, 12, 5), (130, 70, 3)])
def test_sizes_change_after_loading(height: int, width: int, count: int, whole: Bundle, model: TorchModel) -> None:
    images = np.random.default_rng(5).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    said = model.run(images)
    np.testing.assert_allclose(said.probabilities, whole.predict(list(images)).probabilities, atol=1e-5)
    assert said.members.shape == (count, 3, 3) and said.chosen is None


def test_the_file_tells_what_it_holds(whole: Bundle, model: TorchModel) -> None:
    assert (model.classes, model.member_names) == (CLASSES, NAMES)
    told = json.loads(json.dumps(describe_bundle(whole, version="1.2.3")))
    assert model.metadata == {**told, "format": "tercet-torch-1"}
    extra = {DOCUMENT: ""}
    torch.export.load(model.path, extra_files=extra)
    assert json.loads(extra[DOCUMENT])["classes"] == list(CLASSES)


def test_the_file_holds_each_number_once_and_no_path_of_this_machine(whole: Bundle, model: TorchModel) -> None:
    modules = [*(one.classifier for one in whole.members), Combine(whole.combiner)]
    numbers = {id(value): value.nbytes for module in modules for value in (*module.parameters(), *module.buffers())}
    with zipfile.ZipFile(model.path) as archive:
        kept = [
            entry for entry in archive.infolist() if entry.filename.split("/")[-1].split("_")[0] in ("weight", "tensor")
        ]
        text = b"".join(archive.read(name) for name in archive.namelist() if name.endswith(("json", "model.pt")))
    assert sum(entry.file_size for entry in kept) <= sum(numbers.values()) + 100  # a few constants
    assert str(Path(__file__).parents[2]).encode() not in text and b".py" not in text


def test_the_bundle_stays_as_it_was(whole: Bundle) -> None:
    network = EnsembleModule(whole)
    ours, theirs = (list(one.parameters()) for one in (whole.members[0].classifier, network.networks[0]))
    assert [value.data_ptr() for value in ours] == [value.data_ptr() for value in theirs]  # shared, not copied
    assert all(value.requires_grad for value in ours) and not any(value.requires_grad for value in network.parameters())


def test_members_that_want_the_same_share_its_preparation() -> None:
    one = make_member("rows")
    bundle = Bundle(CLASSES, (one, replace(one, name="again"), make_member("colours")), COMBINERS["average"])
    network = EnsembleModule(bundle)
    assert len(network.prepared) == 2 and network.places == [0, 0, 1]


def test_what_is_no_image_is_told(model: TorchModel) -> None:
    for wrong in (np.zeros((1, 8, 8, 3)), np.zeros((8, 8, 3), np.uint8), np.zeros((1, 8, 8, 1), np.uint8)):
        with pytest.raises(DataError, match="uint8 B H W 3"):
            model.run(wrong)
    bare = torch.export.load(model.path).module()  # as whoever has no Tercet asks it
    with pytest.raises(RuntimeError, match=r"Expected: Byte, Got: [Ff]loat"):
        bare(torch.zeros(1, 8, 8, 3))
    with pytest.raises(AssertionError, match=r"images.*size\(\)\[3\] == 3"):
        bare(torch.zeros(1, 8, 8, 4, dtype=torch.uint8))


def test_numbers_that_are_not_finite_are_no_answer(tmp_path: Path) -> None:
    one = make_member("rows")
    with torch.no_grad():
        next(one.classifier.head.parameters()).fill_(torch.nan)
    with pytest.raises(ModelError, match="not finite"):
        written(tmp_path, Bundle(CLASSES, (one,)))


# ---------------------------------------------------------------------------------------------------- members


SHORT = {"image_size": (3, 6)}  # these cells are written step by step


@pytest.mark.parametrize(
    "options",
    [
        {"name": "row-lstm", "hidden_size": 5},
        {
            "name": "row-bilstm",
            "hidden_size": 5,
            "activation": "relu",
            "recurrent_activation": "hard_sigmoid",
            "num_biases": 1,
            **SHORT,
        },
        {"name": "row-gru", "hidden_size": 5, "reset_after": True, "num_biases": 1},
        {"name": "row-gru", "hidden_size": 5, "reset_after": True, "activation": "relu", "num_layers": 1, **SHORT},
        {"name": "row-gru", "hidden_size": 5, "reset_after": False, "activation": "sigmoid", **SHORT},
        {"name": "row-rnn", "hidden_size": 5, "activation": "relu", "num_layers": 1},
        {"name": "row-rnn", "hidden_size": 5, "activation": "sigmoid", **SHORT},
        {"name": "wrn-10-1", "channels": 3},
        {
            "name": "test_resnet",
            "recurrent": "gru",
            "scan": "columns",
            "hidden_size": 4,
            "bidirectional": True,
            "num_layers": 2,
        },
        {
            "name": "test_resnet",
            "recurrent": "lstm",
            "scan": "pooled",
            "hidden_size": 4,
            "recurrent_activation": "hard_sigmoid",
        },
        {"name": "test_vit", "channels": 3, "recurrent": "rnn", "scan": "snake", "hidden_size": 4, "head": "linear"},
        {"name": "test_convnext", "channels": 3, "recurrent": "lstm", "scan": "cells", "hidden_size": 4, "head": "mlp"},
    ],
    ids=lambda options: " ".join(str(value) for value in options.values() if isinstance(value, str)),
)
def test_every_kind_of_member(options: dict, tmp_path: Path) -> None:
    proved(tmp_path, Bundle(CLASSES, (member(**options),)))


def test_views_are_shown_inside_the_file(tmp_path: Path) -> None:
    shown = replace(member("small-cnn", channels=3), views=TTAConfig.parse("crops:2@14+flip", seed=3))
    proved(tmp_path, Bundle(CLASSES, (shown,)))


@pytest.mark.parametrize("method", ["single", "average", "vote"])
def test_every_way_to_choose_labels(method: str) -> None:
    count = 1 if method == "single" else 3
    rule = MultilabelRule(method, (0.4, 0.5, 0.6)[:count], 0.45)  # type: ignore[arg-type]
    logits = torch.randn(60, count, 3, generator=torch.Generator().manual_seed(1))
    ids = tuple(map(str, range(60)))
    unknown = np.full((60, 3), -1)
    expected = rule.combine(rule.members(Logits(ids, logits.flatten(1).numpy(), unknown), CLASSES))
    scores, chosen = chosen_sets(logits.sigmoid(), rule)
    np.testing.assert_allclose(scores.numpy(), expected.scores, atol=1e-6)
    assert (chosen.numpy() == expected.chosen).all()


def test_sets_of_labels(tmp_path: Path) -> None:
    bundle = Bundle(
        CLASSES, (make_member("rows"), make_member("colours")), sets=MultilabelRule("vote", (0.4, 0.6), 0.45)
    )
    model = written(tmp_path, bundle)
    found = compare_outputs(bundle, model, replace(SHOWN, truth=np.eye(3, dtype=np.int64)[TRUTH.clip(0)]))
    assert found.passed, found
    images = np.random.default_rng(2).integers(0, 256, (5, 9, 14, 3), dtype=np.uint8)
    chosen, expected = model.run(images).chosen, bundle.predict(list(images))
    assert chosen is not None and chosen.dtype == np.bool_ and (chosen == expected.chosen).all()


@pytest.mark.parametrize("beam", [1, 4])
def test_a_decoder_names_labels_greedily(beam: int, tmp_path: Path) -> None:
    labels = LabelsConfig(decoder="cnn-rnn", embedding_dim=6, hidden_size=5, beam_size=beam)
    one = member("small-cnn", channels=3, labels=labels)
    bundle = Bundle(CLASSES, (one,), sets=MultilabelRule("single", (0.5,)))
    model = written(tmp_path, bundle)
    found = compare_outputs(bundle, model, replace(SHOWN, truth=None))
    assert found.passed and (found.beam_differs is None) == (beam == 1)
    assert model.metadata["sets"]["search"] == ("greedy" if beam > 1 else None)
    assert one.classifier.head.classes.beam_size == beam  # as it was


class Fixed(nn.Module):
    """Makes a number of the batch, which then cannot change."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.reshape(int(images.shape[0]), 16)[:, :12]


@pytest.mark.parametrize(
    ("layer", "told"),
    [
        (Peculiar(), r"layer features\.strange does what torch\.export cannot express"),
        (Fixed(), r"a layer does what torch\.export cannot express \(.*batch"),
    ],
)
def test_what_cannot_be_exported_is_named(layer: nn.Module, told: str) -> None:
    trunk = nn.Sequential()
    trunk.add_module("strange", layer)
    spec = InputSpec((4, 4), channels=1)
    classifier = Classifier("own", spec=spec, num_classes=3, features=trunk, head=nn.Linear(12, 3))
    bundle = Bundle(
        CLASSES, (make_member("rows"), Member("mine", classifier, ModelConfig())), Combiner("average", ("rows", "mine"))
    )
    with pytest.raises(ModelError, match=rf"member 'mine' \(own\) cannot be exported: {told}"):
        assemble_program(bundle)
