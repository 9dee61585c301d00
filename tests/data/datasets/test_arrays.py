"""CIFAR and SVHN: tiny files in the official layout, packed and unpacked, valid and damaged."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.data.datasets.official import mat, pickled_batch, tar, unpacked

from tercet.config.run import DataConfig
from tercet.core.errors import ConfigError, DataError
from tercet.data.datasets.cifar import read_batch, read_records
from tercet.data.datasets.download import RemoteFile
from tercet.data.datasets.info import DATASETS, DatasetInfo
from tercet.data.datasets.svhn import read_digits
from tercet.data.load import load_table

Files = dict[str, bytes]
BATCHES = [f"data_batch_{number}" for number in range(1, 6)]


def random_images(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def planes(images: np.ndarray) -> np.ndarray:
    """N x 3072: the red plane row by row, then green, then blue."""
    return np.stack([np.concatenate([image[..., channel].ravel() for channel in range(3)]) for image in images])


def register(monkeypatch: pytest.MonkeyPatch, info: DatasetInfo) -> None:
    monkeypatch.setitem(DATASETS._values, info.name, info)


class Cifar:
    """A CIFAR-10 of 50 + 10 images and a CIFAR-100 of 100 + 100, in every published form."""

    def __init__(self, name: str) -> None:
        self.number = 10 if name == "cifar10" else 100
        self.info = DATASETS[name]
        self.folders = {
            "binary": "cifar-10-batches-bin" if self.number == 10 else "cifar-100-binary",
            "python": "cifar-10-batches-py" if self.number == 10 else "cifar-100-python",
        }
        each, names = (10, [*BATCHES, "test_batch"]) if self.number == 10 else (100, ["train", "test"])
        self.parts = {}
        for seed, name in enumerate(names):
            labels = np.random.default_rng(seed).permutation(each)
            self.parts[name] = (random_images(each, seed), labels)
        self.images = np.concatenate([images for images, _ in self.parts.values()])
        self.labels = np.concatenate([labels for _, labels in self.parts.values()])
        self.counts = (("train", each * (len(names) - 1)), ("test", each))

    def files(self, form: str) -> Files:
        files = {}
        for name, (images, labels) in self.parts.items():
            if form == "binary":
                fine = labels[:, None].astype(np.uint8)
                label_bytes = fine if self.number == 10 else np.hstack([fine // 5, fine])
                files[f"{name}.bin"] = np.hstack([label_bytes, planes(images)]).tobytes()
            else:
                label_lists = (
                    {"labels": labels.tolist()}
                    if self.number == 10
                    else {
                        "coarse_labels": (labels // 5).tolist(),
                        "fine_labels": labels.tolist(),
                    }
                )
                file_names = [f"picture_{row}.png" for row in range(len(labels))]
                values = {"data": planes(images), **label_lists, "batch_label": "a batch", "filenames": file_names}
                files[name] = pickled_batch(values)
        return files

    def write_files(self, root: Path, form: str, layout: str, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Write the files, register their checksums and counts, and return the data folder."""
        folder = self.folders[form]
        members = {f"{folder}/{name}": content for name, content in self.files(form).items()}
        info = replace(self.info, counts=self.counts, mirrors=())
        if layout == "archive":
            members[f"{folder}/readme.html"] = b"see the page"
            path = tar(root / f"cifar-{self.number}-{form}.tar.gz", members)
            remote = RemoteFile(path.name, path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
            info = replace(info, files=(remote,)) if form == "binary" else replace(info, more_files=(remote,))
        else:
            unpacked(
                root if layout == "folder" else root / self.info.name,
                members if layout == "folder" else self.files(form),
            )
        register(monkeypatch, info)
        return root


@pytest.mark.parametrize("layout", ["archive", "folder", "loose"])
@pytest.mark.parametrize("form", ["binary", "python"])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_is_read_in_every_published_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, form: str, layout: str
) -> None:
    tiny = Cifar(name)
    root = tiny.write_files(tmp_path, form, layout, monkeypatch)
    table = load_table(name, DataConfig(data_dir=str(root)))
    assert table.classes == tiny.info.classes and len(table.classes) == tiny.number
    assert table.labels.tolist() == tiny.labels.tolist()
    train, test = (count for _, count in tiny.counts)
    assert table.splits == ("train",) * train + ("test",) * test
    assert (table.ids[0], table.ids[-1]) == ("train-00000", f"test-{test - 1:05d}")
    for row in (0, 11, len(table) - 1):
        np.testing.assert_array_equal(table.source.pixels(table.locations[row], max_pixels=1024), tiny.images[row])


