"""COCO annotations and zip files."""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from tercet.core.archives import check_zip
from tercet.core.errors import DataError
from tercet.data.readers.folder import Listing, SkippedFiles, hidden
from tercet.data.sources import ZipSource


@dataclass(frozen=True)
class Annotations:
    """What a file says of its images."""

    files: Mapping[int, str]
    """File name by image."""
    labels: Mapping[int, int]
    """Category by image; empty where nothing is annotated."""
    categories: frozenset[int]
    """All categories."""


def read_annotations(content: bytes, *, name: str) -> Annotations:
    """Read an annotation file.

    Args:
        content: Its bytes.
        name: Its name, for messages.

    Raises:
        DataError: It is not JSON or not of this form, an image is there twice, has no category or two of them.
    """
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name} is not a JSON document: {error}") from error
    if not isinstance(document, dict):
        raise DataError(f"{name} is no annotation file: expected a mapping with 'images'")
    files: dict[int, str] = {}
    for image in _list(document, "images", name):
        key, file = _field(image, "id", int, name), _field(image, "file_name", str, name)
        if key in files:
            raise DataError(f"{name}: the image {key} is there twice")
        files[key] = file
    categories = frozenset(_field(item, "id", int, name) for item in _list(document, "categories", name))
    labels: dict[int, int] = {}
    for item in _list(document, "annotations", name):
        key, category = _field(item, "image_id", int, name), _field(item, "category_id", int, name)
        if key not in files or (categories and category not in categories):
            raise DataError(f"{name}: an annotation of image {key} with category {category}, which are not both there")
        if labels.setdefault(key, category) != category:
            raise DataError(f"{name}: the image {key} is both {labels[key]} and {category}")
    if labels and len(labels) < len(files):
        raise DataError(f"{name}: the image {min(set(files) - set(labels))} has no category")
    return Annotations(files, labels, categories)


def _list(document: dict[str, Any], key: str, name: str) -> list[Any]:
    items = document.get(key, [])
    if not isinstance(items, list):
        raise DataError(f"{name}: '{key}' is no list")
    return items


def _field(item: Any, key: str, kind: type, name: str) -> Any:
    value = item.get(key) if isinstance(item, dict) else None
    if type(value) is not kind:
        raise DataError(f"{name}: an entry has no '{key}' of the type {kind.__name__}: {str(item)[:60]}")
    return value


MAX_MEMBER_BYTES = 1 << 29
"""Largest member once decompressed: 512 MiB."""


def scan_zip(source: ZipSource) -> Listing:
    """List the visible regular members of an archive.

    Raises:
        DataError: It is no zip archive, is encrypted, holds names that lead out of it, names twice, members that
            overlap, or more than the limits of `ground.archives` and of this module.
    """
    members = source.archive().infolist()
    check_zip(source.path, members, max_member=MAX_MEMBER_BYTES)
    files: list[str] = []
    folders: dict[str, None] = {}
    skipped: list[SkippedFiles] = []
    for member in members:
        name = member.filename
        if any(hidden(part) for part in PurePosixPath(name).parts):
            continue
        kind = stat.S_IFMT(member.external_attr >> 16)
        if member.is_dir():
            folders[name.rstrip("/")] = None
        elif kind not in (0, stat.S_IFREG):
            skipped.append((name, "not a regular file"))
        else:
            files.append(name)
        for parent in list(PurePosixPath(name).parents)[:-1]:
            folders[parent.as_posix()] = None
    return Listing(tuple(files), tuple(folders), tuple(skipped))
