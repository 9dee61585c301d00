"""Cassava, fingerspelling, leaves and iNaturalist: tiny trees in the official layouts, packed and unpacked."""

import io
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.data.datasets.official import tar, unpacked, zipped
from tests.fixtures.image_trees import picture

from tercet.config.run import DataConfig
from tercet.core.errors import DataError
from tercet.data.datasets.inaturalist import read_annotations
from tercet.data.datasets.info import DATASETS
from tercet.data.image_store import source_of
from tercet.data.load import load_table
from tercet.data.splits import assign_splits
from tercet.data.table import SampleTable

Files = dict[str, bytes]


def encoded(image: Image.Image, kind: str = "JPEG") -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def photos(*names: str) -> Files:
    return {name: encoded(picture(value)) for value, name in enumerate(names)}


def expect(monkeypatch: pytest.MonkeyPatch, name: str, **changes: object) -> None:
    """Register a data set without official checksums and mirrors."""
    info = DATASETS[name]
    files = tuple(replace(file, num_bytes=None, checksum="") for file in info.files)
    more = tuple(replace(file, num_bytes=None, checksum="") for file in info.more_files)
    changed = replace(info, **{"files": files, "more_files": more, "mirrors": (), **changes})  # type: ignore[arg-type]
    monkeypatch.setitem(DATASETS._values, name, changed)


def read(name: str, root: Path, **options: object) -> SampleTable:
    table = load_table(name, DataConfig(data_dir=str(root), **options))  # type: ignore[arg-type]
    for location in table.locations:
        assert table.source.pixels(location, max_pixels=1000).shape[:2] == (5, 6)
    assert table.fingerprint()
    return table


def rows(table: SampleTable) -> list[tuple[str, str, str]]:
    """Return id, class and split of every row, in order of the ids."""
    return sorted(zip(table.ids, table.label_names(), table.splits or [""] * len(table), strict=True))


DISEASES = ("cbb", "cbsd", "cgm", "cmd", "healthy")
KAGGLE_TRAIN = photos(*(f"train/{name}/train-{name}-{row}.jpg" for name in DISEASES for row in range(2)))
KAGGLE_TEST = photos("test/0/test-img-0.jpg", "test/0/test-img-10.jpg", "test/0/test-img-2.jpg")
LABELLED = photos(
    *(
        f"cassavaleafdata/{part}/{name}/{part}-{name}-0.jpg"
        for part in ("train", "validation", "test")
        for name in DISEASES
    )
)


def test_labelled_cassava_archive_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expect(monkeypatch, "cassava")
    zipped(tmp_path / "cassavaleafdata.zip", LABELLED)
    table = read("cassava", tmp_path)
    assert len(table) == 15 and table.classes == DISEASES and len(list(tmp_path.iterdir())) == 1
    assert {split for _, _, split in rows(table)} == {"train", "val", "test"}
    assert ("test/cbb/test-cbb-0.jpg", "cbb", "test") in rows(table)
    assert table.notes == ("5,651 of the official 5,656 images of train are missing",)
    unpacked(tmp_path / "cassava", LABELLED)
    assert rows(read("cassava", tmp_path)) == rows(table)


def _folders(root: Path) -> None:
    unpacked(root, KAGGLE_TRAIN | KAGGLE_TEST)


def _repeated_folders(root: Path) -> None:
    unpacked(root, {f"{name.split('/')[0]}/{name}": content for name, content in (KAGGLE_TRAIN | KAGGLE_TEST).items()})


def _two_archives(root: Path) -> None:
    zipped(root / "train.zip", KAGGLE_TRAIN)
    zipped(root / "test.zip", KAGGLE_TEST)


def _nested(root: Path) -> None:
    inner = root / "inner"
    inner.mkdir()
    _two_archives(inner)
    files = {path.name: path.read_bytes() for path in inner.iterdir()}
    zipped(root / "cassava-disease.zip", files | {"sample_submission_file.csv": b"Category,Id\n"})
    for path in inner.iterdir():
        path.unlink()
    inner.rmdir()


def _one_archive(root: Path) -> None:
    zipped(root / "cassava-disease.zip", KAGGLE_TRAIN | KAGGLE_TEST)


