"""Named data sets, one file each: a description and a reader."""

from tercet.data.datasets.cassava import CASSAVA
from tercet.data.datasets.cifar import CIFAR10, CIFAR100
from tercet.data.datasets.digits import DIGITS
from tercet.data.datasets.fingerspelling import FINGERSPELLING
from tercet.data.datasets.inaturalist import INATURALIST
from tercet.data.datasets.info import DatasetInfo
from tercet.data.datasets.leaves import LEAVES
from tercet.data.datasets.mnist import FASHION_MNIST, MNIST
from tercet.data.datasets.svhn import SVHN

DATASET_INFOS: tuple[DatasetInfo, ...] = (
    CASSAVA,
    CIFAR10,
    CIFAR100,
    DIGITS,
    FASHION_MNIST,
    FINGERSPELLING,
    INATURALIST,
    LEAVES,
    MNIST,
    SVHN,
)
