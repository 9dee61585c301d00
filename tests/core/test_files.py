"""Atomic writes, JSON, output folders, and safe file names."""

import hashlib
import json
import os
import random
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercet.core.errors import ModelError, StorageError
from tercet.core.files import (
    atomic_path,
    natural_key,
    new_folder,
    read_json,
    sha256,
    slug,
    write_bytes,
    write_json,
    write_text,
)

any_text = st.text(st.characters(), max_size=120)  # including lone surrogates


def test_files_are_replaced_without_leftovers(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b" / "x.bin"
    write_bytes(target, b"one")
    write_bytes(target, b"two")
    assert target.read_bytes() == b"two"
    assert [path.name for path in target.parent.iterdir()] == ["x.bin"]


def test_files_have_the_usual_permissions(tmp_path: Path) -> None:
    write_text(tmp_path / "atomic", "x")
    (tmp_path / "plain").write_text("x")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("atomic", "plain")}
    assert len(modes) == 1


def test_a_failed_write_keeps_the_old_file_without_leftovers(tmp_path: Path) -> None:
    target = tmp_path / "x"
    write_bytes(target, b"old")
    with pytest.raises(RuntimeError, match="halfway"), atomic_path(target) as temporary:
        temporary.write_bytes(b"new")
        raise RuntimeError("halfway")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_an_existing_folder_or_file_in_the_path_raises_storage_error(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(StorageError, match="cannot write"):
        write_text(tmp_path / "x", "content")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        write_text(tmp_path / "file" / "x", "content")


def test_a_storage_error_inside_the_block_is_raised_unchanged(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught, atomic_path(tmp_path / "x"):
        raise StorageError("the disk is on fire")
    assert str(caught.value) == "the disk is on fire"


def test_a_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "x"
    write_bytes(target, b"old")
    program = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from tercet.core.files import write_bytes; from tercet.core.errors import StorageError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: write_bytes(Path(sys.argv[1]), bytes(5000))\n"
        "except StorageError as error: print(error); sys.exit(error.exit_code)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, target], capture_output=True, text=True)
    assert done.returncode == 5, done.stderr
    assert str(target) in done.stdout and "free space" in done.stdout
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_killed_writer_leaves_a_complete_file(tmp_path: Path) -> None:
    target = tmp_path / "x"
    program = (
        "import sys; from pathlib import Path; from tercet.core.files import write_bytes\n"
        "number = 0\n"
        "while True:\n"
        "    number = (number + 1) % 256; write_bytes(Path(sys.argv[1]), bytes([number]) * 300_000)\n"
    )
    for delay in (0.0, 0.03):
        child = subprocess.Popen([sys.executable, "-c", program, target])
        deadline = time.monotonic() + 30
        while not target.exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(delay + random.Random(delay).random() / 50)
        child.send_signal(signal.SIGKILL)
        child.wait()
        content = target.read_bytes()
        assert len(content) == 300_000 and len(set(content)) == 1
        target.unlink()


def test_json_preserves_all_names(tmp_path: Path) -> None:
    document = {"classes": ["Grüße", "猫", os.fsdecode(b"\xff.jpg"), "\ud800"], "n": [1, 2.5, None, True]}
    write_json(tmp_path / "x.json", document)
    assert read_json(tmp_path / "x.json") == document
    assert "猫" in (tmp_path / "x.json").read_text("utf-8")


@settings(deadline=None, max_examples=20)
@given(any_text)
def test_json_preserves_any_text(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("json") / "x.json"
    write_json(path, [text])
    # the json module joins adjacent halves of a surrogate pair
    assert read_json(path) == json.loads(json.dumps([text]))
    path.read_text("utf-8")


def test_nan_in_json_raises(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", [float("nan")])
    assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe"])
def test_other_files_than_json_raise_model_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ModelError, match="not a JSON document"):
        read_json(tmp_path / "x.json")
    with pytest.raises(ModelError, match="cannot read"):
        read_json(tmp_path / "absent.json")


def test_sha256_hashes_the_content(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256(tmp_path / "x") == hashlib.sha256(b"abc").hexdigest()


def test_new_folder_accepts_only_empty_folders(tmp_path: Path) -> None:
    assert new_folder(tmp_path / "a" / "b").is_dir()
    assert new_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    (tmp_path / "a" / "b" / "kept").write_text("precious")
    with pytest.raises(StorageError, match=r"exists already.*--resume"):
        new_folder(tmp_path / "a" / "b")
    with pytest.raises(StorageError, match=r"kept exists already and is a file: choose another --output$"):
        new_folder(tmp_path / "a" / "b" / "kept")
    with pytest.raises(StorageError, match=r"exists already and is not empty: choose another --output$"):
        new_folder(tmp_path / "a" / "b", resumes=False)
    with pytest.raises(StorageError, match="cannot write"):
        new_folder(tmp_path / "a" / "b" / "kept" / "c")
    assert (tmp_path / "a" / "b" / "kept").read_text() == "precious"


@settings(deadline=None, max_examples=100)
@given(any_text)
def test_slugs_are_safe_path_components(name: str) -> None:
    part = slug(name)
    assert part and part not in (".", "..") and part[0] not in "-."
    assert not set(part) & set('/\\:*?"<>|\0\n\r\t \x1b')
    assert len(part.encode()) <= 100
    assert slug(part) == part


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("row-lstm", "row-lstm"),
        ("efficientnet_b0.ra_in1k", "efficientnet_b0.ra_in1k"),
        ("a/b\\c", "a-b-c"),
        ("../../etc", "etc"),
        ("..", "unnamed"),
        ("", "unnamed"),
        ("Grüße", "Grüße"),
    ],
)
def test_slugs_stay_readable(name: str, expected: str) -> None:
    assert slug(name) == expected


def test_long_names_leave_space_for_suffixes(tmp_path: Path) -> None:
    (tmp_path / f"{slug(chr(0x1D538) * 300)}.safetensors").write_text("")
    write_text(tmp_path / ("ü" * 120), "x")


def test_the_natural_order_compares_numbers_by_value() -> None:
    names = ["class10", "class9", "class", "Class1", "a", "10", "9", "9a", ""]
    assert sorted(names, key=natural_key) == ["", "9", "9a", "10", "a", "class", "Class1", "class9", "class10"]


@pytest.mark.parametrize("names", [["Cat", "cat"], ["01", "1"], ["ss", "ß"], ["a01", "a1"]])
def test_the_natural_order_of_similar_names_is_fixed(names: list[str]) -> None:
    assert sorted(names, key=natural_key) == sorted(reversed(names), key=natural_key)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(st.sampled_from("aAbBßs019.-٣²"), max_size=6), unique=True, max_size=8), st.randoms())
