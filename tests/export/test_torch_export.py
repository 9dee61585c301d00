"""torch.export programs have the outputs of their bundles: combiners, kinds of members, label sets, image sizes."""

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.export.samples import (
    MULTILABEL_SAMPLES,
    SAMPLES,
    UNLABELLED_SAMPLES,
    DataDependent,
    kinds,
    member,
    member_of,
    member_with_layer,
)
from tests.fixtures.bundles import CLASSES, COMBINERS, KINDS, NAMES, make_member
from torch import nn

from tercet.config.model import LabelsConfig
from tercet.config.tta import TTAConfig
from tercet.core.calibration import Calibration
from tercet.core.errors import DataError, ModelError
from tercet.core.predictions import Predictions
from tercet.ensemble.bundle import Bundle
from tercet.ensemble.combine import Combiner
from tercet.ensemble.combiners import combine
from tercet.ensemble.multilabel import MultilabelRule
from tercet.export.metadata import describe_bundle
from tercet.export.torch_export import EnsembleModule, Outputs, assemble_program
from tercet.export.tracing import trace
from tercet.export.verification import compare_outputs
from tercet.inference.torch_model import DOCUMENT, TorchModel, save_program
from tercet.models.forward import Logits

FAST = ("row-lstm", "row-rnn, sigmoid", "test_vit")
UNROLLED = ("row-bilstm", "row-gru, reset before", "row-gru, one layer", "row-rnn, sigmoid")
"""Kinds whose cells PyTorch has no kernel for: they are traced step by step, so the images are small."""


def write_model(tmp_path: Path, bundle: Bundle) -> TorchModel:
    save_program(assemble_program(bundle), tmp_path / "model.pt2", describe_bundle(bundle, version="1.2.3"))
    return TorchModel.load(tmp_path / "model.pt2")


def check_export(tmp_path: Path, bundle: Bundle) -> None:
    result = compare_outputs(bundle, write_model(tmp_path, bundle), SAMPLES)
    assert result.passed, result
    assert result.images == 24 and result.close_calls < 6 and result.member_gap < 1e-5


# -------------------------------------------------------------------------------------------------- combiners