def test_unequal_class_counts_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = Cifar("cifar10")
    root = tiny.write_files(tmp_path, "binary", "folder", monkeypatch)
    path = root / "cifar-10-batches-bin" / "data_batch_3.bin"
    content = bytearray(path.read_bytes())
    content[0] = (content[0] + 1) % 10
    path.write_bytes(content)
    with pytest.raises(DataError, match="4 to 6 per class, expected 50 with 5 per class"):
        load_table("cifar10", DataConfig(data_dir=str(root)))
    path.unlink()
    with pytest.raises(DataError, match=r"cannot read .*data_batch_3\.bin"):
        load_table("cifar10", DataConfig(data_dir=str(root)))


def test_archive_with_wrong_checksum_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = Cifar("cifar10")
    root = tiny.write_files(tmp_path, "binary", "archive", monkeypatch)
    content = bytearray((root / "cifar-10-binary.tar.gz").read_bytes())
    content[100] ^= 1
    (root / "cifar-10-binary.tar.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"not the official file of cifar10 .SHA-256"):
        load_table("cifar10", DataConfig(data_dir=str(root)))


def test_failed_download_explains_manual_placement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, replace(DATASETS["cifar10"], mirrors=("https://127.0.0.1:1/x",)))
    with pytest.raises(DataError, match=r"no connection.*place the file manually as .*cifar-10-binary\.tar\.gz"):
        load_table("cifar10", DataConfig(data_dir=str(tmp_path)))


ONE_IMAGE = np.zeros((1, 3072), dtype=np.uint8)


@pytest.mark.parametrize("content", [b"", bytes(3072), bytes(3074)], ids=["empty", "short", "long"])
def test_invalid_cifar_records_are_errors(content: bytes) -> None:
    with pytest.raises(DataError, match=f"{len(content):,} bytes"):
        read_records(content, "x", label_bytes=1)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"labels": [1]}, "data"),
        ({"data": ONE_IMAGE[:, :-1], "labels": [1]}, "no 'data'"),
        ({"data": ONE_IMAGE, "labels": ["1"]}, "no list of integers"),
        ({"data": ONE_IMAGE}, "labels"),
    ],
    ids=["no data", "narrow", "texts", "no labels"],
)
def test_invalid_cifar_batches_are_errors(batch: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_batch(pickled_batch(batch), "x", key="labels")


@pytest.mark.parametrize(("labels", "message"), [([10] * 10, "labels from 0 to 10"), ([1], "10 images and 1 labels")])
def test_cifar_labels_that_do_not_match_are_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labels: list[int], message: str
) -> None:
    tiny = Cifar("cifar10")
    root = tiny.write_files(tmp_path, "python", "loose", monkeypatch)
    batch = pickled_batch({"data": planes(random_images(10, 0)), "labels": labels})
    (root / "cifar10" / "data_batch_2").write_bytes(batch)
    with pytest.raises(DataError, match=message):
        load_table("cifar10", DataConfig(data_dir=str(root)))


