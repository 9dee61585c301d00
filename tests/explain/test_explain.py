"""`tercet explain`: figures and numbers for every kind of member."""

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
from tercet.explain import figures
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


def row_member(**options) -> Member:
    return member("row-gru", hidden_size=4, num_layers=1, **options)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(3)
    for kind in ("disc", "square"):
        draw(kind, generator).save(folder / f"{kind}.png")
    return folder


@pytest.fixture(scope="module")
def explained(finished: Run, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Explanations:
    folder = tmp_path_factory.mktemp("explained") / "figures"
    (bad := images.parent / f"{images.name}-bad.png").write_bytes(b"not an image")
    return explain_images(
        finished.path, [images, bad], output=str(folder), filters=True, features=["features.convolution"]
    )


def test_every_image_has_figures_and_numbers(explained: Explanations) -> None:
    names = {path.name for path in explained.path.iterdir()}
    stems = ["1-disc", "2-square", "1-disc-small-cnn-convolution", "2-square-wide-convolution"]
    stems += ["filters-small-cnn-convolution", "filters-wide-convolution"]
    assert names >= {f"{stem}.{kind}" for stem in stems for kind in ("png", "svg")} | {"explain.json"}
    listed = [*explained.files, *(file for image in explained.images for file in image.files)]
    assert names == {*listed, "explain.json"}
    for png in explained.path.glob("*.png"):
        with Image.open(png) as image:
            assert min(image.size) > 150
    document = json.loads((explained.path / "explain.json").read_text())
    assert document == explained.to_dict()
    assert [len(document["unreadable"]), len(document["images"])] == [1, 2]


def test_all_members_are_explained_for_the_class_of_the_ensemble(explained: Explanations, finished: Run) -> None:
    for image in explained.images:
        prediction = load_bundle(finished.path).predict(image.id)
        assert image.predicted == image.target == prediction.predicted_names[0]
        assert dict(image.best)[image.predicted] == pytest.approx(float(prediction.probabilities.max()))
        cnn, rows, wide = image.members
        assert cnn.activation is not None and cnn.activation.layer == wide.activation.layer == "features.pooling"
        assert rows.activation is None and rows.steps is not None and rows.steps.scan == "pixel rows"
        assert cnn.steps is None and "no recurrent module" in " ".join(cnn.reasons)
        assert abs(rows.steps.error) <= max(0.001, 0.01 * abs(rows.steps.logit - rows.steps.baseline))


def test_the_text_names_positions_and_unreadable_images(explained: Explanations) -> None:
    text = explained.to_text()
    assert text.count("class-activation map at pooling (9 x 9): strongest at row ") >= 1
    assert text.count("class-activation map at pooling (9 x 9): ") == 4
    assert text.count("20 steps over pixel rows: logit") == 2
    for image in explained.images:
        steps = image.members[1].steps
        first = int(steps.contributions.abs().argmax())
        largest = f"step {first + 1} (image row {first + 1}: {float(steps.contributions[first]):+.3f})"
        assert f"largest contributions: {largest}" in image.to_text()
    assert "-bad.png: UNREADABLE" in text
    assert f"folder: {explained.path} (24 figures, explain.json)" in text


def test_the_command_explains_one_member_and_one_class(
    finished: Run, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["explain", str(finished.path), str(images / "disc.png"), "--output", str(tmp_path / "first")]
    assert main([*command, "--class", "stroke", "--member", "wide", "--layer", "convolution", "--json"]) == 0
    (image,) = json.loads(capsys.readouterr().out)["images"]
    assert image["explained"] == "stroke"
    (explanation,) = image["members"]
    assert explanation["activation"]["layer"] == "features.convolution"
    assert np.array(explanation["activation"]["cells"]).shape == (18, 18)


def test_the_exit_code_of_the_command_reports_unreadable_images(
    finished: Run, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"")
    command = ["explain", str(finished.path), str(bad), "--member", "wide", "--output"]
    assert main([*command, str(tmp_path / "some"), str(images / "disc.png")]) == 3
    assert "bad.png: UNREADABLE" in capsys.readouterr().out
    assert main([*command, str(tmp_path / "none")]) == 3
    assert "none of the 1 image can be read" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_a_layer_given_twice_is_drawn_once(finished: Run, images: Path, tmp_path: Path) -> None:
    bundle = load_bundle(finished.path)
    names = ["convolution", "features.convolution", "convolution"]
    result = explain_images(
        bundle, str(images / "disc.png"), output=str(tmp_path / "out"), features=names, member="wide"
    )
    files = sorted(path.name for path in result.path.iterdir())
    assert sorted([*result.images[0].files, "explain.json"]) == files
    assert "(4 figures, explain.json)" in result.to_text()


def test_rows_are_numbered_in_the_original_image(tmp_path: Path) -> None:
    image = np.zeros((200, 30), np.uint8)
    image[150:160] = 255
    text = explain_images(
        Bundle(CLASSES, (row_member(size=(20, 20)),)), [image], output=str(tmp_path / "squash")
    ).to_text()
    assert "20 steps over pixel rows" in text and "largest contributions: step 16 (image row 156: " in text
    padded = row_member(input=InputConfig(size=(20, 20), crop_mode="border"))
    result = explain_images(Bundle(CLASSES, (padded,)), [image], output=str(tmp_path / "pad"))
    assert result.images[0].members[0].window.left < 0 and "(image row 156: " in result.to_text()


@pytest.mark.parametrize(("scan", "cell"), [("snake", (1, 2)), ("cells", (1, 0))])
def test_steps_of_cell_scans_are_located_by_row_and_column(
    scan: str, cell: tuple[int, int], images: Path, tmp_path: Path
) -> None:
    options = {"recurrent": "lstm", "hidden_size": 4, "head_hidden_dim": 4, "input": InputConfig(size=(96,))}
    bundle = Bundle(CLASSES, (member("test_resnet", scan=scan, **options),))
    (result,) = explain_images(bundle, str(images / "disc.png"), output=str(tmp_path / scan)).images
    steps = result.members[0].steps
    assert steps.cell_of(3) == cell  # the first cell of the second row; a snake turns
    first = int(steps.contributions.abs().argmax())
    row, column = steps.cell_of(first)
    assert float(steps.cells[row, column]) == float(steps.contributions[first])
    middle = [int(20 * (index + 0.5) / 3) + 1 for index in (row, column)]
    assert f"step {first + 1} (image row {middle[0]}, column {middle[1]}: " in result.to_text()


def test_cells_finer_than_the_image_are_all_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    signed_map = figures.plots.signed_map
    monkeypatch.setattr(figures.plots, "signed_map", lambda *args: (drawn.append(args[-1]), signed_map(*args))[1])
    strip = np.arange(60, dtype=np.uint8)[:, None]
    (result,) = explain_images(Bundle(CLASSES, (row_member(),)), [strip], output=str(tmp_path / "out")).images
    cells = result.members[0].steps.cells.numpy()
    assert drawn[0].shape == (60, 16)
    np.testing.assert_allclose(drawn[0][1::5], cells[np.arange(1, 60, 5) * 24 // 60], atol=1e-6)


def test_a_black_image_has_no_contributions(tmp_path: Path) -> None:
    bundle = Bundle(CLASSES, (row_member(),))
    text = explain_images(bundle, [np.zeros((24, 16), np.uint8)], output=str(tmp_path / "out")).to_text()
    assert "no step contributes anything\n" in text and "-0.000" not in text


def test_layers_are_listed_without_images(finished: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(finished.path), "--layers"]) == 0
    text = capsys.readouterr().out
    assert "row-gru (row-gru):" in text and "32 x 9 x 9" in text and "MaxPool2d" in text
    document = list_layers(finished.path, member="wide").document
    assert list(document) == ["wide"]
    assert {"name": "features.pooling", "type": "MaxPool2d", "shape": [32, 9, 9]} in document["wide"]


def test_the_default_folder_is_the_next_free_one(images: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    bundle = Bundle(CLASSES, (row_member(),))
    image = np.asarray(Image.open(images / "disc.png"))
    assert [str(explain_images(bundle, image).path) for _ in range(2)] == ["explanations", "explanations-2"]


def test_explaining_does_not_change_the_bundle(images: Path, tmp_path: Path) -> None:
    bundle = Bundle(CLASSES, (member("small-cnn"), row_member()), Combiner("average", ("a", "b")))
    bundle.members[1].classifier.train()
    modules = [module for item in bundle.members for module in item.classifier.modules()]
    before = [(module.training, len(module._forward_hooks)) for module in modules]
    explain_images(bundle, str(images / "disc.png"), output=str(tmp_path / "out"))
    assert [(module.training, len(module._forward_hooks)) for module in modules] == before
    assert all(weight.grad is None for item in bundle.members for weight in item.classifier.parameters())


@pytest.mark.parametrize("crop_mode", ["squash", "center", "border"])
def test_contributions_lie_where_the_image_is_bright(crop_mode: str, tmp_path: Path) -> None:
    """The coordinates are those of the original image, whatever part of it the member reads."""
    image = np.zeros((20, 60), np.uint8)
    image[8:12, 24:36] = 255
    rows = row_member(input=InputConfig(size=(20, 20), crop_mode=crop_mode))
    (result,) = explain_images(Bundle(CLASSES, (rows,)), image, output=str(tmp_path / "out")).images
    (explanation,) = result.members
    row, column = divmod(int(explanation.steps.cells.abs().argmax()), 20)
    y = explanation.window.top + (row + 0.5) * explanation.window.height / 20
    x = explanation.window.left + (column + 0.5) * explanation.window.width / 20
    assert 6 <= y <= 14 and 22 <= x <= 38


def test_members_with_attention_and_scans_are_explained_side_by_side(images: Path, tmp_path: Path) -> None:
    options = {"recurrent": "lstm", "hidden_size": 4, "head_hidden_dim": 4, "input": InputConfig(size=(96,))}
    members = (
        member("test_vit", input=InputConfig(crop_mode="border")),
        *(member("test_resnet", scan=scan, tta="flip", **options) for scan in ("rows", "columns")),
    )
    bundle = Bundle(CLASSES, members, Combiner("average", ("a", "b", "c")))
    result = explain_images(bundle, str(images / "disc.png"), output=str(tmp_path / "out"))
    vit, *scans = result.images[0].members
    assert vit.rollout is not None and vit.activation is not None and vit.steps is None
    assert [explanation.steps.scan for explanation in scans] == ["rows", "columns"]
    assert "attention rollout of 6 blocks (10 x 10) to the class token: strongest" in result.to_text()
    assert "predictions use test-time augmentation" in result.to_text()


def test_multilabel_bundles_are_explained_for_the_most_probable_label(images: Path, tmp_path: Path) -> None:
    sigmoid = Bundle(CLASSES, (member("small-cnn"),), sets=MultilabelRule("single", (0.4,)))
    (image,) = explain_images(sigmoid, str(images / "disc.png"), output=str(tmp_path / "sigmoid")).images
    prediction = sigmoid.predict(str(images / "disc.png"))
    assert image.target == CLASSES[int(prediction.scores.argmax())]
    assert image.members[0].activation is not None and image.predicted == " | ".join(prediction.predicted_names[0])


def test_a_label_decoder_has_feature_maps_only(images: Path, tmp_path: Path) -> None:
    decoder = member("small-cnn", labels=LabelsConfig(decoder="cnn-rnn", hidden_size=4, embedding_dim=4))
    bundle = Bundle(CLASSES, (decoder,), sets=MultilabelRule("single", (0.5,)))
    with pytest.raises(ModelError, match=r"no explanation method applies .*no gradient.*--features NAME or --filters"):
        explain_images(bundle, str(images / "disc.png"), output=str(tmp_path / "none"))
    result = explain_images(bundle, str(images / "disc.png"), output=str(tmp_path / "maps"), features=["convolution"])
    assert "nothing to draw: a CNN-RNN decodes labels" in result.to_text()
    assert "1-disc-small-cnn-convolution.png" in result.images[0].files
    assert not any("flow" in file for file in result.images[0].files)  # without --filters


def test_filters_are_drawn_without_images(tmp_path: Path) -> None:
    colour = Bundle(CLASSES, (member("small-cnn", channels=3),))
    result = explain_images(colour, filters=True, output=str(tmp_path / "cnn"))
    assert result.files == ("filters-small-cnn-convolution.png", "filters-small-cnn-convolution.svg")
    rows = Bundle(CLASSES, (row_member(),))
    assert "no filters to draw" in explain_images(rows, filters=True, output=str(tmp_path / "rows")).to_text()


def test_equal_explanations_give_equal_files(images: Path, tmp_path: Path) -> None:
    bundle = Bundle(CLASSES, (member("small-cnn"),))
    for name in ("first", "second"):
        explain_images(bundle, str(images / "disc.png"), output=str(tmp_path / name))
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()
