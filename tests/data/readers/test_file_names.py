"""Names in tables that differ from the files in case, Unicode form, separators, blanks or extension."""

import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fixtures.image_trees import Tree

from tercet.config.run import DataConfig
from tercet.core.errors import DataError
from tercet.data.load import load_table
from tercet.data.table import SampleTable

Loader = Callable[[Path, str], SampleTable]


def load_folder(root: Path, text: str) -> SampleTable:
    (root / "t.csv").write_text(text, "utf-8")
    return load_table(root / "t.csv", DataConfig())


def load_zip(root: Path, text: str) -> SampleTable:
    (root / "t.csv").write_text(text, "utf-8")
    path = root.parent / "data.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*")):
            archive.write(file, file.relative_to(root))
    return load_table(path, DataConfig())


load = pytest.mark.parametrize("load", [load_folder, load_zip])


@load
@pytest.mark.parametrize(
    "name",
    [
        "img\\Café 1.JPG",
        "IMG/café 1.jpg",
        " img/Café 1.JPG ",
        unicodedata.normalize("NFD", "img/Café 1.JPG"),
        unicodedata.normalize("NFC", "img/CAFÉ 1.jpg"),
        " .\\IMG\\CAFÉ 1.JPG",
        "img/Café 1",
    ],
)
def test_other_forms_of_a_name_are_read_with_a_note(tree: Tree, load: Loader, name: str) -> None:
    root = tree("img/x.png", "img/b.png")
    (root / "img/x.png").rename(root / "img/Café 1.JPG")
    table = load(root, f"image,label\n{name},a\nimg/b.png,b\n")
    assert [unicodedata.normalize("NFC", name) for name in table.locations] == ["img/Café 1.JPG", "img/b.png"]
    (note,) = table.notes
    assert note.startswith("1 listed names ") and "Caf" in note
    assert table.source.pixels(table.locations[0], max_pixels=99).shape == (5, 6, 3)


@load
def test_exact_names_take_precedence_and_ambiguous_ones_are_errors(tree: Tree, load: Loader) -> None:
    root = tree("img/a.png", "img/A.png", "img/b.png")
    if len(list((root / "img").iterdir())) < 3:
        pytest.skip("the file system ignores case")
    table = load(root, "image,label\nimg\\a.png,x\nimg/A.png,y\n img/b.png,x\n")
    assert table.locations == ("img/a.png", "img/A.png", "img/b.png")
    with pytest.raises(DataError, match=r"line 2: 'a.PNG' could be 'img/A.png' or 'img/a.png'"):
        load(root, "image,label\nimg/a.PNG,x\nimg/b.png,y\n")


@load
def test_stems_of_several_files_are_errors(tree: Tree, load: Loader) -> None:
    root = tree("a.png", "a.jpg", "b.png")
    with pytest.raises(DataError, match=r"'a' could be 'a.jpg' or 'a.png'"):
        load(root, "image_id,label\na,x\nb,y\n")


@load
@pytest.mark.parametrize("name", ["..\\secret.png", "img/../../secret.png", "C:\\data\\secret.png", "\\\\host\\x.png"])
def test_names_outside_remain_errors(tree: Tree, load: Loader, name: str) -> None:
    root = tree("img/a.png", "b.png")
    (root.parent / "secret.png").write_bytes((root / "b.png").read_bytes())
    with pytest.raises(DataError, match="outside"):
        load(root, f"image,label\n{name},x\nb.png,y\n")


@load
def test_two_forms_of_a_file_are_one_image(tree: Tree, load: Loader) -> None:
    root = tree("img/a.png", "b.png")
    with pytest.raises(DataError, match=r"lines 2 and 3: 'img/a.png' is both 'x' and 'y'"):
        load(root, "image,label\nimg/a.png,x\nIMG\\A.PNG,y\nb.png,x\n")