class Svhn:
    """Three files of SVHN with 12, 7 and 5 images."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.images = {part: random_images(count, count) for part, count in (("train", 12), ("extra", 7), ("test", 5))}
        files = {}
        for part, images in self.images.items():
            labels = np.arange(len(images))[:, None] % 10 + 1
            content = mat(images.transpose(1, 2, 3, 0), labels.astype(np.uint8 if part == "train" else np.float64))
            (root / f"{part}_32x32.mat").write_bytes(content)
            files[part] = RemoteFile(f"{part}_32x32.mat", len(content), f"md5:{hashlib.md5(content).hexdigest()}")
        info = replace(
            DATASETS["svhn"],
            counts=tuple((part, len(images)) for part, images in self.images.items()),
            files=(files["train"], files["test"]),
            more_files=(files["extra"],),
            mirrors=(),
        )
        register(monkeypatch, info)


def test_svhn_with_and_without_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = Svhn(tmp_path, monkeypatch)
    table = load_table("svhn", DataConfig(data_dir=str(tmp_path)))
    assert table.splits == ("train",) * 12 + ("test",) * 5 and table.classes == tuple("0123456789")
    assert table.labels[:12].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2]  # the label 10 is the digit 0
    np.testing.assert_array_equal(table.source.pixels("13", max_pixels=1024), tiny.images["test"][1])
    extra = load_table("svhn:extra", DataConfig(data_dir=str(tmp_path)))
    assert extra.splits == ("train",) * 19 + ("test",) * 5
    assert (extra.ids[12], extra.ids[-1]) == ("extra-00000", "test-00004")
    np.testing.assert_array_equal(extra.source.pixels("13", max_pixels=1024), tiny.images["extra"][1])
    (tmp_path / "extra_32x32.mat").write_bytes(b"other")
    with pytest.raises(DataError, match="not the official file of svhn"):
        load_table("svhn:extra", DataConfig(data_dir=str(tmp_path)))


def test_unknown_variant_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"svhn has no variant 'more' \(variants: svhn:extra\)"):
        load_table("svhn:more", DataConfig())
    with pytest.raises(ConfigError, match=r"digits has no variant 'extra' \(it has none\)"):
        load_table("digits:extra", DataConfig())


X = random_images(3, 0).transpose(1, 2, 3, 0)
Y = np.array([[1], [10], [3]], dtype=np.uint8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a readable MATLAB file"),
        (b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(400), "not a readable MATLAB file"),
        (mat(X.astype(np.float64), Y), "X is 32 x 32 x 3 x 3 of float64"),
        (mat(X[:31], Y), "X is 31 x 32 x 3 x 3"),
        (mat(X[..., :2], Y), "X is 32 x 32 x 3 x 2 of uint8, expected 32 x 32 x 3 x 3"),
        (mat(X, Y[:2]), "y is 2 x 1"),
        (mat(X, Y.T), "y is 1 x 3"),
        (mat(X, Y.astype(object)), "y is 3 x 1 of object"),
        (mat(X, Y - 1), "labels other than 1 to 10"),
        (mat(X, Y + 0.5), "labels other than 1 to 10"),
        (mat(X, Y)[:-200], "not a readable MATLAB file"),
        (mat(X, Y)[:5000], "not a readable MATLAB file"),
    ],
    ids=["empty", "version", "type", "shape", "count", "labels", "row", "cells", "zero", "half", "cut", "cut within X"],
)
def test_invalid_mat_files_are_errors(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.mat").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_digits(tmp_path / "x.mat", np.empty((3, 32, 32, 3), dtype=np.uint8))


SMALL = mat(np.zeros((32, 32, 3, 2), dtype=np.uint8), Y[:2])


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cut=st.integers(0, len(SMALL)),
    flips=st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.integers(0, 255)), max_size=4),
)
def test_damaged_mat_file_raises_only_data_error(tmp_path: Path, cut: int, flips: list[tuple[int, int]]) -> None:
    content = bytearray(SMALL)
    for position, value in flips:
        content[position] = value
    (tmp_path / "x.mat").write_bytes(content[: len(SMALL) - cut if cut % 3 == 0 else None])
    try:
        assert len(read_digits(tmp_path / "x.mat", np.empty((2, 32, 32, 3), dtype=np.uint8))) == 2
    except DataError as error:
        assert str(tmp_path / "x.mat") in str(error)
