"""Every test starts from the same generators and uses one thread: two on a busy machine can be many times slower."""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
import torch

from tests import leftovers

torch.set_num_threads(1)


def pytest_configure() -> None:
    leftovers.watch()


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
    np.random.seed(0)
