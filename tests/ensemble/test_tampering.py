"""A bundle from elsewhere is not trusted: a changed byte is noticed, and nothing in it is ever run."""

import hashlib
import json
import os
import pickle
import shutil
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
    """Change a manifest as an attacker would: with all digests right."""
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    manifest.pop("sha256")
    change(manifest)
    if hashes:
        for name in manifest["files"]:
            if (folder / name).is_file():
                manifest["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps({**manifest, "sha256": digest}), "utf-8")


def refused(folder: Path, match: str = "") -> ModelError:
    with pytest.raises(ModelError, match=match) as caught:
        load_bundle(folder)
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_forged_manifest_that_changes_nothing_loads(copy: Path) -> None:
    forge(copy, lambda manifest: manifest.update(classes=["a", "b", "c"]))
    assert load_bundle(copy).classes == ("a", "b", "c")


FILES = ("manifest.json", "1-rows.safetensors", "2-colours.safetensors", "3-backbone.safetensors", "head.safetensors")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(file=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_changed_bit_anywhere_is_noticed(copy: Path, file: str, place: float, bit: int) -> None:
    original = (copy / file).read_bytes()
    content = bytearray(original)
    content[int(place * len(content))] ^= 1 << bit
    (copy / file).write_bytes(bytes(content))
    try:
        if file == "manifest.json" and same_document(original, bytes(content)):
            return  # blank space between the words of JSON
        refused(copy, "copy")
    finally:
        (copy / file).write_bytes(original)


def same_document(one: bytes, other: bytes) -> bool:
    try:
        return bool(json.loads(one) == json.loads(other))
    except ValueError:
        return False


def test_the_bundle_that_was_put_back_loads(copy: Path) -> None:
    assert load_bundle(copy).name == "e2e"  # what the test above restores is whole


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("kind", ["missing", "empty", "half", "longer", "folder", "dangling link"])
def test_files_that_are_not_what_they_were(copy: Path, file: str, kind: str) -> None:
    path = copy / file
    content = path.read_bytes()
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "dangling link":
        path.symlink_to(copy / "nowhere")
    elif kind != "missing":
        path.write_bytes({"empty": b"", "half": content[: len(content) // 2], "longer": content + b" x"}[kind])
    refused(copy, "copy")


def test_swapped_weights_are_noticed(copy: Path) -> None:
    first, second = copy / FILES[1], copy / FILES[2]
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    refused(copy, "was changed")


def test_extra_files_are_no_matter(copy: Path) -> None:
    (copy / "README.md").write_text("where this came from")
    (copy / ".DS_Store").write_bytes(b"\0")
    (copy / "extra.safetensors").write_bytes(b"not weights")
    assert load_bundle(copy).name == "e2e"


@pytest.mark.parametrize("name", ["nowhere", "file", "empty", "run"])
def test_what_is_no_bundle(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("text")
    (tmp_path / "empty").mkdir()
    (tmp_path / "run" / "bundle").mkdir(parents=True)
    refused(tmp_path / name, "is not a bundle")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not json",
        b"[]",
        b"null",
        b'"tercet-bundle-1"',
        b"{}",
        b"\xff\xfe",
        b'{"format": "tercet-bundle-9"}',
        b'{"format": "tercet-bundle-1"}',
        b"[" * 100_000,
        b'{"format": ' + b"[" * 100_000,
    ],
    ids=lambda content: repr(content[:24]),
)
def test_a_manifest_that_is_none(copy: Path, content: bytes) -> None:
    (copy / "manifest.json").write_bytes(content)
    refused(copy, r"manifest\.json")


def drop(key: str) -> Callable[[dict[str, Any]], object]:
    return lambda manifest: manifest.pop(key)


def put(*path: Any) -> Callable[[dict[str, Any]], object]:
    """Return a change that puts the last item at the place the others name."""
    *steps, key, value = path

    def change(manifest: Any) -> None:
        for step in steps:
            manifest = manifest[step]
        manifest[key] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        drop("classes"),
        drop("members"),
        drop("combiner"),
        drop("files"),
        put("classes", None),
        put("classes", "abc"),
        put("classes", ["a", "b"]),
        put("classes", ["a", "a", "b"]),
        put("classes", ["a", 1, None]),
        put("classes", []),
        put("members", []),
        put("members", {}),
        put("members", [None, None, None]),
        put("members", 0, {}),
        put("members", 0, "network", "no-such-network"),
        put("members", 0, "network", None),
        put("members", 0, "network", "row-lstm"),
        put("members", 0, "weights", 5),
        put("members", 0, "options", {}),
        put("members", 0, "options", None),
        put("members", 0, "options", "hidden_size", -1),
        put("members", 0, "options", "hidden_size", 9),
        put("members", 0, "options", "hidden_size", "8"),
        put("members", 0, "options", "recurrent", "quantum"),
        put("members", 0, "options", "option_of_a_later_version", 1),
        put("members", 0, "options", "input", "size", [0, 12]),
        put("members", 0, "input", None),
        put("members", 0, "input", "channels", 99),
        put("members", 2, "options", "backbone", {"args": {"no_such_argument": 1}}),
        put("combiner", None),
        put("combiner", {}),
        put("combiner", {"method": "telepathy"}),
        put("combiner", {"method": "e2e"}),
        put("combiner", "options", {"depth": 3}),
        put("combiner", "options", "width", -4),
        put("combiner", "options", "width", 17),
        put("combiner", "options", "dropout", 7.0),
        put("combiner", {"method": "average", "names": ["rows"], "weights": None, "ties": "lowest", "keep": 1}),
        put("combiner", {"method": "weighted", "names": ["a", "b", "c"], "weights": [1], "ties": "lowest", "keep": 1}),
        put("files", []),
        put("files", {}),
    ],
)
def test_manifests_that_make_no_sense_are_refused_in_one_line(copy: Path, change: Callable[..., object]) -> None:
    forge(copy, change, hashes=False)
    refused(copy, "copy")


@pytest.mark.parametrize("escape", ["../secret.safetensors", "{absolute}", "inner/../../secret.safetensors", "..", "."])
@pytest.mark.parametrize("listed", [True, False])
def test_no_file_outside_the_bundle_is_read(copy: Path, escape: str, listed: bool) -> None:
    outside = copy.parent / "secret.safetensors"
    shutil.copy(copy / FILES[1], outside)
    (copy / "inner").mkdir()
    name = escape.format(absolute=outside)

    def change(manifest: dict[str, Any]) -> None:
        if listed:
            manifest["files"][name] = hashlib.sha256(outside.read_bytes()).hexdigest()
        manifest["members"][0]["weights"] = name

    forge(copy, change, hashes=False)
    refused(copy, "copy")


def test_weights_without_a_digest_are_not_read(copy: Path) -> None:
    """A file that the manifest does not list could be changed without a trace."""
    forge(copy, lambda manifest: manifest["files"].pop(FILES[1]))
    refused(copy, FILES[1])


def test_a_fusion_head_without_a_digest_is_not_read(copy: Path) -> None:
    forge(copy, lambda manifest: manifest["files"].pop("head.safetensors"))
    refused(copy, "head")


class Payload:
    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.sentinel),)


