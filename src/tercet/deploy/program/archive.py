"""The `.pt2` file: what it says about itself, and what is refused before PyTorch loads it.

A program is code. `torch.export.load` unpickles what an archive asks it to (weights, constants, sample inputs), looks
up operators by name from `torch` on, so that `torch.os.system` is one, and evaluates the text of sizes and guards. A
file of ours needs none of that: its numbers are plain bytes, its operators ATen's, its sizes sums and products. Every
other file is refused here, before PyTorch sees it. This is a sieve and no sandbox.

An archive is a zip of uncompressed records, whose checksums are verified here: PyTorch's reader does not.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch

from tercet.ground.errors import ModelError
from tercet.ground.files import atomic_path

DOCUMENT = "tercet.json"
"""Name of the extra file that tells classes, members, combiner and versions."""
FORMAT = "tercet-torch-1"
_MODEL, _SAMPLE, _DOCUMENT = "models/model.json", "data/sample_inputs/model.pt", f"extra/{DOCUMENT}"
_PAYLOADS = "data/weights/model_weights_config.json", "data/constants/model_constants_config.json"
_RECORDS = re.compile(
    r"archive_format|archive_version|byteorder|\.data/(version|serialization_id)|data/weights/weight_\d+|"
    r"data/constants/tensor_\d+|" + "|".join(map(re.escape, (_MODEL, _SAMPLE, _DOCUMENT, *_PAYLOADS)))
)
_ATEN = re.compile(r"torch\.ops\.aten\.(\w+)\.(\w+)")
_ON_FILES = {"from_file", "save"}  # ATen's own operators that read or write files
_ON_SIZES = {f"_operator.{name}" for name in ("add", "sub", "mul", "floordiv", "mod", "neg", "getitem")}
_ON_SIZES |= {f"_operator.{name}" for name in ("eq", "ne", "lt", "le", "gt", "ge")}
_SIZE = re.compile(  # as sums and products are written, by name or by sign
    r"(?:(?:Mul|Add|Integer|Pow|FloorDiv|Mod|Max|Min)\(|Symbol\('[su]\d+'(?:, (?:positive|integer|nonnegative)=True)*\)"
    r"|[su]\d+|\d+|[-+*, ()])+"
)
_SYMBOL = re.compile(r"[su]\d+")
_VALUES = {  # kinds of arguments; others are objects, graphs and operators
    *("bool", "bools", "complex", "device", "expr", "float", "float_lists", "floats", "int", "int_lists", "ints"),
    *("layout", "memory_format", "name", "nested_tensors", "none", "optional_tensor", "optional_tensors"),
    *("scalar_type", "string", "strings", "sym_bool", "sym_bools", "sym_float", "sym_floats", "sym_int", "sym_ints"),
    *("tensor", "tensors"),
}
_METADATA = {"nn_module_stack", "torch_fn"}
_TREES = {None, "builtins.tuple", "builtins.dict", "builtins.list"}
_STEP = 1 << 20


def save(program: torch.export.ExportedProgram, target: Path, document: dict[str, Any]) -> None:
    """Write a program and what is said about it, atomically."""
    text = json.dumps({"format": FORMAT, **document}, ensure_ascii=True)
    with atomic_path(target) as temporary, open(temporary, "wb") as stream:
        torch.export.save(program, stream, extra_files={DOCUMENT: text})


def check(stream: BinaryIO, name: str | Path) -> dict[str, Any]:
    """Return what a file says of itself, after checking that it is ours, whole, and does nothing but compute.

    Args:
        stream: The open file.
        name: What it is called in messages.

    Raises:
        ModelError: One of these is not so.
    """
    try:
        with zipfile.ZipFile(stream) as archive:
            return _check(archive)
    except _Refused as error:
        raise ModelError(f"{name} is refused: {error}") from error
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise ModelError(f"{name} is no .pt2 archive, or is damaged: {error}; export the bundle again") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:  # JSON of another shape
        raise ModelError(f"{name} is not as torch.export writes it: {error!r}; export the bundle again") from error


class _Refused(Exception):
    """What a file holds that no file of ours does."""


def _check(archive: zipfile.ZipFile) -> dict[str, Any]:
    records = _records(archive)
    if _DOCUMENT not in records:
        raise _Refused(f"it was not written by tercet export: it has no {DOCUMENT}")
    for payload in _PAYLOADS:
        for entry in _json(archive, records[payload])["config"].values():
            if entry["use_pickle"] or not re.fullmatch(r"(weight|tensor)_\d+", entry["path_name"]):
                raise _Refused("it holds pickled objects, which loading would run")
    try:
        torch.load(io.BytesIO(archive.read(records[_SAMPLE])), weights_only=True)
    except Exception as error:  # whatever a pickle that is not plain tensors may end in
        raise _Refused("its sample inputs hold more than tensors, which loading would run") from error
    _check_model(_json(archive, records[_MODEL]))
    found = _json(archive, records[_DOCUMENT])
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise _Refused(f"it is not of format {FORMAT}: export the bundle again with this version")
    return found


def _records(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Return the records by their names without the archive's own; each is read once, for its checksum."""
    found: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        name = entry.filename.partition("/")[2]
        if name in found or not _RECORDS.fullmatch(name):
            raise _Refused(f"it holds '{name[:80]}', which exported programs do not")
        if entry.compress_type != zipfile.ZIP_STORED:
            raise _Refused(f"'{name}' is compressed, which exported programs are not")
        with archive.open(entry) as stream:
            while stream.read(_STEP):
                pass
        found[name] = entry
    return found


def _json(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Any:
    return json.loads(archive.read(entry))


def _check_model(model: dict[str, Any]) -> None:
    if model.get("guards_code") or model["graph_module"].get("treespec_namedtuple_fields"):
        raise _Refused("it holds code of its own")
    for symbol in model["range_constraints"]:
        if not _SYMBOL.fullmatch(symbol):
            raise _Refused(f"'{symbol[:80]}' is no name of a size")
    for key, value in _walk(model):
        _check_value(key, value)


def _check_value(key: str, value: Any) -> None:
    if key == "target" and not _is_known(value):
        raise _Refused(f"it calls '{str(value)[:80]}', which is no operator that computes")
    if key == "expr_str" and not _SIZE.fullmatch(value):
        raise _Refused(f"'{str(value)[:80]}' is no sum or product of sizes")
    if key == "metadata" and not set(value) <= _METADATA:
        raise _Refused(f"it holds metadata {sorted(set(value) - _METADATA)}, which exported programs do not")
    if key in ("in_spec", "out_spec") and not _trees(json.loads(value)[1]) <= _TREES:
        raise _Refused("it takes or gives objects other than tensors")
    if key.startswith("as_") and key.removeprefix("as_") not in _VALUES:
        raise _Refused(f"it holds values of the kind '{key}', which exported programs do not")


def _is_known(target: str) -> bool:
    """Tell whether a name is that of an operator which only computes."""
    found = _ATEN.fullmatch(target)
    if found is None:
        return target in _ON_SIZES
    operator, overload = found.groups()
    known = getattr(getattr(torch.ops.aten, operator, None), overload, None)
    return isinstance(known, torch._ops.OpOverload) and operator not in _ON_FILES


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every key within a document with its value."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from _walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _walk(inner)


def _trees(tree: dict[str, Any]) -> set[str | None]:
    return {tree["type"]}.union(*(_trees(child) for child in tree["children_spec"]))
