"""`evaluate` gives an exported multi-label file the scores of its bundle."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import ModelProto
from tests.experiments.test_multilabel import draw_table

from tercet.cli.main import main
from tercet.config.model import LabelsConfig, ModelConfig
from tercet.config.run import DataConfig
from tercet.core.errors import DataError
from tercet.core.multilabel import MultilabelPredictions
from tercet.ensemble.bundle import Bundle, Member
from tercet.ensemble.multilabel import MultilabelRule
from tercet.export.metadata import decoders, describe_bundle
from tercet.export.onnx_assembly import assemble_onnx
from tercet.export.onnx_members import export_member
from tercet.export.torch_export import assemble_program
from tercet.inference.evaluate import Evaluation, evaluate
from tercet.inference.onnx_file import read_checked, write_checked
from tercet.inference.predict import predict_files
from tercet.inference.torch_model import save_program
from tercet.models.build import build

LABELS = (
    "form=angular",
    "form=round",
    "framed",
    "shape=disc",
    "shape=square",
    "shape=hexagon",
)  # no image has the last
COLUMNS = DataConfig(label_columns=("shape", "form", "framed"))


def make_member(name: str, labels: LabelsConfig) -> Member:
    config = ModelConfig(head_hidden_dim=8, labels=labels)
    torch.manual_seed(len(name))
    classifier = build("small-cnn", num_classes=len(LABELS), config=config, channels=1, image_size=(20, 20))
    for parameter in classifier.parameters():  # distinct scores that do not round to 1 in 32 bits
        torch.nn.init.normal_(parameter, std=0.12)
    return Member(name, classifier, config)


@pytest.fixture(scope="module")
def members() -> tuple[Member, ...]:
    chain = LabelsConfig(decoder="cnn-rnn", embedding_dim=6, hidden_size=5, beam_size=1)
    return make_member("each", LabelsConfig()), make_member("chain", chain)


@pytest.fixture(scope="module")
def graphs(members: tuple[Member, ...]) -> list[ModelProto]:
    return [export_member(member) for member in members]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_table(tmp_path_factory.mktemp("sets") / "data", count=30)


def compare(bundle: Bundle, graphs: list[ModelProto], data: Path, file: Path) -> Evaluation:
    """Evaluate the bundle and its ONNX file, and return the file's result."""
    file.write_bytes(assemble_onnx(bundle, graphs, version="0"))
    return compare_file(bundle, data, file)


def compare_file(bundle: Bundle, data: Path, file: Path) -> Evaluation:
    """Evaluate the bundle and its file, and return the file's result."""
    expected, result = evaluate(bundle, data, config=COLUMNS), evaluate(file, data, config=COLUMNS, batch_size=7)
    assert isinstance(expected.predictions, MultilabelPredictions)
    assert isinstance(result.predictions, MultilabelPredictions)
    assert result.predictions.predicted_names == expected.predictions.predicted_names
    assert result.predictions.true_names == expected.predictions.true_names
    assert np.abs(result.predictions.scores - expected.predictions.scores).max() < 1e-4
    assert result.to_text() == expected.to_text()
    return result


@pytest.mark.parametrize("method", ["average", "vote"])
def test_scores_and_tables_equal_those_of_the_bundle(
    method: str, members: tuple[Member, ...], graphs: list[ModelProto], table: Path, tmp_path: Path
) -> None:
    rule = MultilabelRule(method, (0.35, 0.5), 0.45)  # type: ignore[arg-type]
    result = compare(Bundle(LABELS, members, sets=rule), graphs, table, tmp_path / "sets.onnx")
    assert [row.name for row in result.rows] == [method, "each", "chain"]
    assert len({row.scores.o_f1 for row in result.rows}) > 1  # each member has its own threshold
    assert result.missing == ("shape=hexagon",) and result.extra == {"shape=stroke": 10}


