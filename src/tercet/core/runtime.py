"""Devices, threads, seeds and generator states."""

from __future__ import annotations

import platform
import random
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tercet.core.errors import ConfigError
from tercet.core.output import count
from tercet.core.resource_limits import available_cores
from tercet.core.run_folder import package_version


@dataclass(frozen=True)
class ThreadPlan:
    """Number of parallel processes, and of threads per process."""

    jobs: int
    threads: int

    def __str__(self) -> str:
        return f"{count(self.jobs, 'parallel process')} with {count(self.threads, 'thread')} each"

    def environment(self) -> dict[str, str]:
        """Return environment variables for a child process, which must be set before it loads numerical libraries.

        OpenMP threads that wait actively were 270 times slower on a busy machine.
        """
        count = str(self.threads)
        return {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "OMP_WAIT_POLICY": "PASSIVE"}


def plan_threads(num_members: int, *, threads: int | None = None, device: str = "cpu") -> ThreadPlan:
    """Distribute the cores: parallel members are faster than one member with many threads.

    Args:
        num_members: Number of trainings.
        threads: Threads per process; None chooses.
        device: On accelerators, members are trained one after the other.
    """
    cores = available_cores()
    if device != "cpu":
        return ThreadPlan(1, threads or cores)
    if threads is not None:
        return ThreadPlan(max(1, min(num_members, cores // threads)), threads)
    jobs = max(1, min(num_members, cores))
    # A single process leaves one core free: if another program uses a core, all threads wait for the one on it, which
    # made a step ten times slower.
    return ThreadPlan(jobs, max(1, cores // jobs if jobs > 1 else cores - 1))


def choose_device(name: str) -> str:
    """Resolve `auto` to the available accelerator, else the CPU, and `gpu` to `cuda`.

    Raises:
        ConfigError: The device is not available.
    """
    name = re.sub(r"^gpu(?=$|:)", "cuda", name)
    kind, _, index = name.partition(":")
    if kind == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if kind not in ("cpu", "cuda", "mps") or (index and not (kind == "cuda" and index.isdecimal())):
        raise ConfigError(f"unknown device '{name}': use auto, cpu, cuda, cuda:N or mps")
    if (kind == "cuda" and not torch.cuda.is_available()) or (kind == "mps" and not torch.backends.mps.is_available()):
        raise ConfigError(f"device '{name}' is not available on this machine: use --device cpu or auto")
    if index and int(index) >= torch.cuda.device_count():
        raise ConfigError(
            f"device '{name}' is not available on this machine, which has {torch.cuda.device_count()} CUDA device(s)"
        )
    return name


def seed_everything(seed: int) -> None:
    """Seed the generators of Python, NumPy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def generator_states() -> dict[str, Any]:
    """Return the states of the torch generators, as tensors (loadable with weights_only=True)."""
    states: dict[str, Any] = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def restore_generators(states: dict[str, Any]) -> None:
    """Restore the states returned by `generator_states`."""
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])


@contextmanager
def seeded_generators(seed: int) -> Iterator[None]:
    """Seed the generators of Python, NumPy and torch within the block, and restore their states afterwards."""
    states, python_state, numpy_state = generator_states(), random.getstate(), np.random.get_state()
    seed_everything(seed)
    try:
        yield
    finally:
        restore_generators(states)
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def describe_environment() -> dict[str, Any]:
    """Return package versions and machine properties for environment.json."""
    packages = ("tercet", "torch", "torchvision", "timm", "lightning", "numpy", "scikit-learn", "pillow", "safetensors")
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "python": sys.version.split()[0],
        "system": f"{platform.system()} {platform.machine()}",
        "cores": available_cores(),
        "threads": torch.get_num_threads(),
        "accelerators": devices,
        "packages": {package: package_version(package) for package in packages},
    }


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Have PyTorch compute with this number of threads within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
