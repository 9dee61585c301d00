"""Street View House Numbers, cropped digits: three MAT files.

Shapes: N images, 32 x 32 pixels, 3 channels.
"""

from __future__ import annotations

import numpy as np

from tercet.data.arrays import Part, table_of_parts
from tercet.data.cards import DatasetCard, find_files
from tercet.data.readers.mat import count_digits, read_digits
from tercet.data.remote import RemoteFile
from tercet.data.samples import SampleTable
from tercet.ground.errors import DataError
from tercet.records.config import DataConfig

_EXTRA = "extra"
_SPLITS = {"train": "train", _EXTRA: "train", "test": "test"}


def _read(card: DatasetCard, config: DataConfig) -> SampleTable:
    """Read train and test, and between them the additional images for the variant `extra`."""
    named = {file.name.split("_")[0]: file for file in (*card.files, *card.more_files)}
    wanted = [part for part in _SPLITS if part != _EXTRA or card.variant == _EXTRA]
    paths = find_files(card, config, [named[part] for part in wanted])
    counts = [count_digits(path) for path in paths]
    for part, path, count in zip(wanted, paths, counts, strict=True):
        if count != dict(card.counts)[part]:
            raise DataError(f"{path} holds {count:,} images, expected {dict(card.counts)[part]:,}: get it again")
    images = np.empty((sum(counts), 32, 32, 3), dtype=np.uint8)  # filled file by file: extra alone takes 1.6 GB
    parts: list[Part] = []
    start = 0
    for part, path, count in zip(wanted, paths, counts, strict=True):
        parts.append((part, _SPLITS[part], read_digits(path, images[start : start + count])))
        start += count
    return table_of_parts(images, parts, name=card.name, classes=card.classes)


SVHN = DatasetCard(
    name="svhn",
    title="Street View House Numbers, cropped digits, 32 x 32 colour",
    page="http://ufldl.stanford.edu/housenumbers/",
    licence="for non-commercial use only",
    classes=tuple(str(digit) for digit in range(10)),
    counts=(("train", 73_257), (_EXTRA, 531_131), ("test", 26_032)),
    image_shape=(32, 32, 3),
    read=_read,
    files=(
        RemoteFile(
            "train_32x32.mat",
            182_040_794,
            "e26dedcc434d2e4c54c9b2d4a06d8373",
            "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
        ),
        RemoteFile(
            "test_32x32.mat",
            64_275_384,
            "eb5a983be6a315427106f1b164d9cef3",
            "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
        ),
    ),
    more_files=(
        RemoteFile(
            "extra_32x32.mat",
            1_329_278_602,
            "a93ce644f1a588dc4d68dda5feec44a7",
            "a133a4beb38a00fcdda90c9489e0c04f900b660ce8a316a5e854838379a71eb3",
            "svhn:extra",
        ),
    ),
    mirrors=("https://ufldl.stanford.edu/housenumbers",),
    layouts=("train_32x32.mat and test_32x32.mat, for svhn:extra also extra_32x32.mat",),
    remarks=(
        "the label 10 of the files is the digit 0, class '0' here",
        "the E2E-3M paper trains on train and extra together (604,388 images): svhn:extra; it validates on the "
        "test images, so its 0.9900 is optimistic: here validation is held out of train and extra",
        "the paper starts here at a learning rate of 1e-3 'instead of 1e4', a slip for 1e-4; flips are left out",
    ),
    variants={_EXTRA: "adds the 531,131 easier images of the extra part to the training split"},
)
