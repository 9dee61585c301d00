import gzip
import hashlib
import os
import socket
import struct
from pathlib import Path

import numpy as np
import pytest
from tests.fixtures.image_trees import Tree, picture

from tercet.config.run import DataConfig
from tercet.core.errors import ConfigError, DataError
from tercet.data.datasets.download import RemoteFile
from tercet.data.datasets.info import DATASETS, DatasetInfo
from tercet.data.in_memory import table_from_arrays
from tercet.data.inputs import table_of_files
from tercet.data.load import load_table

CONFIG = DataConfig()


def test_class_folders_are_read_in_natural_order(tree: Tree) -> None:
    table = load_table(str(tree("c10/a2.png", "c10/a10.png", "c9/b.JPG")), CONFIG)
    assert table.classes == ("c9", "c10") and table.name == "data"
    assert table.ids == ("c9/b.JPG", "c10/a2.png", "c10/a10.png")
    assert table.labels.tolist() == [0, 1, 1] and table.splits is None


@pytest.mark.parametrize("val", ["val", "valid", "validation", "dev", "Valid"])
def test_split_folders_are_used(tree: Tree, val: str) -> None:
    table = load_table(tree("Train/a/1.png", "Train/b/1.png", f"{val}/a/1.png", "test/b/1.png"), CONFIG)
    assert table.classes == ("a", "b")
    assert dict(zip(table.ids, table.splits or (), strict=True)) == {
        "Train/a/1.png": "train",
        "Train/b/1.png": "train",
        f"{val}/a/1.png": "val",
        "test/b/1.png": "test",
    }