def test_a_torch_program_has_the_scores_of_its_bundle(members: tuple[Member, ...], table: Path, tmp_path: Path) -> None:
    bundle = Bundle(LABELS, members, sets=MultilabelRule("average", (0.35, 0.5), 0.45))
    save_program(assemble_program(bundle), tmp_path / "sets.pt2", describe_bundle(bundle, version="0"))
    assert [row.name for row in compare_file(bundle, table, tmp_path / "sets.pt2").rows] == ["average", "each", "chain"]
    result = predict_files(tmp_path / "sets.pt2", [table.parent], csv=str(tmp_path / "sets.csv"))
    assert isinstance(result.predictions, MultilabelPredictions) and "scores" in result.to_dict()["images"][0]
    assert (tmp_path / "sets.csv").read_text().startswith("id,predicted,form=angular")


def test_the_command_evaluates_a_file_like_its_bundle(
    members: tuple[Member, ...],
    graphs: list[ModelProto],
    table: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bundle = Bundle(LABELS, members[:1], sets=MultilabelRule("single", (0.4,)))
    result = compare(bundle, graphs[:1], table, tmp_path / "single.onnx")
    assert [row.name for row in result.rows] == ["each"]
    documents = []
    for model in (tmp_path / "single.onnx", bundle.save(tmp_path / "bundle")):
        assert main(["evaluate", str(model), str(table), "--data.label-columns", "shape,form,framed", "--json"]) == 0
        documents.append(json.loads(capsys.readouterr().out))
    assert documents[0].keys() == documents[1].keys() and documents[0]["o_f1"] == documents[1]["o_f1"]
    assert documents[0]["parameters"] == documents[1]["parameters"] == bundle.parameters


def test_unknown_parameter_counts_are_shown_as_dashes(
    members: tuple[Member, ...], graphs: list[ModelProto], table: Path, tmp_path: Path
) -> None:
    bundle = Bundle(LABELS, members, sets=MultilabelRule("vote", (0.4, 0.5)))
    content = assemble_onnx(bundle, graphs, version="0")
    document = read_checked(content, "file")
    del document["parameters"]
    for number, entry in enumerate(document["members"]):
        entry["parameters"] = ("many", True)[number]  # invalid values
    metadata = {key: value for key, value in document.items() if key not in ("model_sha256", "format")}
    model = content[: content.rindex(b"\x0a\x06tercet")]
    model = model[: model.rindex(b"\x72")]  # start of the metadata field
    (tmp_path / "old.onnx").write_bytes(write_checked(model, metadata))
    result = evaluate(tmp_path / "old.onnx", table, config=COLUMNS)
    assert [row.parameters for row in result.rows] == [None, None, None]
    assert result.to_text().count(" -") >= 3


def test_greedy_decoding_in_place_of_beam_search_is_noted(
    graphs: list[ModelProto], table: Path, tmp_path: Path
) -> None:
    chain = make_member("chain", LabelsConfig(decoder="cnn-rnn", embedding_dim=6, hidden_size=5, beam_size=3))
    bundle = Bundle(LABELS, (chain,), sets=MultilabelRule("single", (0.5,)))
    assert [decoder.beam_size for decoder in decoders(bundle)] == [3]
    (tmp_path / "chain.onnx").write_bytes(assemble_onnx(bundle, graphs[1:], version="0"))
    result = evaluate(tmp_path / "chain.onnx", table, config=COLUMNS)
    assert "greedily" in result.to_text() and result.to_dict()["note"] is not None
    expected = evaluate(bundle, table, config=COLUMNS)
    assert "greedily" not in expected.to_text() and expected.to_dict()["note"] is None


def test_single_label_data_are_refused(
    members: tuple[Member, ...], graphs: list[ModelProto], table: Path, tmp_path: Path
) -> None:
    bundle = Bundle(LABELS, members[:1], sets=MultilabelRule("single", (0.4,)))
    (tmp_path / "sets.onnx").write_bytes(assemble_onnx(bundle, graphs[:1], version="0"))
    with pytest.raises(DataError, match=r"sets\.onnx"):
        evaluate(tmp_path / "sets.onnx", table, config=replace(COLUMNS, label_columns=("shape",)))
