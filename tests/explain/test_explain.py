"""tercet explain: from a bundle and pictures to figures and numbers, for every kind of member."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.fixtures.runs import draw

from tercet.cli.main import main
from tercet.config.model import InputConfig, LabelsConfig, ModelConfig
from tercet.config.tta import TTAConfig
from tercet.core.errors import ModelError
from tercet.ensemble.bundle import Bundle, Member, load_bundle
from tercet.ensemble.combine import Combiner
from tercet.ensemble.multilabel import MultilabelRule
from tercet.experiments.train import Run
from tercet.explain import explain as workflow
from tercet.explain.explain import explain_images
from tercet.explain.layers import list_layers
from tercet.explain.results import Explanations
from tercet.models.build import build

CLASSES = ("$\\frac{", "<script>alert(1)</script>", "dog")


def member(name: str, *, channels: int = 1, size: tuple[int, int] = (24, 16), tta: str = "none", **options) -> Member:
    torch.manual_seed(5)
    config = ModelConfig(pretrained=False, **options)
    classifier = build(name, num_classes=len(CLASSES), config=config, channels=channels, image_size=size)
    return Member(name, classifier, config, TTAConfig.parse(tta))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(3)
    for kind in ("disc", "square"):
        draw(kind, generator).save(folder / f"{kind}.png")
    return folder


@pytest.fixture(scope="module")
def explained(finished: Run, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Explanations:
    folder = tmp_path_factory.mktemp("explained") / "figures"
    (bad := pictures.parent / f"{pictures.name}-bad.png").write_bytes(b"no picture")
    features = ["features.activation", "features.convolution"]
    return explain_images(finished.path, [pictures, bad], output=str(folder), filters=True, features=features)


def test_figures_and_numbers_are_left_for_every_image(explained: Explanations) -> None:
    names = {path.name for path in explained.path.iterdir()}
    stems = ["1-disc", "2-square", "1-disc-small-cnn-activation", "2-square-wide-convolution"]
    stems += ["filters-small-cnn-convolution", "filters-wide-convolution"]
    assert names >= {f"{stem}.{kind}" for stem in stems for kind in ("png", "svg")} | {"explain.json"}
    told = [*explained.files, *(file for image in explained.images for file in image.files)]
    assert names == {*told, "explain.json"}
    for png in explained.path.glob("*.png"):
        with Image.open(png) as picture:
            assert min(picture.size) > 150
    document = json.loads((explained.path / "explain.json").read_text())
    assert document == explained.to_dict()
    assert [len(document["unreadable"]), len(document["images"])] == [1, 2]


def test_every_member_is_explained_for_the_class_of_the_whole(explained: Explanations, finished: Run) -> None:
    for image in explained.images:
        said = load_bundle(finished.path).predict(image.id)
        assert image.predicted == image.target == said.predicted_names[0]
        assert dict(image.best)[image.predicted] == pytest.approx(float(said.probabilities.max()))
        cnn, rows, wide = image.members
        assert cnn.activation is not None and cnn.activation.layer == wide.activation.layer == "features.pooling"
        assert rows.activation is None and rows.steps is not None and rows.steps.scan == "pixel rows"
        assert cnn.steps is None and "reads no sequence" in " ".join(cnn.reasons)
        assert abs(rows.steps.error) <= max(0.001, 0.01 * abs(rows.steps.logit - rows.steps.baseline))


def test_people_read_where_the_answer_came_from(explained: Explanations) -> None:
    text = explained.to_text()
    assert text.count("class-activation map at pooling (9 x 9): strongest around row ") >= 1
    assert text.count("class-activation map at pooling (9 x 9): ") == 4
    assert text.count("20 steps over pixel rows: logit") == 2
    for image in explained.images:
        steps = image.members[1].steps
        first = int(steps.contributions.abs().argmax())
        told = f"with; most by step {first + 1} (picture row {first + 1}: {float(steps.contributions[first]):+.3f})"
        assert told in image.to_text()
    assert "-bad.png: UNREADABLE" in text
    assert f"folder: {explained.path} (24 figures, explain.json)" in text


def test_the_command_line_answers_and_tells_of_what_it_could_not_read(
    finished: Run, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["explain", str(finished.path), str(pictures / "disc.png"), "--output", str(tmp_path / "one")]
    assert main([*words, "--class", "stroke", "--member", "wide", "--layer", "convolution", "--json"]) == 0
    (image,) = json.loads(capsys.readouterr().out)["images"]
    assert image["explained"] == "stroke"
    (saw,) = image["members"]
    assert saw["activation"]["layer"] == "features.convolution"
    assert np.array(saw["activation"]["cells"]).shape == (18, 18)
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"")
    assert main([*words[:3], str(bad), "--output", str(tmp_path / "two")]) == 3
    assert "bad.png: UNREADABLE" in capsys.readouterr().out
    assert main([*words[:2], str(bad), "--output", str(tmp_path / "three")]) == 3
    assert "none of the 1 image(s) can be read" in capsys.readouterr().err
    assert not (tmp_path / "three").exists()  # nothing was drawn


def test_a_layer_that_is_named_twice_is_drawn_once(finished: Run, pictures: Path, tmp_path: Path) -> None:
    bundle = load_bundle(finished.path)
    names = ["convolution", "features.convolution", "convolution"]
    found = explain_images(
        bundle, str(pictures / "disc.png"), output=str(tmp_path / "out"), features=names, member="wide"
    )
    left = sorted(path.name for path in found.path.iterdir())
    assert sorted([*found.images[0].files, "explain.json"]) == left
    assert "(4 figures, explain.json)" in found.to_text()


def test_rows_are_told_in_the_picture_whatever_the_network_reads(tmp_path: Path) -> None:
    picture = np.zeros((200, 30), np.uint8)
    picture[150:160] = 255
    rows = member("row-gru", size=(20, 20), hidden_size=4, num_layers=1)
    text = explain_images(Bundle(CLASSES, (rows,)), [picture], output=str(tmp_path / "squash")).to_text()
    assert "20 steps over pixel rows" in text and "most by step 16 (picture row 156: " in text
    padded = member("row-gru", hidden_size=4, num_layers=1, input=InputConfig(size=(20, 20), crop_mode="border"))
    (found,) = explain_images(Bundle(CLASSES, (padded,)), [picture], output=str(tmp_path / "pad")).images
    assert found.members[0].window.left < 0 and "(picture row 156: " in found.to_text()


def test_a_scan_of_cells_is_told_by_row_and_column_of_the_picture(pictures: Path, tmp_path: Path) -> None:
    options = {"recurrent": "lstm", "hidden_size": 4, "head_hidden_dim": 4, "input": InputConfig(size=(96,))}
    for scan, place in (("snake", (1, 2)), ("cells", (1, 0))):
        bundle = Bundle(CLASSES, (member("test_resnet", scan=scan, **options),))
        (found,) = explain_images(bundle, str(pictures / "disc.png"), output=str(tmp_path / scan)).images
        steps = found.members[0].steps
        assert steps.place(3) == place  # the first of the second row: a snake turns
        first = int(steps.contributions.abs().argmax())
        row, column = steps.place(first)
        assert float(steps.cells[row, column]) == float(steps.contributions[first])
        middle = [int(20 * (place + 0.5) / 3) + 1 for place in (row, column)]
        assert f"step {first + 1} (picture row {middle[0]}, column {middle[1]}: " in found.to_text()


def test_cells_that_are_finer_than_the_picture_are_all_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    laid = []
    drawn = workflow.figures.drawn
    signed = drawn.signed
    monkeypatch.setattr(drawn, "signed", lambda *given: (laid.append(given[-1]), signed(*given))[1])
    bundle = Bundle(CLASSES, (member("row-gru", hidden_size=4, num_layers=1),))
    strip = np.arange(60, dtype=np.uint8)[:, None]
    (found,) = explain_images(bundle, [strip], output=str(tmp_path / "out")).images
    cells = found.members[0].steps.cells.numpy()
    assert laid[0].shape == (60, 16)
    np.testing.assert_allclose(laid[0][1::5], cells[np.arange(1, 60, 5) * 24 // 60], atol=1e-6)


def test_an_image_that_gives_nothing_is_told_so(tmp_path: Path) -> None:
    bundle = Bundle(CLASSES, (member("row-gru", hidden_size=4, num_layers=1),))
    found = explain_images(bundle, [np.zeros((24, 16), np.uint8)], output=str(tmp_path / "out"))
    assert "with; no step contributed anything\n" in found.to_text() and "-0.000" not in found.to_text()


def test_layers_are_listed_without_images(finished: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(finished.path), "--layers"]) == 0
    said = capsys.readouterr().out
    assert "row-gru (row-gru):" in said and "32 x 9 x 9" in said and "MaxPool2d" in said
    document = list_layers(finished.path, member="wide").document
    assert list(document) == ["wide"]
    assert {"name": "features.pooling", "type": "MaxPool2d", "shape": [32, 9, 9]} in document["wide"]


def test_without_an_output_the_next_free_folder_is_taken(pictures: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    bundle = Bundle(CLASSES, (member("row-gru", hidden_size=4, num_layers=1),))
    picture = np.asarray(Image.open(pictures / "disc.png"))
    assert [str(explain_images(bundle, picture).path) for _ in range(2)] == ["explanations", "explanations-2"]


def test_a_bundle_is_left_as_it_was(pictures: Path, tmp_path: Path) -> None:
    bundle = Bundle(
        CLASSES, (member("small-cnn"), member("row-gru", hidden_size=4, num_layers=1)), Combiner("average", ("a", "b"))
    )
    bundle.members[1].classifier.train()
    before = [(part.training, len(part._forward_hooks)) for one in bundle.members for part in one.classifier.modules()]
    explain_images(bundle, [pictures], output=str(tmp_path / "out"))
    after = [(part.training, len(part._forward_hooks)) for one in bundle.members for part in one.classifier.modules()]
    assert after == before
    assert all(weight.grad is None for one in bundle.members for weight in one.classifier.parameters())


@pytest.mark.parametrize("crop_mode", ["squash", "center", "border"])
def test_maps_lie_in_the_frame_of_the_picture_whatever_the_member_was_shown(crop_mode: str, tmp_path: Path) -> None:
    """A bright bar at the left of a wide picture is where the contributions of a row classifier are."""
    picture = np.zeros((20, 60), np.uint8)
    picture[8:12, 24:36] = 255
    one = member("row-gru", hidden_size=4, num_layers=1, input=InputConfig(size=(20, 20), crop_mode=crop_mode))
    (found,) = explain_images(Bundle(CLASSES, (one,)), picture, output=str(tmp_path / "out")).images
    (saw,) = found.members
    cells = saw.steps.cells.abs()
    row, column = divmod(int(cells.argmax()), 20)
    down = saw.window.top + (row + 0.5) * saw.window.height / 20
    right = saw.window.left + (column + 0.5) * saw.window.width / 20
    assert 6 <= down <= 14 and 22 <= right <= 38


def test_networks_with_attention_and_scans_are_explained_side_by_side(pictures: Path, tmp_path: Path) -> None:
    scan = {"recurrent": "lstm", "hidden_size": 4, "head_hidden_dim": 4}
    members = (
        member("test_vit", input=InputConfig(crop_mode="border")),
        *(
            member("test_resnet", scan=way, tta="flip", input=InputConfig(size=(96,)), **scan)
            for way in ("rows", "columns", "snake")
        ),
    )
    bundle = Bundle(CLASSES, members, Combiner("average", ("a", "b", "c", "d")))
    found = explain_images(bundle, str(pictures / "disc.png"), output=str(tmp_path / "out"), filters=True)
    vit, *scans = found.images[0].members
    assert vit.rollout is not None and vit.activation is not None and vit.steps is None
    assert [saw.steps.scan for saw in scans] == ["rows", "columns", "snake"]
    assert "attention roll-out of 6 blocks (10 x 10) to the class token: strongest" in found.to_text()
    assert "answers are with test-time augmentation" in found.to_text()


def test_sets_of_labels_are_explained_by_their_most_probable_label(pictures: Path, tmp_path: Path) -> None:
    sigmoid = Bundle(CLASSES, (member("small-cnn"),), sets=MultilabelRule("single", (0.4,)))
    (image,) = explain_images(sigmoid, str(pictures / "disc.png"), output=str(tmp_path / "sigmoid")).images
    said = sigmoid.predict(str(pictures / "disc.png"))
    assert image.target == CLASSES[int(said.scores.argmax())]
    assert image.members[0].activation is not None and image.predicted == " | ".join(said.predicted_names[0])
    decoder = member("small-cnn", labels=LabelsConfig(decoder="cnn-rnn", hidden_size=4, embedding_dim=4))
    named = Bundle(CLASSES, (decoder,), sets=MultilabelRule("single", (0.5,)))
    with pytest.raises(ModelError, match=r"no explanation can be drawn .*no gradient.*--features NAME and --filters"):
        explain_images(named, str(pictures / "disc.png"), output=str(tmp_path / "none"))
    found = explain_images(named, str(pictures / "disc.png"), output=str(tmp_path / "maps"), features=["convolution"])
    assert "nothing to draw: labels that a CNN-RNN tells" in found.to_text()
    assert "1-disc-small-cnn-convolution.png" in found.images[0].files


def test_filters_alone_need_no_image_and_a_network_without_any_says_so(tmp_path: Path) -> None:
    colours = Bundle(CLASSES, (member("small-cnn", channels=3),))
    drawn = explain_images(colours, filters=True, output=str(tmp_path / "cnn"))
    assert drawn.files == ("filters-small-cnn-convolution.png", "filters-small-cnn-convolution.svg")
    rows = Bundle(CLASSES, (member("row-gru", hidden_size=4, num_layers=1),))
    assert "no filters to draw" in explain_images(rows, filters=True, output=str(tmp_path / "rows")).to_text()


def test_the_same_answer_leaves_the_same_files(pictures: Path, tmp_path: Path) -> None:
    bundle = Bundle(CLASSES, (member("small-cnn"),))
    for name in ("one", "two"):
        explain_images(bundle, str(pictures / "disc.png"), output=str(tmp_path / name))
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
