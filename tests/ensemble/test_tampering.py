"""Untrusted bundles: changes are detected, errors are single lines, and no code is executed."""

import hashlib
import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from tercet.core.errors import ModelError
from tercet.ensemble.bundle import load_bundle

GREY = np.full((9, 9), 100, dtype=np.uint8)


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def forge(folder: Path, change: Callable[[dict[str, Any]], object], *, hashes: bool = True) -> None:
    """Change a manifest and correct all digests, as an attacker would."""
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    manifest.pop("sha256")
    change(manifest)
    if hashes:
        for name in manifest["files"]:
            if (folder / name).is_file():
                manifest["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps({**manifest, "sha256": digest}), "utf-8")


def load_fails(folder: Path, match: str = "") -> ModelError:
    with pytest.raises(ModelError, match=match) as caught:
        load_bundle(folder)
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_manifest_with_corrected_digests_loads(copy: Path) -> None:
    forge(copy, lambda manifest: manifest.update(classes=["a", "b", "c"]))
    assert load_bundle(copy).classes == ("a", "b", "c")


FILES = ("manifest.json", "1-rows.safetensors", "2-colours.safetensors", "3-backbone.safetensors", "head.safetensors")


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(file=st.sampled_from(FILES), position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_every_changed_bit_is_detected(copy: Path, file: str, position: float, bit: int) -> None:
    original = (copy / file).read_bytes()
    content = bytearray(original)
    content[int(position * len(content))] ^= 1 << bit
    (copy / file).write_bytes(bytes(content))
    try:
        if file == "manifest.json" and same_document(original, bytes(content)):
            return  # the bit changed white space between JSON tokens
        load_fails(copy, "copy")
    finally:
        (copy / file).write_bytes(original)
    assert load_bundle(copy).name == "e2e"


def same_document(first: bytes, second: bytes) -> bool:
    try:
        return bool(json.loads(first) == json.loads(second))
    except ValueError:
        return False


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("manifest.json", "missing"),
        ("manifest.json", "folder"),
        (FILES[1], "missing"),
        (FILES[1], "truncated"),
        (FILES[1], "extended"),
        (FILES[1], "folder"),
        (FILES[1], "dangling link"),
        (FILES[1], "circular link"),
        ("head.safetensors", "missing"),
    ],
)
def test_missing_and_changed_files_are_detected(copy: Path, file: str, kind: str) -> None:
    path = copy / file
    content = path.read_bytes()
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind.endswith("link"):
        path.symlink_to(copy / "nowhere" if kind == "dangling link" else path)
    elif kind != "missing":
        path.write_bytes(content[: len(content) // 2] if kind == "truncated" else content + b" x")
    load_fails(copy, "copy")


def test_swapped_weights_are_detected(copy: Path) -> None:
    first, second = copy / FILES[1], copy / FILES[2]
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    load_fails(copy, "was changed")


def test_extra_files_are_ignored(copy: Path) -> None:
    (copy / "README.md").write_text("notes")
    (copy / ".DS_Store").write_bytes(b"\0")
    (copy / "extra.safetensors").write_bytes(b"not weights")
    assert load_bundle(copy).name == "e2e"


@pytest.mark.parametrize("name", ["nowhere", "file", "empty", "run"])
def test_other_paths_are_not_bundles(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("text")
    (tmp_path / "empty").mkdir()
    (tmp_path / "run" / "bundle").mkdir(parents=True)
    load_fails(tmp_path / name, "is not a bundle")


@pytest.mark.parametrize(
    "content",
    [
        b"not json",
        b"\xff\xfe",
        b"[]",
        b'{"format": "tercet-bundle-9"}',
        b'{"format": "tercet-bundle-1"}',  # no SHA-256
        b'{"format": ' + b"[" * 100_000,
    ],
    ids=lambda content: repr(content[:24]),
)
def test_an_invalid_manifest_is_refused(copy: Path, content: bytes) -> None:
    (copy / "manifest.json").write_bytes(content)
    load_fails(copy, r"manifest\.json")


def drop(key: str) -> Callable[[dict[str, Any]], object]:
    return lambda manifest: manifest.pop(key)


def put(*path: Any) -> Callable[[dict[str, Any]], object]:
    """Return a function that sets the entry at `path[:-1]` to the last item."""
    *steps, key, value = path

    def change(manifest: Any) -> None:
        for step in steps:
            manifest = manifest[step]
        manifest[key] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        drop("combiner"),
        put("classes", "abc"),
        put("classes", ["a", "b"]),
        put("classes", ["a", "a", "b"]),
        put("classes", ["a", 1, None]),
        put("classes", []),
        put("members", []),
        put("members", [None, None, None]),
        put("members", 0, "network", "no-such-network"),
        put("members", 0, "network", "row-lstm"),  # has weights of other shapes
        put("members", 0, "weights", 5),
        put("members", 0, "options", None),
        put("members", 0, "options", "hidden_size", -1),
        put("members", 0, "options", "hidden_size", "8"),
        put("members", 0, "options", "recurrent", "quantum"),
        put("members", 0, "options", "option_of_a_later_version", 1),
        put("members", 0, "input", None),
        put("members", 0, "input", "channels", 99),
        put("members", 2, "options", "backbone", {"args": {"no_such_argument": 1}}),
        put("combiner", None),
        put("combiner", {"method": "telepathy"}),
        put("combiner", {"method": "e2e"}),
        put("combiner", "options", {"depth": 3}),
        put("combiner", "options", "width", 17),
        put("combiner", {"method": "average", "names": ["rows"], "weights": None, "ties": "lowest", "keep": 1}),
        put("combiner", {"method": "weighted", "names": ["a", "b", "c"], "weights": [1], "ties": "lowest", "keep": 1}),
        put("files", []),
    ],
)
def test_malformed_manifest_values_give_one_line_errors(copy: Path, change: Callable[..., object]) -> None:
    forge(copy, change, hashes=False)
    load_fails(copy, "copy")


@pytest.mark.parametrize(
    ("name", "listed"),
    [("../secret.safetensors", True), ("{absolute}", True), ("inner/../../secret.safetensors", False), (".", True)],
)
def test_no_file_outside_the_bundle_is_read(copy: Path, name: str, listed: bool) -> None:
    outside = copy.parent / "secret.safetensors"
    shutil.copy(copy / FILES[1], outside)
    (copy / "inner").mkdir()
    path = name.format(absolute=outside)

    def change(manifest: dict[str, Any]) -> None:
        if listed:
            manifest["files"][path] = hashlib.sha256(outside.read_bytes()).hexdigest()
        manifest["members"][0]["weights"] = path

    forge(copy, change, hashes=False)
    load_fails(copy, "copy")


@pytest.mark.parametrize("file", [FILES[1], "head.safetensors"])
def test_files_without_a_digest_are_not_read(copy: Path, file: str) -> None:
    forge(copy, lambda manifest: manifest["files"].pop(file))
    load_fails(copy, file)


class Payload:
    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.sentinel),)