@pytest.mark.parametrize("write_files", [_folders, _repeated_folders, _two_archives, _nested, _one_archive])
def test_kaggle_cassava_is_read_in_every_packing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_files: Callable[[Path], None]
) -> None:
    expect(monkeypatch, "cassava")
    write_files(tmp_path)
    table = read("cassava", tmp_path)
    assert rows(table) == sorted(
        [(name, name.split("/")[1], "train") for name in KAGGLE_TRAIN] + [(name, "", "test") for name in KAGGLE_TEST]
    )
    before = {path for path in tmp_path.rglob("*")}
    assert rows(read("cassava", tmp_path)) == rows(table) and {path for path in tmp_path.rglob("*")} == before


def test_cassava_with_a_missing_class_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expect(monkeypatch, "cassava")
    unpacked(tmp_path, {name: content for name, content in KAGGLE_TRAIN.items() if "cmd" not in name})
    with pytest.raises(DataError, match="lacks class folders"):
        read("cassava", tmp_path)


def test_archive_with_unsafe_names_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expect(monkeypatch, "cassava")
    expect(monkeypatch, "fingerspelling")
    zipped(tmp_path / "train.zip", KAGGLE_TRAIN | {"../evil.jpg": b"x"})
    zipped(tmp_path / "test.zip", KAGGLE_TEST)
    with pytest.raises(DataError, match="unsafe name"):
        read("cassava", tmp_path)
    tar(tmp_path / "fingerspelling5.tar.bz2", {"dataset5/../../evil": b"x"}, "w:bz2")
    with pytest.raises(DataError, match="unsafe name"):
        read("fingerspelling", tmp_path)
    assert not (tmp_path.parent / "evil.jpg").exists() and not (tmp_path / "fingerspelling5").exists()


LETTERS = "abcdefghiklmnopqrstuvwxy"


def depth(value: int) -> bytes:
    values = np.full((5, 6), value, dtype=np.uint16)
    values[0, 0], values[1, 1] = 0, value + 100
    return encoded(Image.fromarray(values), "PNG")


FINGERSPELLING: Files = {
    f"dataset5/{subject}/{letter}/{kind}_{index}_0002.png": content
    for index, letter in enumerate(LETTERS)
    for subject in "ABCDE"
    for kind, content in (("color", encoded(picture(index), "PNG")), ("depth", depth(700 + index)))
}


@pytest.mark.parametrize("packing", ["folder", "tar", "zip"])
def test_fingerspelling_in_colour_and_depth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packing: str) -> None:
    expect(monkeypatch, "fingerspelling")
    if packing == "folder":
        unpacked(tmp_path / "fingerspelling", FINGERSPELLING)
    elif packing == "tar":
        tar(tmp_path / "fingerspelling5.tar.bz2", FINGERSPELLING, "w:bz2")
    else:
        zipped(tmp_path / "dataset5.zip", FINGERSPELLING)
    table = read("fingerspelling", tmp_path)
    assert len(table) == 120 and table.classes == tuple(LETTERS) and table.splits is None
    assert set(table.groups or ()) == set("ABCDE") and all("color" in name for name in table.ids)
    assert table.notes == ("65,654 of the official 65,774 images of all are missing",)
    divided = assign_splits(table, DataConfig())  # whole signers
    assert {
        len({group for row, group in enumerate(table.groups or ()) if (divided.splits or ())[row] == split})
        for split in ("val", "test")
    } == {1}
    deep = read("fingerspelling:depth", tmp_path)
    assert len(deep) == 120 and deep.notes == ()
    pixels = deep.source.pixels(deep.locations[0], max_pixels=30)
    assert pixels.shape == (5, 6, 1) and sorted(set(pixels.ravel().tolist())) == [0, 1, 255]
    restored = source_of(pickle.loads(pickle.dumps(deep.source.describe())))
    np.testing.assert_array_equal(restored.pixels(deep.locations[0], max_pixels=30), pixels)


def test_colour_image_is_not_a_depth_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expect(monkeypatch, "fingerspelling")
    colour_only = {name: encoded(picture(1), "PNG") for name in FINGERSPELLING}
    table = load_table("fingerspelling:depth", DataConfig(data_dir=str(unpacked(tmp_path, colour_only))))
    with pytest.raises(DataError, match="expected 16-bit grey"):
        table.source.pixels(table.locations[0], max_pixels=30)


LEAF_IMAGES = photos(*(f"images/{number}.jpg" for number in range(8)))
LEAF_TABLES = {
    "train.csv": b"image,label\nimages/0.jpg,maclura_pomifera\nimages/1.jpg,acer_rubrum\nimages/2.jpg,ulmus_rubra\n"
    b"images/3.jpg,acer_rubrum\nimages/4.jpg,maclura_pomifera\n",
    "test.csv": b"image\nimages/7.jpg\nimages/5.jpg\nimages/6.jpg\n",
    "sample_submission.csv": b"image,label\nimages/7.jpg,acer_rubrum\nimages/5.jpg,x\nimages/6.jpg,x\n",
}


