"""Files that are left out, and classes that training lacks, are reported."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tercet.config.commands import ExplainConfig
from tercet.config.parser import CommandOptions
from tercet.config.run import DataConfig
from tercet.core.errors import DataError
from tercet.data.data_module import prepare_data
from tercet.data.inputs import ImageInputs, table_of_files
from tercet.data.load import load_table
from tercet.data.readers.scan import scan_folder

SIZE = (8, 8)


def photos(root: Path, *names: str) -> Path:
    generator = np.random.default_rng(len(names))
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(root / name, "PNG")
    return root


def test_a_folder_of_links_says_which_option_follows_them(tmp_path: Path) -> None:
    data = photos(tmp_path / "data", *[f"{label}/{number}.png" for label in "ab" for number in range(3)])
    links = tmp_path / "links"
    for path in data.rglob("*.png"):
        target = links / path.relative_to(data)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path)
    for read in (lambda: load_table(links, DataConfig()), lambda: table_of_files([links])):
        with pytest.raises(DataError, match=r"holds no images; 6 skipped, a link.*--data\.follow-links.*a/0\.png"):
            read()
    table = load_table(links, DataConfig(follow_links=True))
    assert table.classes == ("a", "b") and len(table) == 6 and not table.skipped
    assert table.source.pixels("a/0.png", max_pixels=99).shape == (*SIZE, 3)


def test_links_to_folders_are_followed_once_and_never_in_a_circle(tmp_path: Path) -> None:
    outside = photos(tmp_path / "outside", "1.png", "deep/2.png")
    (outside / "deep" / "up").symlink_to(outside)
    root = photos(tmp_path / "root", "a/0.png")
    (root / "b").symlink_to(outside)
    (root / "c").symlink_to(outside)
    (root / "self").symlink_to(root)
    (root / "nothing").symlink_to(root / "absent")
    plain, followed = scan_folder(root), scan_folder(root, follow_links=True)
    assert plain.files == ("a/0.png",) and [path for path, _ in plain.skipped] == ["b", "c", "nothing", "self"]
    assert sorted(followed.files) == ["a/0.png", "b/1.png", "b/deep/2.png"]
    assert sorted(path for path, _ in followed.skipped) == ["b/deep/up", "c", "nothing", "self"]


def test_tables_list_links_to_files_elsewhere_only_on_request(tmp_path: Path) -> None:
    outside = photos(tmp_path / "outside", "1.png", "2.png")
    root = tmp_path / "root"
    root.mkdir()
    (root / "images").symlink_to(outside)
    (root / "labels.csv").write_text("image,label\nimages/1.png,a\nimages/2.png,b\n")
    with pytest.raises(DataError, match="is outside"):
        load_table(root / "labels.csv", DataConfig())
    table = load_table(root / "labels.csv", DataConfig(follow_links=True))
    assert table.locations == ("images/1.png", "images/2.png")
    (root / "labels.csv").write_text("image,label\n../outside/1.png,a\nimages/2.png,b\n")
    with pytest.raises(DataError, match="is outside"):
        load_table(root / "labels.csv", DataConfig(follow_links=True))


def test_every_file_of_a_folder_is_an_image_or_skipped(tmp_path: Path) -> None:
    names = ["1.png", "2.HEIC", "3.avif", "4.svg", "5", "notes.txt"]
    photos(tmp_path, *names)
    os.mkfifo(tmp_path / "pipe.png")
    inputs = ImageInputs(tmp_path, skip_bad=True)
    assert [Path(name).name for name, _ in inputs.pixels()] == names[:3]  # the content decides
    assert sorted(Path(name).name for name, _ in inputs.skipped) == ["4.svg", "5", "notes.txt", "pipe.png"]


def test_a_class_that_only_the_test_split_has_can_be_left_out(tmp_path: Path) -> None:
    names = [f"train/{label}/{number}.png" for label in "ac" for number in range(8)]
    data = photos(tmp_path, *names, "test/a/20.png", "test/b/21.png", "test/c/22.png", "test/b/23.png")
    with pytest.raises(DataError, match=r"1 class in test but not in train: b; --data\.unseen-classes leave-out"):
        prepare_data(data, DataConfig())
    module = prepare_data(data, DataConfig(unseen_classes="leave-out"))
    table = module.table
    assert table.classes == ("a", "c") and "2 images left out, of 1 class without training images: 'b'" in table.notes
    assert [table.ids[row] for row in table.rows_of("test")] == ["test/a/20.png", "test/c/22.png"]
    for row in range(len(table)):
        assert table.label_names()[row] == table.ids[row].split("/")[1].replace("b", "")
    assert len(module.images) == len(table)


def test_null_is_a_name_of_a_class() -> None:
    from tercet.config.fields import ConfigEntry

    options = CommandOptions(ExplainConfig)
    entries = [ConfigEntry(key, "null", "--") for key in ("class_name", "member")]
    problems: list = []
    config = options.resolve(entries, problems)[ExplainConfig]
    assert (config.class_name, config.member, problems) == ("null", None, [])
