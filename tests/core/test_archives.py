import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tercet.core import archives
from tercet.core.archives import read_archive, read_chunks, read_members, unpack, unpacked_folder
from tercet.core.errors import DataError, StorageError

FILES = {"set/a/1.txt": b"one", "set/b/two.txt": b"2" * 1024, "set/empty": b"", "top.txt": bytes(range(256)) * 10}


def tar_bytes(files: dict[str, bytes], *extra: tarfile.TarInfo) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as packed:
        packed.addfile(_folder("set"))
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
        for info in extra:
            packed.addfile(info)
    return stream.getvalue()


def _folder(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = tarfile.DIRTYPE
    return info


def zip_bytes(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("set/", b"")
        for name, content in files.items():
            packed.writestr(name, content)
    return stream.getvalue()


FORMATS: dict[str, Callable[[dict[str, bytes]], bytes]] = {
    "x.zip": zip_bytes,
    "x.tar": tar_bytes,
    "x.tar.gz": lambda files: gzip.compress(tar_bytes(files)),
    "x.tar.bz2": lambda files: bz2.compress(tar_bytes(files)),
    "x.tar.xz": lambda files: lzma.compress(tar_bytes(files)),
}


def tree_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", FORMATS)
def test_all_formats_are_unpacked(tmp_path: Path, name: str) -> None:
    archive = tmp_path / name
    archive.write_bytes(FORMATS[name](FILES))
    assert unpacked_folder(archive) == tmp_path / "x"
    unpack(archive, unpacked_folder(archive))
    assert tree_of(tmp_path / "x") == FILES
    assert {entry.name for entry in tmp_path.iterdir()} == {name, "x"}
    assert read_members(archive, {"1.txt": 10, "top.txt": 2560}) == {"1.txt": b"one", "top.txt": FILES["top.txt"]}
    with pytest.raises(DataError, match="has 2560 bytes"):
        read_members(archive, {"top.txt": 2559})


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("x.zip", "../out.txt"),
        ("x.tar.gz", "a/../../out.txt"),
        ("x.zip", "/tmp/out.txt"),
        ("x.tar.gz", "C:/out.txt"),
        ("x.zip", "..\\out.txt"),
    ],
)
def test_names_outside_the_archive_raise(tmp_path: Path, file: str, name: str) -> None:
    archive = tmp_path / "in" / file
    archive.parent.mkdir()
    archive.write_bytes(FORMATS[file]({"good.txt": b"x", name: b"out"}))
    with pytest.raises(DataError, match="unsafe name"):
        unpack(archive, tmp_path / "in" / "x")
    assert [path.name for path in tmp_path.rglob("*")] == ["in", file]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_raise(tmp_path: Path, kind: bytes) -> None:
    special = tarfile.TarInfo("special")
    special.type, special.linkname = kind, "/etc/passwd"
    archive = tmp_path / "x.tar"
    archive.write_bytes(tar_bytes(FILES, special))
    with pytest.raises(DataError, match="not a regular file"):
        unpack(archive, tmp_path / "x")
    assert list(tmp_path.iterdir()) == [archive]


def test_a_link_in_a_zip_raises(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as packed:
        info = zipfile.ZipInfo("link")
        info.external_attr = 0o120777 << 16
        packed.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match="not a regular file"):
        unpack(tmp_path / "x.zip", tmp_path / "x")


def test_repeated_names_raise(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as packed:
        for content in (b"one", b"other"):
            info = tarfile.TarInfo("same")
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
    (tmp_path / "x.tar").write_bytes(stream.getvalue())
    with pytest.raises(DataError, match="twice"):
        unpack(tmp_path / "x.tar", tmp_path / "x")
    with pytest.raises(DataError, match="two files"):
        read_members(tmp_path / "x.tar", {"same": 10, "absent": 1})
    (tmp_path / "y.tar").write_bytes(tar_bytes({"a": b"file", "a/b": b"below a file"}))
    with pytest.raises(DataError, match="twice"):
        unpack(tmp_path / "y.tar", tmp_path / "y")


def test_decompression_bombs_raise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = bytes(1 << 25)
    for name in ("x.zip", "x.tar.gz"):
        (tmp_path / name).write_bytes(FORMATS[name]({"large": large}))
        with pytest.raises(DataError, match="grows more than"):
            unpack(tmp_path / name, tmp_path / "x")
    monkeypatch.setattr(archives, "MAX_MEMBERS", 3)
    for name in ("x.zip", "x.tar.gz"):
        (tmp_path / name).write_bytes(FORMATS[name](FILES))
        with pytest.raises(DataError, match="members"):
            unpack(tmp_path / name, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_large_size_in_a_header_allocates_no_memory(tmp_path: Path) -> None:
    pax = tarfile.TarInfo("pax")
    pax.type, pax.size = tarfile.XHDTYPE, 1 << 32
    (tmp_path / "x.tar").write_bytes(pax.tobuf(tarfile.USTAR_FORMAT) + bytes(4096))
    with pytest.raises(DataError, match="a header states"):
        unpack(tmp_path / "x.tar", tmp_path / "x")


def test_nested_archives_are_unpacked_if_listed(tmp_path: Path) -> None:
    inner = {"train.zip": zip_bytes({"train/a.txt": b"a"}), "other.zip": b"not an archive"}
    (tmp_path / "outer.zip").write_bytes(zip_bytes(inner))
    unpack(tmp_path / "outer.zip", tmp_path / "outer", nested=["train.zip"])
    assert tree_of(tmp_path / "outer") == {"train/train/a.txt": b"a", "other.zip": b"not an archive"}


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".x.abc.tmp").mkdir()
    (tmp_path / "x.zip").write_bytes(zip_bytes(FILES))
    unpack(tmp_path / "x.zip", tmp_path / "x")
    assert {entry.name for entry in tmp_path.iterdir()} == {"x", "x.zip"}


def test_an_unwritable_folder_raises_storage_error(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(zip_bytes(FILES))
    with pytest.raises(StorageError, match="cannot write"):
        unpack(tmp_path / "x.zip", tmp_path / "absent" / "x")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(sorted(FORMATS)), cut=st.integers(1, 4000), flips=st.lists(st.integers(0, 4000), max_size=3)
)
def test_damaged_archives_raise_data_error(tmp_path: Path, name: str, cut: int, flips: list[int]) -> None:
    content = bytearray(FORMATS[name](FILES))
    if cut % 2:
        del content[max(1, len(content) - cut) :]
    for position in flips:
        content[position % len(content)] ^= 0xFF
    archive = tmp_path / name
    archive.write_bytes(content)
    try:
        for member, _, stream in read_archive(archive):
            assert ".." not in member.split("/")
            list(read_chunks(archive, stream))
    except DataError as error:
        assert str(archive) in str(error)
