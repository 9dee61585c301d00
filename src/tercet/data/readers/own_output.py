"""Recognize what Tercet itself wrote into a data folder: runs, explanations, audits, reports, prediction tables."""

from __future__ import annotations

import json
import posixpath
import re
import zipfile
import zlib
from collections.abc import Iterable
from typing import Any

from tercet.core.errors import DataError
from tercet.core.output import join_few
from tercet.core.run_folder import RECORD
from tercet.data.decode import open_regular
from tercet.data.readers.scan import Listing
from tercet.data.sources import FolderSource, ZipSource

_DOCUMENTS = {
    RECORD: {"command", "source", "options", "version"},
    "explain.json": {"bundle", "images", "filters"},
    "audit.json": {"source", "failed", "features"},
    "manifest.json": {"classes", "members", "sha256"},
}
"""Keys of the JSON documents that mark a folder."""
_MAX_DOCUMENT = 1 << 26  # bytes
_GENERATOR = b'<meta name="generator" content="tercet">'
_PREDICTIONS = re.compile(r"id,(label,)?predicted,")


def without_own_output(listing: Listing, source: FolderSource | ZipSource) -> tuple[Listing, tuple[str, ...]]:
    """Return the listing without what Tercet wrote, and a note on it; recognized by content, not by name.

    Args:
        listing: Files and folders of the data.
        source: Reads the files.
    """
    folders = _outermost(
        posixpath.dirname(path)
        for path in listing.files
        if posixpath.basename(path) in _DOCUMENTS and "/" in path and _is_own_document(path, source)
    )
    files: set[str] = set()
    prefixes = tuple(f"{folder}/" for folder in folders)
    for path in listing.files:
        if not path.endswith((".html", ".csv")) or path.startswith(prefixes or "\0"):
            continue
        if path.endswith(".html") and _GENERATOR in _start(path, source):
            files.add(path)
            folders.append(f"{path.removesuffix('.html')}-figures")
        elif path.endswith(".csv") and _PREDICTIONS.match(_start(path, source).decode("utf-8", "replace")):
            files.add(path)
    if not folders and not files:
        return listing, ()
    prefixes = tuple(f"{folder}/" for folder in folders)

    def is_kept(path: str) -> bool:
        return path not in files and not f"{path}/".startswith(prefixes or "\0")

    kept = tuple(filter(is_kept, listing.files))
    parents = {posixpath.dirname(folder) for folder in folders}  # runs/ is not an empty class folder
    parents -= {part for path in kept for part in _parents(path)}
    names = [*_outermost([*folders, *parents - {""}]), *sorted(files)]
    names = [name for name in names if name in files or any(path.startswith(f"{name}/") for path in listing.files)]
    remaining = [path for path in listing.folders if is_kept(path) and path not in parents]
    skipped = tuple(item for item in listing.skipped if is_kept(item[0]))
    note = f"output of Tercet within the data, left out: {join_few([*map(repr, names)])}"
    return Listing(kept, tuple(remaining), skipped), (note,)


def _outermost(folders: Iterable[str]) -> list[str]:
    """Return the folders that are not within another one."""
    outer: list[str] = []
    for folder in sorted(set(folders), key=lambda path: (path.count("/"), path)):
        if not any(f"{folder}/".startswith(f"{other}/") for other in outer):
            outer.append(folder)
    return outer


def _parents(path: str) -> Iterable[str]:
    while "/" in path:
        path = posixpath.dirname(path)
        yield path


def _is_own_document(path: str, source: FolderSource | ZipSource) -> bool:
    try:
        document: Any = json.loads(_start(path, source, _MAX_DOCUMENT))
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict) and document.keys() >= _DOCUMENTS[posixpath.basename(path)]


def _start(path: str, source: FolderSource | ZipSource, size: int = 4096) -> bytes:
    """Return the first bytes of a file; none if it cannot be read, which is not an error before it is used."""
    try:
        if isinstance(source, ZipSource):
            with source.archive().open(path) as member:
                return member.read(size)
        with open_regular(source.root / path) as stream:
            return stream.read(size)
    except (DataError, OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error):
        return b""
