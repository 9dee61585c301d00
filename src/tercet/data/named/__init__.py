"""The data sets known by name, one file each: a card for people, and the function that reads it."""

from tercet.data.cards import DatasetCard
from tercet.data.named.cassava import CASSAVA
from tercet.data.named.cifar import CIFAR10, CIFAR100
from tercet.data.named.digits import DIGITS
from tercet.data.named.fingerspelling import FINGERSPELLING
from tercet.data.named.inaturalist import INATURALIST
from tercet.data.named.leaves import LEAVES
from tercet.data.named.mnist import FASHION_MNIST, MNIST
from tercet.data.named.svhn import SVHN

CARDS: tuple[DatasetCard, ...] = (
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