@pytest.mark.parametrize("packing", ["folder", "zip", "wrapped"])
def test_leaves_have_an_unlabelled_test_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packing: str) -> None:
    expect(monkeypatch, "leaves", num_classes=3)
    files = LEAF_IMAGES | LEAF_TABLES
    if packing == "zip":
        zipped(tmp_path / "classify-leaves.zip", files)
    else:
        unpacked(tmp_path / ("leaves" if packing == "folder" else "classify-leaves"), files)
    table = read("leaves", tmp_path)
    assert table.classes == ("acer_rubrum", "maclura_pomifera", "ulmus_rubra")
    assert table.ids == (*(f"images/{row}.jpg" for row in range(5)), "images/7.jpg", "images/5.jpg", "images/6.jpg")
    assert table.splits == ("train",) * 5 + ("test",) * 3 and table.labels.tolist() == [1, 0, 2, 0, 1, -1, -1, -1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.csv": LEAF_TABLES["train.csv"] + b"images/9.jpg,x\n"}, "1 of 6 listed images do not exist"),
        ({"train.csv": b"image,label\nimages/0.jpg,a\nimages/1.jpg,b\n"}, "contains 2 classes, expected 3"),
        ({"train.csv": b"image,label\nimages/0.jpg,a\n../1.jpg,b\n"}, "is outside"),
        ({"test.csv": b"image\nimages/7.jpg\nimages/99.jpg\n"}, "1 images are missing, such as 'images/99.jpg'"),
        ({"test.csv": b"image\nimages/7.jpg\nimages/7.jpg\n"}, "occurs twice"),
        ({"test.csv": b"image\nimages/0.jpg\n"}, "in train.csv and in test.csv"),
        ({"test.csv": b"id\n1\n"}, "no column 'image'"),
    ],
    ids=["missing", "classes", "escape", "no test image", "double", "both", "header"],
)
def test_invalid_leaves_tables_are_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: Files, message: str
) -> None:
    expect(monkeypatch, "leaves", num_classes=3)
    unpacked(tmp_path, LEAF_IMAGES | LEAF_TABLES | changes)
    with pytest.raises(DataError, match=message):
        read("leaves", tmp_path, max_bad_fraction=0)


def test_missing_leaves_explain_manual_placement(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"require an account: Kaggle's classify-leaves\.zip.*--data-dir"):
        read("leaves", tmp_path)


SPECIES = {"Plants": (0, 515), "Insects": (43,)}
IMAGES = photos(
    *(f"{group}/{number}/{letter * 32}.jpg" for group, ids in SPECIES.items() for number in ids for letter in "abc")
)
TEST_IMAGES = photos("x1.jpg", "x2.jpg")


def annotations(names: list[str], start: int, *, prefix: str, labelled: bool = True) -> bytes:
    images = [
        {"id": start + row, "width": 6, "height": 5, "file_name": prefix + name, "license": 0, "rights_holder": "x"}
        for row, name in enumerate(names)
    ]
    document: dict[str, object] = {"info": {"year": 2019}, "images": images, "licenses": []}
    if labelled:
        document["categories"] = [{"id": number, "name": str(number)} for ids in SPECIES.values() for number in ids]
        document["annotations"] = [
            {"id": start + row, "image_id": start + row, "category_id": int(name.split("/")[1])}
            for row, name in enumerate(names)
        ]
    return json.dumps(document).encode()


TRAINING = [name for name in IMAGES if "ccc" not in name]
VALIDATION = [name for name in IMAGES if "ccc" in name]
JSONS = {
    "train2019.json": annotations(TRAINING, 0, prefix="train_val2019/"),
    "val2019.json": annotations(VALIDATION, 100, prefix="train_val2019/"),
    "test2019.json": annotations(list(TEST_IMAGES), 1000, prefix="test2019/", labelled=False),
}


def _official(root: Path) -> None:
    for name, content in JSONS.items():
        tar(root / f"{name}.tar.gz", {name: content})
    tar(root / "train_val2019.tar.gz", {f"train_val2019/{name}": content for name, content in IMAGES.items()})
    tar(root / "test2019.tar.gz", {f"test2019/{name}": content for name, content in TEST_IMAGES.items()})


def _unpacked(root: Path) -> None:
    unpacked(root / "train_val2019", IMAGES)
    unpacked(root / "test2019", TEST_IMAGES)
    unpacked(root, JSONS)


