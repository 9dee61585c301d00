import stat
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from tests.fixtures.image_trees import Tree

from tercet.config.run import DataConfig
from tercet.core import archives
from tercet.core.errors import DataError
from tercet.data.load import load_table

CONFIG = DataConfig()


def archive(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                packed.write(file, file.relative_to(folder))
    return path


def test_zip_equals_folder(pets: Path, tmp_path: Path) -> None:
    folder, packed = load_table(pets, CONFIG), load_table(archive(pets, tmp_path / "pets.zip"), CONFIG)
    assert (packed.ids, packed.classes, packed.name) == (folder.ids, folder.classes, "pets")
    for row in (0, 29):
        expected, actual = (table.source.pixels(table.locations[row], max_pixels=99) for table in (folder, packed))
        np.testing.assert_array_equal(expected, actual)
    assert folder.fingerprint() == packed.fingerprint()


def test_table_inside_a_zip_or_folder(tree: Tree, tmp_path: Path) -> None:
    root = tree("set/1.png", "set/2.png", "set/img/3.png")
    (root / "set/labels.csv").write_text("image,label\n1.png,a\n2.png,b\nimg/3.png,a\n")
    for data in (root, archive(root, tmp_path / "x.zip")):
        table = load_table(data, CONFIG)
        assert table.ids == ("1.png", "2.png", "img/3.png") and table.labels.tolist() == [0, 1, 0]
        assert table.source.pixels(table.locations[2], max_pixels=99).shape == (5, 6, 3)
    (root / "set/labels.csv").write_text("image,label\n../../x.png,a\n2.png,b\n")
    with pytest.raises(DataError, match="is outside"):
        load_table(archive(root, tmp_path / "y.zip"), CONFIG)


def test_class_folders_take_precedence_unless_table_columns_are_given(pets: Path, tmp_path: Path) -> None:
    (pets / "labels.csv").write_text("image,label,hand\ncat/1.png,x,1\ndog/1.png,y,2\n")
    packed = archive(pets, tmp_path / "p.zip")
    assert load_table(packed, CONFIG).classes == ("cat", "dog", "eel")
    table = load_table(packed, DataConfig(group_column="hand"))
    assert table.classes == ("x", "y") and table.groups == ("1", "2")


def hostile(path: Path, *names: str, mode: int = 0, content: bytes = b"x") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in names:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            packed.writestr(info, content)
    return path


@pytest.mark.parametrize("name", ["../x.png", "a/../../x.png", "/etc/x.png", "C:/x.png", "..\\x.png"])
def test_member_names_outside_the_archive_are_errors(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="unsafe name"):
        load_table(hostile(tmp_path / "x.zip", "a/1.png", name), CONFIG)


def test_links_in_archives_are_skipped(pets: Path, tmp_path: Path) -> None:
    packed = archive(pets, tmp_path / "x.zip")
    with zipfile.ZipFile(packed, "a") as more:
        info = zipfile.ZipInfo("cat/link.png")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        more.writestr(info, "/etc/passwd")
    table = load_table(packed, CONFIG)
    assert len(table) == 30 and "not a regular file: 'cat/link.png'" in table.notes[0]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_malicious_archives_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="twice"):
        load_table(hostile(tmp_path / "a.zip", "a/1.png", "a/1.png"), CONFIG)
    with pytest.raises(DataError, match="grows more than"):
        load_table(hostile(tmp_path / "b.zip", "a/1.png", content=bytes(1 << 25)), CONFIG)
    (tmp_path / "c.zip").write_bytes(b"PK\x03\x04 nothing more")
    with pytest.raises(DataError, match="not a readable zip"):
        load_table(tmp_path / "c.zip", CONFIG)
    encrypted = bytearray(hostile(tmp_path / "d.zip", "a/1.png").read_bytes())
    encrypted[encrypted.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "d.zip").write_bytes(encrypted)
    with pytest.raises(DataError, match="encrypted"):
        load_table(tmp_path / "d.zip", CONFIG)
    overlapping = bytearray(hostile(tmp_path / "e.zip", "a/1.png", "b/1.png", content=bytes(range(256))).read_bytes())
    second = overlapping.rindex(b"PK\x01\x02")
    struct.pack_into("<I", overlapping, second + 42, 100)  # within the first member's bytes
    (tmp_path / "e.zip").write_bytes(overlapping)
    with pytest.raises(DataError, match="overlap"):
        load_table(tmp_path / "e.zip", CONFIG)
    monkeypatch.setattr(archives, "MAX_MEMBERS", 1)
    with pytest.raises(DataError, match="2 members"):
        load_table(hostile(tmp_path / "f.zip", "a/1.png", "b/1.png"), CONFIG)


def test_damaged_zip_member_is_reported(pets: Path, tmp_path: Path) -> None:
    packed = tmp_path / "x.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as stored:
        stored.write(pets / "cat/1.png", "a/1.png")
        stored.write(pets / "dog/1.png", "b/1.png")
    content = bytearray(packed.read_bytes())
    content[60] ^= 0xFF
    packed.write_bytes(content)
    table = load_table(packed, CONFIG)
    with pytest.raises(DataError, match="CRC"):
        table.source.pixels("a/1.png", max_pixels=99)
    assert table.source.pixels("b/1.png", max_pixels=99).shape == (5, 6, 3)
