"""Images to classify, of which nothing is known but where they lie; alone here, so that answering stays light."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tercet.data.readers.folders import scan_folder
from tercet.data.readers.layout import is_image, summarise
from tercet.data.samples import UNLABELLED, SampleTable
from tercet.data.sources import FolderSource
from tercet.ground.errors import DataError
from tercet.ground.files import natural_key


def table_of_files(paths: Sequence[str | Path]) -> SampleTable:
    """List images to classify: files as they are, folders with every image under them; nothing is labelled.

    Raises:
        DataError: A path does not exist, or there is no image.
    """
    locations: list[str] = []
    notes: list[str] = []
    for path in map(Path, paths):
        if path.is_dir():
            listing = scan_folder(path)
            found = sorted(
                (name for name in listing.files if is_image(name)), key=lambda name: (natural_key(name), name)
            )
            locations += [str(path / name) for name in found]
            others = [(name, "not an image by its ending") for name in listing.files if not is_image(name)]
            notes += summarise([*listing.skipped, *others])
        elif path.exists():
            locations.append(str(path))
        else:
            raise DataError(f"no file or folder at {path}")
    unique = tuple(dict.fromkeys(locations))
    if not unique:
        raise DataError(f"no images under {', '.join(map(str, paths))}")
    labels = np.full(len(unique), UNLABELLED)
    return SampleTable("images", unique, unique, labels, (), FolderSource(Path(".")), notes=tuple(notes))
