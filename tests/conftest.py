"""Every test starts from the same generators and uses one thread: two on a busy machine can be many times slower."""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["COLUMNS"] = "80"  # of tables, wherever the tests run

import tempfile

import numpy as np
import pytest
import torch
from hypothesis import settings

from tercet.core import progress
from tests import leftovers

torch.set_num_threads(1)
progress.PHASE_SECONDS = 600.0  # standard error does not depend on how busy the machine is
CACHE = tempfile.TemporaryDirectory(prefix="tercet-tests-")
os.environ["TERCET_CACHE"] = CACHE.name  # features that earlier runs have stored would hide a computation

pytest_plugins = (
    "tests.fixtures.browser",
    "tests.fixtures.bundles",
    "tests.fixtures.image_trees",
    "tests.fixtures.runs",
)


def pytest_configure() -> None:
    leftovers.watch()
    settings.register_profile("untimed", deadline=None)  # a busy machine is no fault
    settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
    np.random.seed(0)
