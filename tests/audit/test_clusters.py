"""Clusters of duplicates in the audit, the list of images to leave out, and unusual images."""

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from tests.fixtures.drawings import drawing, poorer

from tercet.audit.duplicate_groups import Duplicate, clusters_of, exclusions
from tercet.audit.run import audit_data
from tercet.cli.main import main
from tercet.config.run import DataConfig
from tercet.core.errors import DataError
from tercet.data.load import load_table


def tree(root: Path, images: dict[str, Image.Image]) -> Path:
    for name, image in images.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(root / name)
    return root


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Given splits: an image with three copies in two splits, a near copy, and one with two labels."""
    images = {
        f"{split}/{label}/{index}.png": drawing(100 * number + index, (90, 80))
        for number, (split, label) in enumerate([("train", "cat"), ("train", "dog"), ("test", "cat"), ("test", "dog")])
        for index in range(6)
    }
    for name in ("train/cat/copy.png", "test/cat/copy.png", "test/cat/again.bmp"):
        images[name] = images["train/cat/1.png"]
    images["train/dog/small.jpg"] = poorer(images["train/dog/2.png"])
    images["train/dog/cat.png"] = images["train/cat/3.png"]
    return tree(tmp_path / "my photos", images)


def test_clusters_and_the_list_that_mends(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", str(photos), "--output", str(tmp_path / "look"), "--folds", "2"]) == 0
    text = capsys.readouterr().out
    assert "groups of identical images: 2, groups of near duplicates: 1, 8 images" in text
    command = next(line for line in text.splitlines() if "--data.exclude" in line).partition(": ")[2]
    assert shlex.split(command) == [
        "tercet",
        "train",
        str(photos),
        "--data.exclude",
        str(tmp_path / "look/exclude.txt"),
    ]
    lines = (tmp_path / "look" / "exclude.txt").read_text().splitlines()
    names = {line for line in lines if not line.startswith("#")}
    assert {"train/cat/1.png", "train/cat/copy.png"} <= names  # the test split keeps an image
    assert len(names & {"test/cat/copy.png", "test/cat/again.bmp"}) == 1
    assert {"train/cat/3.png", "train/dog/cat.png"} <= names  # the label is not known
    assert len(names & {"train/dog/2.png", "train/dog/small.jpg"}) == 1 and len(names) == 6
    report = audit_data(photos, data={"exclude": str(tmp_path / "look" / "exclude.txt")}, folds=2)
    assert report.result.clusters == () and not report.result.leaks and report.result.images == 23
    page = (tmp_path / "look" / "audit.html").read_text()
    assert page.count('<ul class="images row"') == 3 and "--data.exclude" in page


def test_without_given_splits_the_audit_says_that_copies_are_kept_together(tmp_path: Path) -> None:
    images = {
        f"{label}/{index}.png": drawing(index + 10 * number, (80, 80))
        for number, label in enumerate("ab")
        for index in range(9)
    }
    folder = tree(tmp_path / "data", images | {"a/copy.png": images["a/1.png"]})
    text = audit_data(folder).to_text()
    assert "tercet train keeps copies on one side of its splits" in text and "! leakage" not in text


@pytest.mark.parametrize("form", ["folder", "table", "zip", "path"])
def test_files_that_a_list_names_are_left_out(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = {f"{label}/{index}.png": drawing(index, (20, 20)) for label in "ab" for index in range(4)}
    images["a/# odd name.png"] = drawing(9, (20, 20))
    folder = tree(tmp_path / "data", images)
    names = ["a/1.png", "b/0.png", "a/# odd name.png"]
    data, expected = folder, len(images) - 3
    if form == "table":
        data = folder / "labels.csv"
        data.write_text("\n".join(["image,label", *(f"{name},{name[0]}" for name in images)]))
    elif form == "zip":
        data = tmp_path / "data.zip"
        with ZipFile(data, "w") as archive:
            for name in images:
                archive.write(folder / name, f"top/{name}")
        names = list(load_table(data, DataConfig()).ids[:3])
    elif form == "path":
        monkeypatch.chdir(tmp_path)
        names = ["data/a/1.png", "./data/b/0.png", str(folder / "a" / "# odd name.png")]
    (tmp_path / "list.txt").write_text("# a comment\n" + "\n\n".join(names) + "\ngone.png\n")
    table = load_table(data, DataConfig(exclude=str(tmp_path / "list.txt")))
    assert len(table) == expected
    assert f"3 images left out by {tmp_path / 'list.txt'}" in table.notes
    assert any("1 line of" in note and "gone.png" in note for note in table.notes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("other.png\n", r"lists no image of data, such as .other\.png.: write a name or path per line, such as .a/0"),
        ("", "lists no image of data: write"),
        ("\n".join(f"{label}/{index}.png" for label in "ab" for index in range(2)), "lists all 4 images of data"),
        (None, "list.txt"),
    ],
)
def test_lists_that_do_not_fit_the_data_are_errors(content: str | None, message: str, tmp_path: Path) -> None:
    folder = tree(tmp_path / "data", {f"{label}/{index}.png": drawing(index) for label in "ab" for index in range(2)})
    if content is not None:
        (tmp_path / "list.txt").write_text(content)
    with pytest.raises(DataError, match=message):
        load_table(folder, DataConfig(exclude=str(tmp_path / "list.txt")))


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.sampled_from(["pixels", "hash"])), max_size=12))
def test_leaving_out_the_list_leaves_no_pair(pairs: list[tuple[int, int, Any]]) -> None:
    splits, labels = ("train", "val", "test", "train", "test"), ("a", "b", "a")
    duplicates = [
        Duplicate(
            (str(first), str(second)),
            (splits[first % 5], splits[second % 5]),
            (labels[first % 3], labels[second % 3]),
            method,
        )
        for first, second, method in pairs
        if first != second
    ]
    left_out = {name for name, _ in exclusions(duplicates)}
    assert all(left_out & {*duplicate.ids} for duplicate in duplicates)
    for cluster in clusters_of(duplicates):
        kept = {*cluster.ids} - left_out
        assert len(kept) == (0 if cluster.disagrees else 1)
        if kept and "test" in cluster.splits:
            assert cluster.splits[cluster.ids.index(*kept)] == "test"


def test_unusual_images_are_found_and_usual_ones_are_not(tmp_path: Path) -> None:
    images = {
        f"{label}/{index}.png": drawing(index + 50 * number, (96, 80))
        for number, label in enumerate("ab")
        for index in range(12)
    }
    folder = tree(tmp_path / "data", images)
    assert audit_data(folder).result.odd.ids == ()
    dark = Image.fromarray(np.asarray(drawing(200, (96, 80))) // 20)
    bright = Image.fromarray((245 + np.asarray(drawing(201, (96, 80))) // 26).astype(np.uint8))
    odd = {"a/dark.png": dark, "a/bright.png": bright, "b/blurred.png": drawing(202, (96, 80))}
    odd["b/blurred.png"] = odd["b/blurred.png"].filter(ImageFilter.GaussianBlur(9))
    odd |= {"b/wide.png": drawing(203, (400, 60)), "b/tiny.png": drawing(204, (18, 16))}
    report = audit_data(tree(folder, odd), fail_on=["odd-images"])
    found = report.result.odd
    assert found.dark == ("a/dark.png",) and found.bright == ("a/bright.png",)
    assert "b/blurred.png" in found.blurred and set(found.unusual_size) == {"b/wide.png", "b/tiny.png"}
    assert report.exit_code == 3 and "! odd-images" in report.to_text()


@pytest.mark.slow
def test_clusters_fit_a_phone(look: Callable[..., Any], photos: Path, tmp_path: Path) -> None:
    for number in range(12):  # a long row and a long name
        shutil.copy(photos / "train/cat/1.png", photos / "train" / "cat" / f"{'very-long-name-' * 5}{number}.png")
    audit_data(photos, output=str(tmp_path / "look"), folds=2)
    opened = look(tmp_path / "look" / "audit.html", width=390)
    assert (opened.errors, opened.broken_images()) == ([], []) and opened.overflow() <= 0
    rows = opened.page.locator("ul.images.row")
    assert rows.count() == 3
    for index in range(rows.count()):
        tops = rows.nth(index).locator("img").evaluate_all("all => all.map(image => image.getBoundingClientRect().top)")
        assert max(tops) - min(tops) < 1 and len(tops) >= 2
        heights = rows.nth(index).bounding_box()
        assert heights is not None and heights["height"] < 450