def test_wrapper_folder_is_skipped(tree: Tree) -> None:
    table = load_table(tree("pets/cat/1.png", "pets/dog/1.png"), CONFIG)
    assert table.ids == ("cat/1.png", "dog/1.png") and table.locations[0] == "pets/cat/1.png"


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ((), "holds no images.*such as"),
        (("a/1.png", "a/2.png"), "need at least 2 classes"),
        (("1.png", "2.png"), "none in a class folder"),
    ],
)
def test_folders_without_classes_are_errors(tree: Tree, paths: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_table(tree(*paths), CONFIG)


def test_external_test_set_can_have_one_class(tree: Tree) -> None:
    assert load_table(tree("a/1.png", "a/2.png"), CONFIG, min_classes=1).classes == ("a",)


def test_skipped_files_are_noted_except_hidden_ones(tree: Tree) -> None:
    root = tree("a/1.png", "b/1.png", "a/.x.png", "__MACOSX/a/1.png", ".ipynb_checkpoints/1.png", "stray.png")
    (root / "a/readme.txt").write_text("x")
    (root / ".DS_Store").write_text("x")
    (root / "empty").mkdir()
    table = load_table(root, CONFIG)
    assert len(table) == 2
    notes = "; ".join(table.notes)
    assert "1 skipped, no image extension: 'a/readme.txt'" in notes
    assert "1 skipped, not in a class folder: 'stray.png'" in notes
    assert "1 class folder without images: empty" in notes
    assert "DS_Store" not in notes and "MACOSX" not in notes


@pytest.mark.timeout(10)
def test_special_files_and_links_are_skipped(tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree("a/1.png", "b/1.png")
    outside = tmp_path / "outside.png"
    picture(9).save(outside)
    os.mkfifo(root / "a/pipe.png")
    monkeypatch.chdir(root)  # socket paths are short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("a/socket.png")
        (root / "a/loop").symlink_to(root, target_is_directory=True)
        (root / "a/self.png").symlink_to("self.png")
        (root / "a/out.png").symlink_to(outside)
        (root / "a/zero.png").symlink_to("/dev/zero")
        (root / "a/same.png").symlink_to("1.png")
        os.link(root / "b/1.png", root / "b/hard.png")
        table = load_table(root, CONFIG)
    assert table.ids == ("a/1.png", "b/1.png")
    assert sum(int(note.split()[0]) for note in table.notes) == 8


@pytest.mark.parametrize("name", ["new\nline.png", "tab\t.png", "-x.png", "=1+1.png", "ü😀.png", " sp .png", "CON.png"])
def test_unusual_file_names_are_read(tree: Tree, tmp_path: Path, name: str) -> None:
    table = load_table(tree(f"a/{name}", "b/1.png"), CONFIG)
    assert table.ids[0] == f"a/{name}" and table.source.pixels(table.locations[0], max_pixels=99).shape == (5, 6, 3)


def test_undecodable_file_names_are_read(tree: Tree) -> None:
    root = tree("a/1.png", "b/1.png")
    os.rename(root / "a/1.png", os.fsencode(root) + b"/a/\xff.png")
    table = load_table(root, CONFIG)
    assert os.fsencode(table.ids[0]) == b"a/\xff.png"
    assert table.source.pixels(table.locations[0], max_pixels=99).shape == (5, 6, 3)


def test_similar_class_names_raise_a_warning(tree: Tree) -> None:
    with pytest.warns(UserWarning, match="'Cat' and 'cat'"):
        assert load_table(tree("Cat/1.png", "cat/1.png"), CONFIG).num_classes == 2


def test_groups_come_from_file_names(tree: Tree) -> None:
    root = tree("a/h1_1.png", "a/h2_1.png", "b/h1_2.png", "b/other.png")
    table = load_table(root, DataConfig(group_from=r"(h\d)_"))
    assert table.groups == ("h1", "h2", "h1", "=b/other.png") and "1 file names" in table.notes[0]
    for pattern, error in ((r"h\d", ConfigError), ("(", ConfigError), ("(z+)", DataError)):
        with pytest.raises(error, match="group-from"):
            load_table(root, DataConfig(group_from=pattern))


def test_table_options_need_a_table(pets: Path) -> None:
    with pytest.raises(ConfigError, match="applies to tables"):
        load_table(pets, DataConfig(label_columns=("x",)))
    with pytest.raises(ConfigError, match="applies to tables"):
        load_table("digits", DataConfig(group_column="x"))


def test_several_tables_are_ambiguous(tree: Tree) -> None:
    root = tree("img/1.png", "img/2.png")
    for name in ("a.csv", "b.csv"):
        (root / name).write_text("image,label\nimg/1.png,x\nimg/2.png,y\n")
    with pytest.raises(DataError, match=r"holds 2 tables \(a.csv, b.csv\)"):
        load_table(root, CONFIG)
    (root / "b.csv").rename(root / "train.csv")
    assert load_table(root, CONFIG).classes == ("x", "y")


def test_data_set_names_take_precedence_over_relative_paths(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree("digits/a/1.png", "digits/b/1.png")
    monkeypatch.chdir(root)
    with pytest.warns(UserWarning, match=r"'digits' is the data set of this name; .* write \./digits"):
        assert len(load_table("digits", CONFIG)) == 1797
    assert len(load_table("./digits", CONFIG)) == 2
    assert len(load_table("digits/", CONFIG)) == 2
    assert len(load_table(Path("digits"), CONFIG)) == 2


def test_unknown_data_suggests_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="did you mean 'digits'"):
        load_table("digit", CONFIG)
    (tmp_path / "x.rar").write_text("x")
    with pytest.raises(DataError, match=r"not a folder, an archive"):
        load_table(tmp_path / "x.rar", CONFIG)


def test_digits_are_complete_and_exact() -> None:
    table = load_table("digits", CONFIG)
    assert len(table) == DATASETS["digits"].num_images and table.classes == tuple("0123456789")
    pixels = np.stack([table.source.pixels(location, max_pixels=64) for location in table.locations])
    assert pixels.shape == (1797, 8, 8, 1) and (pixels.min(), pixels.max()) == (0, 255)
    assert len(np.unique(pixels)) == 17
    assert table.class_counts().sum() == 1797


def test_dataset_infos_are_complete() -> None:
    names = "cassava, cifar10, cifar100, digits, fashion-mnist, fingerspelling, inaturalist, leaves, mnist, svhn"
    assert ", ".join(DATASETS) == names
    for name in DATASETS:
        info = DATASETS[name]
        assert info.name == name and info.by_hand and info.num_classes == (len(info.classes) or info.num_classes) > 1
        assert len(info.plain_files) in (0, len(info.files))
        assert bool(info.mirrors) == bool(info.files) and all(mirror.startswith("https://") for mirror in info.mirrors)
        for file in (*info.files, *info.more_files):
            assert len(file.digest) == {"": 0, "MD5": 32, "SHA-256": 64}[file.algorithm]
            assert file.checksum or any("no checksum is published" in remark for remark in info.remarks)


def _idx_bytes(values: np.ndarray) -> bytes:
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("in_subfolder", [True, False])
def test_mnist_files_are_read_gzipped_or_plain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool, in_subfolder: bool
) -> None:
    rng = np.random.default_rng(0)
    parts = {"train": 7, "t10k": 3}
    folder = tmp_path / "tiny" if in_subfolder else tmp_path
    folder.mkdir(exist_ok=True)
    files, plain, images = [], [], {}
    for part, count in parts.items():
        images[part] = rng.integers(0, 256, (count, 4, 5), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 2
        for name, values in ((f"{part}-images-idx3-ubyte", images[part]), (f"{part}-labels-idx1-ubyte", labels)):
            raw = _idx_bytes(values)
            content = gzip.compress(raw)
            (folder / (f"{name}.gz" if packed else name)).write_bytes(content if packed else raw)
            files.append(RemoteFile(f"{name}.gz", len(content), hashlib.sha256(content).hexdigest()))
            plain.append(RemoteFile(name, checksum=hashlib.sha256(raw).hexdigest()))
    mnist = DATASETS["mnist"]
    info = DatasetInfo(
        name="tiny",
        title="",
        classes=("no", "yes"),
        counts=(("train", 7), ("test", 3)),
        image_shape=(4, 5, 1),
        read=mnist.read,
        files=tuple(files),
        plain_files=tuple(plain),
    )
    monkeypatch.setitem(DATASETS._values, "tiny", info)
    table = load_table("tiny", DataConfig(data_dir=str(tmp_path)))
    assert table.ids[0] == "train-00000" and table.ids[-1] == "test-00002"
    assert table.splits == ("train",) * 7 + ("test",) * 3 and table.classes == ("no", "yes")
    np.testing.assert_array_equal(table.source.pixels(table.locations[8], max_pixels=20)[..., 0], images["t10k"][1])
    name = files[0].name if packed else files[0].name.removesuffix(".gz")
    (folder / name).write_bytes(b"other")
    with pytest.raises(DataError, match="not the official file of tiny"):
        load_table("tiny", DataConfig(data_dir=str(tmp_path)))


def test_arrays_are_not_copied() -> None:
    images = np.zeros((600, 28, 28), dtype=np.uint8)
    table = table_from_arrays(images, np.arange(600) % 3, classes=["a", "b", "c"])
    assert np.shares_memory(table.source.pixels("5", max_pixels=1), images)
    table = table_from_arrays(images[:3], ["b10", "", "b9"])
    assert table.classes == ("b9", "b10") and table.labels.tolist() == [1, -1, 0]
    for bad in (images.astype(int), images[0], np.zeros((2, 4, 4, 2), dtype=np.uint8)):
        with pytest.raises(DataError, match="expected uint8"):
            table_from_arrays(bad)
    with pytest.raises(DataError, match="not one of the classes"):
        table_from_arrays(images[:1], ["x"], classes=["a", "b"])
    with pytest.raises(DataError, match="labels lie in"):
        table_from_arrays(images[:2], [0, 5], classes=["a", "b"])


def test_files_and_folders_to_classify_are_listed(pets: Path, tmp_path: Path) -> None:
    single = tmp_path / "one.png"
    picture(1).save(single)
    table = table_of_files([pets, single, single])
    assert len(table) == 31 and (table.labels == -1).all() and table.ids[0] == str(pets / "cat/0.png")
    assert table.source.pixels(table.locations[30], max_pixels=99).shape == (5, 6, 3)
    with pytest.raises(DataError, match="no file or folder"):
        table_of_files([tmp_path / "absent.png"])
