"""Tables beside folders of images, output of Tercet within the data, and tar archives."""

import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import pytest
from tests.fixtures.image_trees import CLASSES, Tree, archives, in_classes, numbered

from tercet.config.run import DataConfig
from tercet.core import archives as core_archives
from tercet.core.errors import ConfigError, DataError
from tercet.data.load import load_table
from tercet.data.unpacked import unpacked

CONFIG = DataConfig()
TABLE = "image_id,label\n0,x\n1,y\n2,x\n3,y\n"


@pytest.mark.parametrize("folders", [("train_images", "test_images"), ("train", "test"), ("images", "test")])
@pytest.mark.parametrize("extension", ["", ".png"])
@pytest.mark.parametrize("wrapper", ["", "kaggle/"])
def test_table_beside_image_folders_is_read(tree: Tree, folders: tuple[str, str], extension: str, wrapper: str) -> None:
    root = tree(*(path for folder in folders for path in numbered(f"{wrapper}{folder}")))
    (root / wrapper / "train.csv").write_text("".join(
        f"{line.replace(',', f'{extension},') if line[0].isdigit() else line}\n" for line in TABLE.splitlines()
    ))  # fmt: skip
    (root / wrapper / "sample_submission.csv").write_text("image_id,label\n0,x\n")
    for data in (root, *archives(root)):
        table = load_table(data, CONFIG)
        assert table.classes == ("x", "y") and table.labels.tolist() == [0, 1, 0, 1]
        assert table.locations == tuple(numbered(f"{wrapper}{folders[0]}"))
        assert table.unlabelled == tuple(numbered(f"{wrapper}{folders[1]}"))
        assert table.layout == f"table {wrapper}train.csv" and table.splits is None
        notes = "; ".join(table.notes)
        assert f"are in {wrapper}{folders[0]}/" in notes and "--predict-test" in notes


def test_table_with_files_in_several_folders_is_read(tree: Tree) -> None:
    root = tree("part_1/a0.jpg", "part_1/a1.jpg", "part_2/a2.jpg", "part_2/a3.jpg", "part_2/a9.jpg")
    (root / "metadata.csv").write_text("lesion,image_id,finding\nL1,a0,nv\nL1,a1,mel\nL2,a2,nv\nL3,a3,mel\n")
    table = load_table(root, DataConfig(label_columns=("finding",)))
    assert table.classes == ("mel", "nv") and table.locations[3] == "part_2/a3.jpg"
    assert "1 image not in metadata.csv: left out" in table.notes
    with pytest.raises(DataError, match=r"(?s)'metadata.csv' beside folders of images .*--data.label-columns"):
        load_table(root, CONFIG)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("image,label\n0,x\n1,y\n", "may be 'a/0.png' or 'b/0.png'"),
        ("image,label\n7,x\n8,y\n", "2 of 2 listed images do not exist"),
        ("number,colour\n0,x\n1,y\n", "--data.label-columns"),
    ],
)
def test_table_that_does_not_list_the_images_is_refused(tree: Tree, content: str, text: str) -> None:
    root = tree(*numbered("a"), *numbered("b"))
    (root / "train.csv").write_text(content)
    for data in (root, *archives(root)):
        with pytest.raises(DataError) as error:
            load_table(data, CONFIG)
        message = str(error.value)
        assert text in message and "--data.layout" in message and "\n" not in message
    assert load_table(root, DataConfig(layout="classes")).classes == ("a", "b")
    (root / "train.csv").rename(root / "set.csv")  # another table beside folders that may be classes
    table = load_table(root, CONFIG)
    assert table.classes == ("a", "b") and "'set.csv' not read" in table.notes[0]


def test_class_and_split_folders_prevail_over_a_table_beside_them(tree: Tree) -> None:
    root = tree(*in_classes("train"), *in_classes("test"))
    (root / "labels.csv").write_text("image,label\ntrain/none/0.png,x\ntrain/glioma/0.png,y\n")
    assert load_table(root, CONFIG).classes == CLASSES
    table = load_table(root, DataConfig(layout="table"))
    assert table.classes == ("x", "y") and len(table) == 2 and "34 images not in labels.csv: left out" in table.notes


def test_table_in_a_folder_of_images_may_omit_the_folder(tree: Tree) -> None:
    root = tree("images/1.png", "images/2.png")
    (root / "labels.csv").write_text("image,label\n1,x\n2,y\n")
    assert load_table(root, CONFIG).locations == ("images/1.png", "images/2.png")


