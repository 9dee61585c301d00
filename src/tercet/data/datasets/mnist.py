"""MNIST and Fashion-MNIST from their IDX files."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from tercet.config.run import DataConfig
from tercet.core.errors import DataError
from tercet.data.datasets.download import RemoteFile
from tercet.data.datasets.info import DatasetInfo, find_files
from tercet.data.decode import Pixels, open_regular
from tercet.data.table import SampleTable, table_of_parts

_UNSIGNED_BYTE = 0x08
_MAX_DIMENSIONS = 4
_MAX_BYTES = 1 << 32
_CHUNK = 1 << 24  # bytes per read
_GZIP = b"\x1f\x8b"


def read_idx(path: Path) -> Pixels:
    """Read an IDX file of unsigned bytes, gzipped or plain (detected by content).

    Returns:
        The values in the shape given by the header.

    Raises:
        DataError: The file is missing, has another format or type, or its size does not match the header.
    """
    with open_regular(path) as stream:
        packed = stream.read(2) == _GZIP
        stream.seek(0)
        try:
            if not packed:
                return parse_idx(stream, name=str(path))
            with gzip.GzipFile(fileobj=stream) as unpacked:
                return parse_idx(cast(BinaryIO, unpacked), name=str(path))
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path} is damaged: {error}; download it again") from error


def parse_idx(stream: BinaryIO, *, name: str) -> Pixels:
    """Read IDX values from a stream, no more than the header states.

    Raises:
        DataError: As `read_idx`.
    """
    head = stream.read(4)
    if len(head) < 4 or head[:2] != b"\0\0":
        raise DataError(f"{name} is not an IDX file: it begins with {head.hex() or 'nothing'}, expected 0000")
    kind, dimensions = head[2], head[3]
    if kind != _UNSIGNED_BYTE:
        raise DataError(f"{name} has values of type 0x{kind:02x}, expected 0x08 (unsigned bytes)")
    if not 1 <= dimensions <= _MAX_DIMENSIONS:
        raise DataError(f"{name} has {dimensions} dimensions, expected 1 to {_MAX_DIMENSIONS}")
    sizes = stream.read(4 * dimensions)
    if len(sizes) < 4 * dimensions:
        raise DataError(f"{name} ends within its header")
    shape = tuple(int(size) for size in np.frombuffer(sizes, dtype=">u4"))
    expected = math.prod(shape)
    if expected > _MAX_BYTES:
        raise DataError(f"{name}: the header states {expected} values, more than {_MAX_BYTES}")
    values = bytearray()  # grows with the data, so that a wrong size in the header allocates nothing
    while len(values) < expected and (chunk := stream.read(min(_CHUNK, expected - len(values)))):
        values += chunk
    if len(values) < expected or stream.read(1):
        actual = f"only {len(values)}" if len(values) < expected else "more"
        raise DataError(f"{name}: the header states {expected} values but there are {actual}; download it again")
    return np.frombuffer(values, dtype=np.uint8).reshape(shape)


def _read_mnist_family(info: DatasetInfo, config: DataConfig) -> SampleTable:
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


MNIST = DatasetInfo(
    name="mnist",
    title="MNIST handwritten digits, 28 x 28 grey",
    page="http://yann.lecun.com/exdb/mnist/",
    licence="CC BY-SA 3.0",
    classes=tuple(str(digit) for digit in range(10)),
    counts=(("train", 60_000), ("test", 10_000)),
    image_shape=(28, 28, 1),
    read=_read_mnist_family,
    files=(
        RemoteFile(
            "train-images-idx3-ubyte.gz",
            9_912_422,
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        ),
        RemoteFile(
            "train-labels-idx1-ubyte.gz",
            28_881,
            "d53e105ee54ea40749a09fcbcd1e9432",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        ),
        RemoteFile(
            "t10k-images-idx3-ubyte.gz",
            1_648_877,
            "9fb629c4189551a2d022fa330f9573f3",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        ),
        RemoteFile(
            "t10k-labels-idx1-ubyte.gz",
            4_542,
            "ec29112dd5afa0611ce80d1b7f02629c",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    ),
    plain_sha256=(
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
    classes=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    counts=(("train", 60_000), ("test", 10_000)),
    image_shape=(28, 28, 1),
    read=_read_mnist_family,
    files=(
        RemoteFile(
            "train-images-idx3-ubyte.gz",
            26_421_880,
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        ),
        RemoteFile(
            "train-labels-idx1-ubyte.gz",
            29_515,
            "25c81989df183df01b3e8a0aad5dffbe",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        ),
        RemoteFile(
            "t10k-images-idx3-ubyte.gz",
            4_422_102,
            "bef4ecab320f06d8554ea6380940ec79",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        ),
        RemoteFile(
            "t10k-labels-idx1-ubyte.gz",
            5_148,
            "bb300cfdad3c16e7a12a480ee83cd310",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    ),
    plain_sha256=(
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
