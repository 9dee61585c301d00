"""Surrey fingerspelling set A: letters by five signers, as colour and depth images."""

from __future__ import annotations

import re

import numpy as np

from tercet.config.run import DataConfig
from tercet.core.errors import DataError
from tercet.data.datasets.download import RemoteFile
from tercet.data.datasets.info import DATASETS, DatasetInfo, find_tree, size_mismatch_note
from tercet.data.sources import DepthSource
from tercet.data.table import SampleTable

_LETTERS = "abcdefghiklmnopqrstuvwxy"  # j and z are movements


def _read(info: DatasetInfo, config: DataConfig) -> SampleTable:
    is_depth = info.variant == "depth"
    prefix = "depth" if is_depth else "color"
    layout = re.compile(
        rf"^(?P<root>(?:[^/]+/)*?)(?P<subject>[A-E])/(?P<letter>[{_LETTERS}])/(?P<name>{prefix}_[\d_]+\.png)$"
    )
    tree = find_tree(info, config, layout)
    letters = [match["letter"] for match in tree.matches]
    if missing := sorted(set(_LETTERS) - set(letters)):
        raise DataError(f"fingerspelling has no images of {', '.join(missing)}: {info.by_hand}")
    return SampleTable(
        name=info.name,
        ids=tuple(match.string.removeprefix(tree.root) for match in tree.matches),
        locations=tuple(match.string for match in tree.matches),
        labels=np.array([_LETTERS.index(letter) for letter in letters], dtype=np.int64),
        classes=info.classes,
        source=DepthSource(tree.source) if is_depth else tree.source,
        groups=tuple(match["subject"] for match in tree.matches),
        notes=(*tree.notes, *(() if is_depth else size_mismatch_note(info, len(letters), "all"))),
    )


FINGERSPELLING = DatasetInfo(
    name="fingerspelling",
    title="ASL finger spelling (Surrey 2011, set A), 24 letters by five signers, colour or depth",
    page="https://empslocal.ex.ac.uk/people/staff/np331/index.php?section=FingerSpellingDataset",
    licence="none stated; the publishers ask to cite Pugeault and Bowden 2011, Spelling It Out",
    classes=tuple(_LETTERS),
    counts=(("all", 65_774),),
    image_shape=(None, None, 3),
    read=_read,
    files=(RemoteFile("fingerspelling5.tar.bz2"),),
    mirrors=("https://www.cvssp.org/FingerSpellingKinect2011",),
    layouts=("fingerspelling5.tar.bz2 (2.25 GB), or a zip of it, or its folder dataset5/{A..E}/<letter>/",),
    archives=("fingerspelling5.zip", "dataset5.zip", "fingerspelling5.tar.bz2"),
    entry_names=("dataset5", "fingerspelling5"),
    remarks=(
        "the signer is the group: no signer is in two splits, and leave-one-group-out holds out one signer at a time",
        "the E2E-3M paper selects models on the held-out signer, so its 0.949 is optimistic; here validation images "
        "are held out of the other signers",
        "its logs use the 65,774 colour images, which are the default here",
        "no checksum is published: the layout and the number of images are checked instead",
    ),
    variants={"depth": "reads the 16-bit depth images instead, each stretched to its own range"},
)
DATASETS.register(FINGERSPELLING.name)(FINGERSPELLING)