def test_the_natural_order_depends_only_on_the_names(names: list[str], generator: random.Random) -> None:
    shuffled = list(names)
    generator.shuffle(shuffled)
    assert sorted(names, key=natural_key) == sorted(shuffled, key=natural_key)


def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    real, link = tmp_path / "folder" / "real", tmp_path / "link"
    write_bytes(real, b"old")
    link.symlink_to(real)
    write_bytes(link, b"new")
    assert link.is_symlink()
    assert real.read_bytes() == b"new"
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "folder" / "later")
    write_bytes(dangling, b"new")
    assert dangling.is_symlink() and (tmp_path / "folder" / "later").read_bytes() == b"new"


def test_a_pipe_gets_the_content_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE) as reader:
        write_bytes(pipe, b"x" * 100_000)
        output, _ = reader.communicate(timeout=30)
    assert output == b"x" * 100_000
    assert stat.S_ISFIFO(pipe.lstat().st_mode)


def test_a_device_stays(tmp_path: Path) -> None:
    link = tmp_path / "null"
    link.symlink_to("/dev/null")
    write_bytes(link, b"content")
    assert link.is_symlink() and stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.parametrize("kind", ["folder", "socket", "circle"])
def test_outputs_that_cannot_be_files_are_errors_and_stay(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "x"
    if kind == "folder":
        target.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(target))
    else:
        target.symlink_to(target)
    before = target.lstat().st_ino
    with pytest.raises(StorageError, match=f"cannot write .*{'' if kind == 'circle' else kind}"):
        write_bytes(target, b"content")
    assert target.lstat().st_ino == before
    assert list(tmp_path.iterdir()) == [target]
