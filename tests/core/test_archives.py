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
from tercet.core.archives import read_archive, read_chunks, read_members
from tercet.core.errors import DataError, StorageError
from tercet.core.unpacking import unpack, unpacked_folder

FILES = {"set/a/1.txt": b"one", "set/b/two.txt": b"2" * 1024, "set/empty": b"", "top.txt": bytes(range(256)) * 10}


def tar_bytes(files: dict[str, bytes], *more: tarfile.TarInfo) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as packed:
        packed.addfile(_folder("set"))
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
        for info in more:
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


FORMS: dict[str, Callable[[dict[str, bytes]], bytes]] = {
    "x.zip": zip_bytes,
    "x.tar": tar_bytes,
    "x.tar.gz": lambda files: gzip.compress(tar_bytes(files)),
    "x.tar.bz2": lambda files: bz2.compress(tar_bytes(files)),
    "x.tar.xz": lambda files: lzma.compress(tar_bytes(files)),
}


def tree_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", FORMS)
def test_what_was_packed_comes_out(tmp_path: Path, name: str) -> None:
    archive = tmp_path / name
    archive.write_bytes(FORMS[name](FILES))
    assert unpacked_folder(archive) == tmp_path / "x"
    unpack(archive, unpacked_folder(archive))
    assert tree_of(tmp_path / "x") == FILES
    assert {entry.name for entry in tmp_path.iterdir()} == {name, "x"}
    assert read_members(archive, {"1.txt": 10, "top.txt": 2560}) == {"1.txt": b"one", "top.txt": FILES["top.txt"]}
    with pytest.raises(DataError, match="takes 2560 bytes"):
        read_members(archive, {"top.txt": 2559})


@pytest.mark.parametrize("form", ["x.zip", "x.tar.gz"])
@pytest.mark.parametrize("name", ["../out.txt", "a/../../out.txt", "/tmp/out.txt", "C:/out.txt", "..\\out.txt"])
def test_names_that_escape_are_refused(tmp_path: Path, form: str, name: str) -> None:
    archive = tmp_path / "in" / form
    archive.parent.mkdir()
    archive.write_bytes(FORMS[form]({"good.txt": b"x", name: b"out"}))
    with pytest.raises(DataError, match="unsafe name"):
        unpack(archive, tmp_path / "in" / "x")
    assert [path.name for path in tmp_path.rglob("*")] == ["in", form]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    odd = tarfile.TarInfo("odd")
    odd.type, odd.linkname = kind, "/etc/passwd"
    archive = tmp_path / "x.tar"
    archive.write_bytes(tar_bytes(FILES, odd))
    with pytest.raises(DataError, match="no regular file"):
        unpack(archive, tmp_path / "x")
    assert list(tmp_path.iterdir()) == [archive]


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as packed:
        info = zipfile.ZipInfo("odd")
        info.external_attr = 0o120777 << 16
        packed.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match="no regular file"):
        unpack(tmp_path / "x.zip", tmp_path / "x")


def test_a_name_twice_is_refused(tmp_path: Path) -> None:
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


def test_bombs_are_refused_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = bytes(1 << 25)
    for form in ("x.zip", "x.tar.gz"):
        (tmp_path / form).write_bytes(FORMS[form]({"large": large}))
        with pytest.raises(DataError, match="grows more than"):
            unpack(tmp_path / form, tmp_path / "x")
    monkeypatch.setattr(archives, "MAX_MEMBERS", 3)
    for form in ("x.zip", "x.tar.gz"):
        (tmp_path / form).write_bytes(FORMS[form](FILES))
        with pytest.raises(DataError, match="members"):
            unpack(tmp_path / form, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_header_cannot_ask_for_much_memory(tmp_path: Path) -> None:
    pax = tarfile.TarInfo("pax")
    pax.type, pax.size = tarfile.XHDTYPE, 1 << 32
    (tmp_path / "x.tar").write_bytes(pax.tobuf(tarfile.USTAR_FORMAT) + bytes(4096))
    with pytest.raises(DataError, match="a header states"):
        unpack(tmp_path / "x.tar", tmp_path / "x")


def test_archives_within_an_archive_are_unpacked_where_named(tmp_path: Path) -> None:
    inner = {"train.zip": zip_bytes({"train/a.txt": b"a"}), "other.zip": b"no archive"}
    (tmp_path / "outer.zip").write_bytes(zip_bytes(inner))
    unpack(tmp_path / "outer.zip", tmp_path / "outer", nested=["train.zip"])
    assert tree_of(tmp_path / "outer") == {"train/train/a.txt": b"a", "other.zip": b"no archive"}


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".x.abc.tmp").mkdir()
    (tmp_path / "x.zip").write_bytes(zip_bytes(FILES))
    unpack(tmp_path / "x.zip", tmp_path / "x")
    assert {entry.name for entry in tmp_path.iterdir()} == {"x", "x.zip"}


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(zip_bytes(FILES))
    with pytest.raises(StorageError, match="cannot unpack"):
        unpack(tmp_path / "x.zip", tmp_path / "absent" / "x")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(form=st.sampled_from(sorted(FORMS)), cut=st.integers(1, 4000), flips=st.lists(st.integers(0, 4000), max_size=3))
def test_damaged_archives_are_one_clear_error(tmp_path: Path, form: str, cut: int, flips: list[int]) -> None:
    content = bytearray(FORMS[form](FILES))
    if cut % 2:
        del content[max(1, len(content) - cut) :]
    for position in flips:
        content[position % len(content)] ^= 0xFF
    (tmp_path / form).write_bytes(content)
    try:
        for name, _, member in read_archive(tmp_path / form):
            assert ".." not in name.split("/")
            list(read_chunks(tmp_path / form, member))
    except DataError as error:
        assert str(tmp_path / form) in str(error)