def own_output(root: Path) -> None:
    """Write what Tercet leaves in a folder of images: a run, explanations, an audit, a report and predictions."""
    documents = {
        "runs/photos-1/run.json": {"command": "train", "source": ".", "options": {}, "version": "0.2"},
        "explanations/explain.json": {"bundle": "x", "images": [], "filters": [], "notes": []},
        "checked/audit.json": {"source": ".", "failed": [], "features": None},
        "model/manifest.json": {"classes": [], "members": [], "sha256": ""},
    }
    for path, document in documents.items():
        (root / path).parent.mkdir(parents=True)
        (root / path).write_text(json.dumps(document))
        (root / path).parent.joinpath("figures").mkdir()
        shutil.copy(root / "cat/0.png", (root / path).parent / "figures/1.png")
        shutil.copy(root / "cat/0.png", (root / path).parent / "1.png")
    (root / "both.html").write_text('<!doctype html><meta name="generator" content="tercet">')
    (root / "both-figures").mkdir()
    shutil.copy(root / "cat/0.png", root / "both-figures/1.png")
    (root / "predictions.csv").write_text("id,predicted,cat,dog,eel\ncat/0.png,cat,1,0,0\n")


def test_own_output_within_the_data_is_left_out(pets: Path) -> None:
    expected = load_table(pets, CONFIG)
    own_output(pets)
    for data in (pets, *archives(pets)):
        table = load_table(data, CONFIG)
        assert (table.ids, table.classes, table.layout) == (expected.ids, expected.classes, expected.layout)
        (note,) = table.notes
        assert note.startswith("output of Tercet within the data, left out: ") and table.empty == ()
        for name in ("runs", "explanations", "checked", "model", "both-figures", "..."):
            assert name in note


def test_folders_with_the_names_of_own_output_are_classes(tree: Tree) -> None:
    root = tree("runs/1.png", "explanations/1.png", "both-figures/1.png")
    (root / "runs/run.json").write_text('{"command": "sprint"}')
    (root / "explanations/explain.json").write_text("[not json")
    (root / "both.html").write_text("<html>")
    table = load_table(root, CONFIG)
    assert table.classes == ("both-figures", "explanations", "runs") and "left out" not in " ".join(table.notes)


def test_tar_archives_are_unpacked_once_and_again_after_a_change(pets: Path) -> None:
    _, tarred = archives(pets)
    table = load_table(tarred, CONFIG)
    assert table.name == "data" and table.classes == ("cat", "dog", "eel")
    folder = unpacked(tarred)
    before = folder.stat().st_mtime_ns
    assert load_table(tarred, CONFIG).ids == table.ids and folder.stat().st_mtime_ns == before
    shutil.rmtree(pets / "eel")
    archives(pets)
    os.utime(tarred, ns=(1, 1))
    assert load_table(tarred, CONFIG).classes == ("cat", "dog") and unpacked(tarred) != folder


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_unsafe_tar_archives_are_errors(tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERCET_CACHE", str(tmp_path / "cache"))
    suffix = ".tar" if mode == "w" else f".tar.{mode[2:]}"

    def packed(name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"x") -> Path:
        path = tmp_path / f"{abs(hash((name, kind, len(content))))}{suffix}"
        with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, "/etc/passwd", len(content) if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(content))
        return path

    for name, kind in (("../a/1.png", tarfile.REGTYPE), ("/a/1.png", tarfile.REGTYPE), ("a/1.png", tarfile.SYMTYPE)):
        with pytest.raises(DataError, match="not read"):
            load_table(packed(name, kind), CONFIG)
    if mode != "w":
        monkeypatch.setattr(core_archives, "_UNCHECKED_BYTES", 1 << 12)
        with pytest.raises(DataError, match="grows more than"):
            load_table(packed("a/1.png", content=bytes(1 << 21)), CONFIG)
    damaged = tmp_path / f"damaged{suffix}"
    damaged.write_bytes(b"x" * 2000)
    with pytest.raises(DataError, match="not a readable archive"):
        load_table(damaged, CONFIG)
    assert [path for path in (tmp_path / "cache/archives").iterdir() if path.is_dir()] == []


def test_groups_and_classes_are_regular_expressions(pets: Path) -> None:
    for options in ({"class_from": "("}, {"group_from": "("}):
        with pytest.raises(ConfigError, match="is not a regular expression"):
            load_table(pets, DataConfig(**options))