@pytest.mark.parametrize("kind", ["pickle", "torch", "torch with a header"])
def test_a_pickle_in_disguise_runs_nothing(copy: Path, tmp_path: Path, kind: str) -> None:
    sentinel = tmp_path / "ran"
    weights = copy / FILES[1]
    if kind == "pickle":
        weights.write_bytes(pickle.dumps(Payload(sentinel)))
    elif kind == "torch":
        torch.save({"weight": Payload(sentinel)}, weights)
    else:
        weights.write_bytes(weights.read_bytes()[:200] + pickle.dumps(Payload(sentinel)))
    forge(copy, lambda manifest: None)  # even with digests that are right
    refused(copy, FILES[1])
    assert not sentinel.exists()


def test_weights_of_another_shape_name_or_type(copy: Path) -> None:
    tensors = load_file(copy / FILES[1])
    name = next(iter(tensors))
    for wrong in (
        {**tensors, name: torch.zeros(3, 5)},
        {key: value for key, value in tensors.items() if key != name},
        {**tensors, "more": torch.zeros(2)},
    ):
        save_file(wrong, copy / FILES[1])
        forge(copy, lambda manifest: None)
        refused(copy, FILES[1])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("file", [FILES[1], "head.safetensors"])
def test_weights_that_are_no_numbers_are_the_models_fault(copy: Path, file: str, value: float) -> None:
    tensors = load_file(copy / file)
    next(iter(tensors.values())).view(-1)[0] = value
    save_file(tensors, copy / file)
    forge(copy, lambda manifest: None)
    refused(copy, file)


def test_a_bundle_without_permission_to_read(copy: Path) -> None:
    """Root reads everything, so a link that leads to itself stands for what cannot be opened."""
    (copy / FILES[1]).unlink()
    (copy / FILES[1]).symlink_to(FILES[1])
    refused(copy, FILES[1])
