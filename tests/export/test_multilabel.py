"""An exported file that tells sets of labels is measured as its bundle is."""

import json
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
from tercet.ensemble.bundle import Bundle, Member
from tercet.ensemble.multilabel import MultilabelRule
from tercet.export.onnx_assembly import assemble_onnx
from tercet.export.onnx_members import member_graphs
from tercet.inference.evaluate_file import evaluate_file
from tercet.inference.multilabel import MultilabelEvaluation
from tercet.inference.onnx_file import read_checked, write_checked
from tercet.inference.predict import evaluate
from tercet.models.build import build

LABELS = ("form=angular", "form=round", "framed", "shape=disc", "shape=square", "shape=hexagon")  # one is not shown
COLUMNS = DataConfig(label_columns=("shape", "form", "framed"))
WORDS = ["--data.label-columns", "shape,form,framed"]


def make_member(name: str, labels: LabelsConfig) -> Member:
    config = ModelConfig(head_hidden_dim=8, labels=labels)
    torch.manual_seed(len(name))
    classifier = build("small-cnn", num_classes=len(LABELS), config=config, channels=1, image_size=(20, 20))
    for parameter in classifier.parameters():  # different scores, and none so near to 1 that 32 bits make it 1
        torch.nn.init.normal_(parameter, std=0.12)
    return Member(name, classifier, config)


@pytest.fixture(scope="module")
def members() -> tuple[Member, ...]:
    chain = LabelsConfig(decoder="cnn-rnn", embedding_dim=6, hidden_size=5, beam_size=1)
    return make_member("each", LabelsConfig()), make_member("other", LabelsConfig()), make_member("chain", chain)


@pytest.fixture(scope="module")
def graphs(members: tuple[Member, ...]) -> list[ModelProto]:
    return member_graphs(Bundle(LABELS, members, sets=MultilabelRule("vote", (0.5, 0.5, 0.5))))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_table(tmp_path_factory.mktemp("sets") / "data", count=30)


def compare(bundle: Bundle, graphs: list[ModelProto], data: Path, file: Path) -> MultilabelEvaluation:
    """Measure both roads, and return what the file's says."""
    file.write_bytes(assemble_onnx(bundle, graphs, version="0"))
    theirs, ours = evaluate(bundle, data, config=COLUMNS), evaluate_file(file, data, config=COLUMNS, batch_size=7)
    assert isinstance(theirs, MultilabelEvaluation) and isinstance(ours, MultilabelEvaluation)
    assert ours.predictions.predicted_names == theirs.predictions.predicted_names
    assert ours.predictions.true_names == theirs.predictions.true_names
    assert np.abs(ours.predictions.scores - theirs.predictions.scores).max() < 1e-4
    assert ours.to_text() == theirs.to_text()
    return ours


@pytest.mark.parametrize("method", ["average", "vote"])
def test_tables_and_scores_are_those_of_the_bundle(
    method: str, members: tuple[Member, ...], graphs: list[ModelProto], pictures: Path, tmp_path: Path
) -> None:
    rule = MultilabelRule(method, (0.35, 0.6, 0.5), 0.45)  # type: ignore[arg-type]
    found = compare(Bundle(LABELS, members, sets=rule), graphs, pictures, tmp_path / "sets.onnx")
    assert [row.name for row in found.rows] == [method, "each", "other", "chain"]
    assert len({row.scores.o_f1 for row in found.rows}) > 2  # each member by its own threshold
    assert found.missing == ("shape=hexagon",) and found.extra == {"shape=stroke": 10}


def test_a_single_member_and_the_command_line(
    members: tuple[Member, ...],
    graphs: list[ModelProto],
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bundle = Bundle(LABELS, members[:1], sets=MultilabelRule("single", (0.4,)))
    found = compare(bundle, graphs[:1], pictures, tmp_path / "one.onnx")
    assert [row.name for row in found.rows] == ["each"]
    folder = bundle.save(tmp_path / "bundle")
    answers = []
    for model in (tmp_path / "one.onnx", folder):
        assert main(["evaluate", str(model), str(pictures), *WORDS, "--json"]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert answers[0].keys() == answers[1].keys() and answers[0]["o_f1"] == answers[1]["o_f1"]
    assert answers[0]["parameters"] == answers[1]["parameters"] == bundle.parameter_count()


def test_a_file_from_before_knows_no_parameters(
    members: tuple[Member, ...], graphs: list[ModelProto], pictures: Path, tmp_path: Path
) -> None:
    content = assemble_onnx(
        Bundle(LABELS, members[:2], sets=MultilabelRule("vote", (0.4, 0.5))), graphs[:2], version="0"
    )
    document = read_checked(content, "file")
    del document["parameters"]
    for number, member in enumerate(document["members"]):
        member["parameters"] = ("many", True)[number]  # nor does one that tells something else
    told = {key: value for key, value in document.items() if key not in ("model_sha256", "format")}
    model = content[: content.rindex(b"\x0a\x06tercet")]
    model = model[: model.rindex(b"\x72")]  # where the description's field begins
    (tmp_path / "old.onnx").write_bytes(write_checked(model, told))
    found = evaluate_file(tmp_path / "old.onnx", pictures, config=COLUMNS)
    assert [row.parameters for row in found.rows] == [None, None, None]
    assert [row.costs()[1] for row in found.rows] == ["-", "-", "-"]


def test_a_file_that_does_not_search_says_so(pictures: Path, tmp_path: Path) -> None:
    chain = make_member("chain", LabelsConfig(decoder="cnn-rnn", embedding_dim=6, hidden_size=5, beam_size=3))
    bundle = Bundle(LABELS, (chain,), sets=MultilabelRule("single", (0.5,)))
    (tmp_path / "chain.onnx").write_bytes(assemble_onnx(bundle, member_graphs(bundle), version="0"))
    ours = evaluate_file(tmp_path / "chain.onnx", pictures, config=COLUMNS)
    assert "decodes labels greedily" in ours.to_text() and ours.to_dict()["note"] is not None
    theirs = evaluate(bundle, pictures, config=COLUMNS)
    assert "greedily" not in theirs.to_text() and theirs.to_dict()["note"] is None


def test_data_of_the_other_kind_are_refused(
    members: tuple[Member, ...], graphs: list[ModelProto], pictures: Path, tmp_path: Path
) -> None:
    file = tmp_path / "sets.onnx"
    file.write_bytes(
        assemble_onnx(Bundle(LABELS, members[:1], sets=MultilabelRule("single", (0.4,))), graphs[:1], version="0")
    )
    with pytest.raises(DataError, match=r"has one class per image, and .*sets.onnx predicts label sets"):
        evaluate_file(file, pictures, config=DataConfig(label_columns=("shape",)))