def combine_both(bundle: Bundle, logits: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the combined probabilities of the traced program and of the bundle, for members' logits N M K."""
    program = trace(Outputs(bundle), logits[:2], dynamic={0: "batch"}).module()
    ids = [str(row) for row in range(len(logits))]
    members = [
        Predictions.from_logits(values.numpy(), ids=ids, classes=CLASSES) for values in logits.double().unbind(1)
    ]
    expected = combine(bundle.combiner, members)
    expected = expected if bundle.calibration is None else bundle.calibration.apply(expected)
    result = program(logits)["probabilities"].detach()
    torch.testing.assert_close(program(logits[:1])["probabilities"].detach(), result[:1])
    return result.numpy(), expected.probabilities


@pytest.mark.parametrize(("kind", "temperature"), [*((kind, None) for kind in KINDS), ("average", 2.5), ("vote", 2.5)])
def test_every_combiner_is_exported(kind: str, temperature: float | None, bundles: dict[str, Bundle]) -> None:
    bundle = bundles[kind]
    if temperature is not None:
        bundle = replace(bundle, calibration=Calibration(temperature=temperature, rows=9))
    logits = torch.randn(50, len(bundle.members), 3, generator=torch.Generator().manual_seed(1)) * 3
    result, expected = combine_both(bundle, logits)
    np.testing.assert_allclose(result, expected, atol=1e-5)
    ordered = np.sort(expected, axis=1)
    clear = ordered[:, -1] - ordered[:, -2] > 1e-7  # distinguishable in 32 bits
    assert clear.sum() > 40 and (result.argmax(1) == expected.argmax(1))[clear].all()


def test_ties_are_resolved_as_in_numpy(bundles: dict[str, Bundle]) -> None:
    logits = torch.tensor([[[1.0, 1.0, 0.0], [0.0, 2.0, 0.0], [3.0, 0.0, 3.0]], [[0.0, 0.0, 0.0]] * 3])
    for kind in ("vote", "pruned", "average"):
        result, expected = combine_both(bundles[kind], logits)
        np.testing.assert_allclose(result, expected, atol=1e-6)
    keep_all = replace(bundles["average"], combiner=Combiner("pruned", NAMES, keep=9))
    np.testing.assert_allclose(*combine_both(keep_all, logits), atol=1e-6)


# ---------------------------------------------------------------------------------------------------- the file


@pytest.fixture(scope="module")
def ensemble(bundles: dict[str, Bundle]) -> Bundle:
    """Folds, a fusion head, a row classifier, a small CNN and a timm backbone with a recurrent module."""
    return replace(bundles["fold-mean"], calibration=Calibration(temperature=1.7, rows=9), card={"data": {"of": "us"}})


@pytest.fixture(scope="module")
def model(ensemble: Bundle, tmp_path_factory: pytest.TempPathFactory) -> TorchModel:
    return write_model(tmp_path_factory.mktemp("program"), ensemble)


def test_an_ensemble_is_exported_as_one_program(ensemble: Bundle, model: TorchModel) -> None:
    result = compare_outputs(ensemble, model, SAMPLES)
    assert result.passed and result.largest_gap < 1e-5 and result.accuracy_change == 0


@pytest.mark.parametrize(("height", "width", "count"), [(1, 1, 1), (1, 40, 5), (90, 1, 1), (130, 70, 3)])
def test_image_and_batch_sizes_are_dynamic(
    height: int, width: int, count: int, ensemble: Bundle, model: TorchModel
) -> None:
    images = np.random.default_rng(5).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    output = model.run(images)
    np.testing.assert_allclose(output.probabilities, ensemble.predict(list(images)).probabilities, atol=1e-5)
    assert output.members.shape == (count, 3, 3) and output.chosen is None


def test_metadata_describes_the_bundle(ensemble: Bundle, model: TorchModel) -> None:
    assert (model.classes, model.member_names) == (CLASSES, NAMES)
    document = json.loads(json.dumps(describe_bundle(ensemble, version="1.2.3")))
    assert model.metadata == {**document, "format": "tercet-torch-1"}
    extra_files = {DOCUMENT: ""}
    torch.export.load(model.path, extra_files=extra_files)
    assert json.loads(extra_files[DOCUMENT])["classes"] == list(CLASSES)


def test_the_file_stores_each_weight_once_and_no_paths(ensemble: Bundle, model: TorchModel) -> None:
    modules = [*(item.classifier for item in ensemble.members), Outputs(ensemble)]
    sizes = {id(value): value.nbytes for module in modules for value in (*module.parameters(), *module.buffers())}
    with zipfile.ZipFile(model.path) as archive:
        tensors = [
            entry for entry in archive.infolist() if entry.filename.split("/")[-1].split("_")[0] in ("weight", "tensor")
        ]
        text = b"".join(archive.read(name) for name in archive.namelist() if name.endswith(("json", "model.pt")))
    assert sum(entry.file_size for entry in tensors) <= sum(sizes.values()) + 100  # a few constants
    assert str(Path(__file__).parents[2]).encode() not in text and b".py" not in text


def test_exporting_shares_weights_and_does_not_change_the_bundle(ensemble: Bundle) -> None:
    network = EnsembleModule(ensemble)
    original, copied = (list(module.parameters()) for module in (ensemble.members[0].classifier, network.networks[0]))
    assert [value.data_ptr() for value in original] == [value.data_ptr() for value in copied]
    assert all(value.requires_grad for value in original)
    assert not any(value.requires_grad for value in network.parameters())


def test_members_with_equal_geometry_share_preprocessing() -> None:
    rows = make_member("rows")
    bundle = Bundle(CLASSES, (rows, replace(rows, name="again"), make_member("colours")), COMBINERS["average"])
    network = EnsembleModule(bundle)
    assert len(network.preprocess) == 2 and network.input_indices == [0, 0, 1]


def test_invalid_images_are_refused(model: TorchModel) -> None:
    for images in (np.zeros((1, 8, 8, 3)), np.zeros((8, 8, 3), np.uint8), np.zeros((1, 8, 8, 1), np.uint8)):
        with pytest.raises(DataError, match="uint8 B H W 3"):
            model.run(images)
    program = torch.export.load(model.path).module()  # without Tercet
    with pytest.raises(RuntimeError, match=r"Expected: Byte, Got: [Ff]loat"):
        program(torch.zeros(1, 8, 8, 3))
    with pytest.raises(AssertionError, match=r"images.*size\(\)\[3\] == 3"):
        program(torch.zeros(1, 8, 8, 4, dtype=torch.uint8))


def test_a_program_with_non_finite_outputs_is_refused(tmp_path: Path) -> None:
    rows = member("row-rnn", image_size=(3, 6), hidden_size=2, num_layers=1)
    with torch.no_grad():
        next(rows.classifier.head.parameters()).fill_(torch.nan)
    with pytest.raises(ModelError, match="not finite"):
        write_model(tmp_path, Bundle(CLASSES, (rows,)))


# ---------------------------------------------------------------------------------------------------- members


@pytest.mark.parametrize("kind", kinds(*FAST))
def test_every_kind_of_member_is_exported(kind: str, tmp_path: Path) -> None:
    changes = {"image_size": (3, 6)} if kind in UNROLLED else {}
    check_export(tmp_path, Bundle(CLASSES, (member_of(kind, **changes),)))


@pytest.mark.slow
def test_test_time_augmentation_is_exported(tmp_path: Path) -> None:
    augmented = replace(member("small-cnn", channels=3), views=TTAConfig.parse("crops:2@14+flip", seed=3))
    check_export(tmp_path, Bundle(CLASSES, (augmented,)))


@pytest.mark.parametrize("method", ["single", "average", "vote", "mine"])
def test_multilabel_rules_give_the_labels_of_the_bundle(method: str) -> None:
    count = 1 if method == "single" else 3
    own = {"weights": (0.5, 0.2, 0.3), "operation": "vote"} if method == "mine" else {}  # as a bundle stores it
    rule = MultilabelRule(method, (0.4, 0.5, 0.6)[:count], 0.45, **own)
    logits = torch.randn(60, count, 3, generator=torch.Generator().manual_seed(1))
    ids = tuple(map(str, range(60)))
    unknown = np.full((60, 3), -1)
    expected = rule.combine(rule.members(Logits(ids, logits.flatten(1).numpy(), unknown), CLASSES))
    members = tuple(replace(make_member("rows"), name=str(number)) for number in range(count))
    outputs = Outputs(Bundle(CLASSES, members, sets=rule))(logits)
    np.testing.assert_allclose(outputs["probabilities"].numpy(), expected.scores, atol=1e-6)
    assert (outputs["chosen"].numpy() == expected.chosen).all()


def test_multilabel_bundles_are_exported(tmp_path: Path) -> None:
    rule = MultilabelRule("vote", (0.4, 0.6), 0.45)
    bundle = Bundle(CLASSES, (make_member("rows"), make_member("colours")), sets=rule)
    program = write_model(tmp_path, bundle)
    result = compare_outputs(bundle, program, MULTILABEL_SAMPLES)
    assert result.passed, result
    images = np.random.default_rng(2).integers(0, 256, (5, 9, 14, 3), dtype=np.uint8)
    labels, expected = program.run(images).chosen, bundle.predict(list(images))
    assert labels is not None and labels.dtype == np.bool_ and (labels == expected.chosen).all()


@pytest.mark.parametrize("beam", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_label_decoders_are_exported_as_greedy(beam: int, tmp_path: Path) -> None:
    labels = LabelsConfig(decoder="cnn-rnn", embedding_dim=6, hidden_size=5, beam_size=beam)
    decoder = member("small-cnn", channels=3, labels=labels)
    bundle = Bundle(CLASSES, (decoder,), sets=MultilabelRule("single", (0.5,)))
    program = write_model(tmp_path, bundle)
    result = compare_outputs(bundle, program, UNLABELLED_SAMPLES)
    assert result.passed and (result.beam_differs is None) == (beam == 1)
    assert program.metadata["sets"]["search"] == ("greedy" if beam > 1 else None)
    assert decoder.classifier.head.classes.beam_size == beam  # unchanged


class FixedBatch(nn.Module):
    """Reads the batch size in Python, so that it cannot be dynamic."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.reshape(int(images.shape[0]), 16)[:, :12]


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (DataDependent(), r"torch\.export does not support layer features\.special"),
        (FixedBatch(), r"torch\.export does not support a layer \(.*batch"),
    ],
)
def test_an_unsupported_layer_is_named(layer: nn.Module, message: str) -> None:
    members = (member_with_layer(layer), make_member("rows"))
    bundle = Bundle(CLASSES, members, Combiner("average", ("mine", "rows")))
    with pytest.raises(ModelError, match=rf"member 'mine' \(own\) cannot be exported: {message}"):
        assemble_program(bundle)
