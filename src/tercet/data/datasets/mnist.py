"""MNIST and Fashion-MNIST from their IDX files."""

from __future__ import annotations

import numpy as np

from tercet.config.run import DataConfig
from tercet.core.errors import DataError
from tercet.core.untrusted_files import read_idx
from tercet.data.datasets.download import RemoteFile
from tercet.data.datasets.info import DATASETS, DatasetInfo, find_files
from tercet.data.datasets.parts import table_of_parts
from tercet.data.table import SampleTable


def _read(info: DatasetInfo, config: DataConfig) -> SampleTable:
    """Read the four official IDX files: training images and labels, test images and labels."""
    paths = find_files(info, config)
    arrays, parts = [], []
    for (part, count), images_path, labels_path in zip(info.counts, paths[::2], paths[1::2], strict=True):
        images, labels = read_idx(images_path), read_idx(labels_path)
        if images.shape != (count, *info.image_shape[:2]) or labels.shape != (count,):
            raise DataError(
                f"{images_path.parent}: images of shape {images.shape} and labels of shape {labels.shape}, expected "
                f"{count} each"
            )
        arrays.append(images)
        parts.append((part, part, labels.astype(np.int64)))
    return table_of_parts(np.concatenate(arrays)[..., None], parts, name=info.name, classes=info.classes)


_NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def _plain_files(*checksums: str) -> tuple[RemoteFile, ...]:
    return tuple(RemoteFile(name, checksum=checksum) for name, checksum in zip(_NAMES, checksums, strict=True))


MNIST = DatasetInfo(
    name="mnist",
    title="MNIST handwritten digits, 28 x 28 grey",
    page="http://yann.lecun.com/exdb/mnist/",
    licence="CC BY-SA 3.0",
    classes=tuple(str(digit) for digit in range(10)),
    counts=(("train", 60_000), ("test", 10_000)),
    image_shape=(28, 28, 1),
    read=_read,
    files=(
        RemoteFile(
            "train-images-idx3-ubyte.gz", 9_912_422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
        ),
        RemoteFile(
            "train-labels-idx1-ubyte.gz", 28_881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"
        ),
        RemoteFile(
            "t10k-images-idx3-ubyte.gz", 1_648_877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
        ),
        RemoteFile(
            "t10k-labels-idx1-ubyte.gz", 4_542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"
        ),
    ),
    plain_files=_plain_files(
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist",
        "https://storage.googleapis.com/cvdf-datasets/mnist",
    ),
)

FASHION_MNIST = DatasetInfo(
    name="fashion-mnist",
    title="Fashion-MNIST, articles of clothing, 28 x 28 grey",
    page="https://github.com/zalandoresearch/fashion-mnist",
    licence="MIT",
    classes=("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    counts=(("train", 60_000), ("test", 10_000)),
    image_shape=(28, 28, 1),
    read=_read,
    files=(
        RemoteFile(
            "train-images-idx3-ubyte.gz", 26_421_880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"
        ),
        RemoteFile(
            "train-labels-idx1-ubyte.gz", 29_515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"
        ),
        RemoteFile(
            "t10k-images-idx3-ubyte.gz", 4_422_102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"
        ),
        RemoteFile(
            "t10k-labels-idx1-ubyte.gz", 5_148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"
        ),
    ),
    plain_files=_plain_files(
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
    mirrors=(
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion",
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets",
    ),
)

for _info in (MNIST, FASHION_MNIST):
    DATASETS.register(_info.name)(_info)