@pytest.mark.parametrize("kind", ["pickle", "torch", "pickle after a header"])
def test_pickles_are_never_executed(copy: Path, tmp_path: Path, kind: str) -> None:
    sentinel = tmp_path / "ran"
    weights = copy / FILES[1]
    if kind == "pickle":
        weights.write_bytes(pickle.dumps(Payload(sentinel)))
    elif kind == "torch":
        torch.save({"weight": Payload(sentinel)}, weights)
    else:
        weights.write_bytes(weights.read_bytes()[:200] + pickle.dumps(Payload(sentinel)))
    forge(copy, lambda manifest: None)  # with correct digests
    load_fails(copy, FILES[1])
    assert not sentinel.exists()


def test_weights_of_another_shape_or_name_are_refused(copy: Path) -> None:
    tensors = load_file(copy / FILES[1])
    name = next(iter(tensors))
    for wrong in (
        {**tensors, name: torch.zeros(3, 5)},
        {key: value for key, value in tensors.items() if key != name},
        {**tensors, "more": torch.zeros(2)},
    ):
        save_file(wrong, copy / FILES[1])
        forge(copy, lambda manifest: None)
        load_fails(copy, FILES[1])


@pytest.mark.parametrize(("file", "value"), [(FILES[1], float("nan")), ("head.safetensors", float("inf"))])
def test_weights_that_are_not_finite_are_refused(copy: Path, file: str, value: float) -> None:
    tensors = load_file(copy / file)
    next(iter(tensors.values())).view(-1)[0] = value
    save_file(tensors, copy / file)
    forge(copy, lambda manifest: None)
    load_fails(copy, file)


TOO_LARGE = [  # networks that would not fit into any memory, or take hours to build
    put("members", 0, "options", "hidden_size", 2_000_000),
    put("members", 0, "options", "num_layers", 100_000),
    put("members", 0, "options", "head_hidden_dim", 1 << 50),
    put("members", 2, "options", "backbone", {"args": {"block_args": [["ds_r999999_k3_s2_c64"]] * 5}}),
    put("combiner", "options", "width", 1 << 40),
]


@pytest.mark.parametrize("change", TOO_LARGE)
def test_networks_larger_than_their_weights_are_not_built(copy: Path, change: Callable[..., object]) -> None:
    forge(copy, change)
    load_fails(copy, "belongs to another network|cannot create|has no effect")


def test_a_network_of_a_repository_is_not_looked_up(copy: Path) -> None:
    forge(copy, put("members", 2, "network", "hf-hub:someone/network"))
    load_fails(copy, "not in timm's registry")


@pytest.mark.parametrize("argument", ["checkpoint_path", "pretrained_cfg", "cache_dir"])
def test_arguments_that_open_files_are_refused(copy: Path, argument: str) -> None:
    secret = copy.parent / "secret.safetensors"
    shutil.copy(copy / FILES[1], secret)
    opened: list[str] = []
    active = True

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if active and event == "open":
            opened.append(str(arguments[0]))

    forge(copy, put("members", 2, "options", "backbone", {"args": {argument: str(secret)}}))
    sys.addaudithook(hook)  # it cannot be removed
    try:
        load_fails(copy, argument)
    finally:
        active = False
    assert str(copy / "manifest.json") in opened
    assert str(secret) not in opened


@pytest.mark.parametrize("header", [b"\xff" * 8, b"\0" * 7, (1 << 30).to_bytes(8, "little") + b"{}", b"[]"])
def test_invalid_headers_of_weights_are_refused(copy: Path, header: bytes) -> None:
    (copy / FILES[1]).write_bytes(header)
    forge(copy, lambda manifest: None)
    load_fails(copy, FILES[1])


def test_a_header_with_very_many_tensors_is_refused_before_it_is_parsed(copy: Path) -> None:
    entries = {f"t{index}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for index in range(100_000)}
    text = json.dumps(entries).encode()
    (copy / FILES[1]).write_bytes(len(text).to_bytes(8, "little") + text)
    forge(copy, lambda manifest: None)
    load_fails(copy, "a header of")