def _kaggle(root: Path) -> None:
    inner = root.parent / "inner"
    inner.mkdir()
    tar(inner / "train_val2019.tar.gz", IMAGES)
    tar(inner / "test2019.tar.gz", {f"test2019/{name}": content for name, content in TEST_IMAGES.items()})
    zipped(root / "inaturalist-2019-fgvc6.zip", JSONS | {path.name: path.read_bytes() for path in inner.iterdir()})


@pytest.mark.parametrize("write_files", [_official, _unpacked, _kaggle])
def test_inaturalist_is_read_from_annotations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_files: Callable[[Path], None]
) -> None:
    expect(monkeypatch, "inaturalist", num_classes=3)
    (tmp_path / "data").mkdir()
    write_files(tmp_path / "data")
    table = read("inaturalist", tmp_path / "data")
    assert table.classes == ("Plants_0", "Insects_43", "Plants_515")
    expected = [(name, "_".join(name.split("/")[:2]), "train" if name in TRAINING else "val") for name in IMAGES]
    assert rows(table) == sorted([*expected, ("1000", "", "test"), ("1001", "", "test")])


@pytest.mark.parametrize("joined", [False, True])
def test_inaturalist_is_read_from_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, joined: bool) -> None:
    expect(monkeypatch, "inaturalist", num_classes=3)
    unpacked(tmp_path / "train_val2019", {name.replace("/", "_", int(joined)): data for name, data in IMAGES.items()})
    table = read("inaturalist", tmp_path)
    assert table.splits is None and table.classes == ("Plants_0", "Insects_43", "Plants_515")
    assert table.notes[0].startswith("there is no train2019.json") and sorted(table.ids) == sorted(IMAGES)


def test_missing_annotated_images_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expect(monkeypatch, "inaturalist", num_classes=3)
    _unpacked(tmp_path)
    (tmp_path / "train_val2019" / TRAINING[0]).unlink()
    with pytest.raises(DataError, match="1 annotated images are missing"):
        read("inaturalist", tmp_path, max_bad_fraction=0)
    assert len(read("inaturalist", tmp_path)) == len(IMAGES) + 1


def test_unofficial_number_of_categories_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expect(monkeypatch, "inaturalist")
    _unpacked(tmp_path)
    with pytest.raises(DataError, match="3 categories, expected 1010"):
        read("inaturalist", tmp_path)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["id", "file_name", "image_id", "category_id"]), inner, max_size=4)
    ),
    max_leaves=6,
)


@settings(max_examples=25, deadline=None)
@given(document=VALUES | st.fixed_dictionaries(dict.fromkeys(["images", "categories", "annotations"], VALUES)))
def test_random_json_raises_only_data_error(document: object) -> None:
    try:
        result = read_annotations(json.dumps(document).encode(), name="x.json")
        assert all(isinstance(file, str) for file, _ in result.values())
    except DataError as error:
        assert str(error).startswith("x.json")


IMAGE = {"id": 1, "file_name": "a/1/x.jpg"}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (b"{", "not a JSON document"),
        (b"[" * 100_000, "not a JSON document"),
        (b"\xff\xfe", "not a JSON document"),
        (b"[]", "not an annotation file"),
        ({"images": {}}, "'images' is not a list"),
        ({"images": [{"id": 1}]}, "no 'file_name'"),
        ({"images": [{"id": "1", "file_name": "x"}]}, "no 'id' of the type int"),
        ({"images": [5]}, "no 'id'"),
        ({"images": [IMAGE, {**IMAGE, "file_name": "b"}]}, "occurs twice"),
        ({"images": [IMAGE], "annotations": [{"image_id": 2, "category_id": 0}]}, "not both"),
        ({"images": [IMAGE], "categories": [{"id": 1}], "annotations": [{"image_id": 1, "category_id": 0}]}, "both"),
        ({"images": [IMAGE], "annotations": [{"image_id": 1, "category_id": n} for n in (0, 1)]}, "is both 0 and 1"),
        (
            {"images": [IMAGE, {"id": 2, "file_name": "y"}], "annotations": [{"image_id": 1, "category_id": 0}]},
            "has no",
        ),
    ],
    ids=[str(number) for number in range(13)],
)
def test_invalid_resultare_errors(document: object, message: str) -> None:
    content = document if isinstance(document, bytes) else json.dumps(document).encode()
    with pytest.raises(DataError, match=message):
        read_annotations(content, name="x.json")
