"""Devices, threads, seeds and generator states."""

import json
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tercet.core import runtime
from tercet.core.errors import ConfigError
from tercet.core.runtime import (
    ThreadPlan,
    available_cores,
    choose_device,
    describe_environment,
    generator_states,
    plan_threads,
    restore_generators,
    seed_everything,
)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 12), st.one_of(st.none(), st.integers(1, 12)), st.integers(1, 16))
def test_processes_and_threads_do_not_exceed_the_cores(members: int, threads: int | None, cores: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "available_cores", lambda: cores)
        plan = plan_threads(members, threads=threads)
    assert plan.jobs >= 1 and plan.threads >= 1
    assert plan.jobs <= max(1, members)
    assert plan.threads == (threads or plan.threads)
    assert plan.jobs * plan.threads <= max(cores, threads or 1)


def test_parallel_members_take_precedence_over_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "available_cores", lambda: 8)
    assert plan_threads(3) == ThreadPlan(3, 2)
    assert plan_threads(20) == ThreadPlan(8, 1)
    assert plan_threads(1) == ThreadPlan(1, 7)  # one core stays free
    assert plan_threads(3, device="cuda") == ThreadPlan(1, 8)


def test_a_plan_sets_the_threads_of_child_processes() -> None:
    plan = ThreadPlan(3, 2)
    assert str(plan) == "3 parallel processes with 2 threads each"
    environment = plan.environment()
    assert environment["OMP_NUM_THREADS"] == environment["MKL_NUM_THREADS"] == "2"
    assert environment["OMP_WAIT_POLICY"] == "PASSIVE"


def test_a_core_and_the_cpu_are_always_available() -> None:
    assert available_cores() >= 1
    assert choose_device("cpu") == "cpu"
    assert choose_device("auto") in ("cpu", "cuda", "mps")


def test_gpu_means_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert (choose_device("gpu"), choose_device("gpu:1")) == ("cuda", "cuda:1")


@pytest.mark.parametrize("name", ["", "cpu:1", "cuda:x", "mps:0", "tpu"])
def test_unknown_devices_raise(name: str) -> None:
    with pytest.raises(ConfigError, match="unknown device"):
        choose_device(name)


def test_unavailable_devices_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("auto") == "cpu"
    for name in ("cuda", "cuda:0", "mps"):
        with pytest.raises(ConfigError, match="not available on this machine"):
            choose_device(name)


def test_only_existing_accelerators_are_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto") == "cuda"
    assert choose_device("cuda:1") == "cuda:1"
    with pytest.raises(ConfigError, match="which has 2"):
        choose_device("cuda:2")


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_seed_everything_seeds_all_generators() -> None:
    seed_everything(7)
    first = draws()
    seed_everything(7)
    assert draws() == first
    seed_everything(8)
    assert all(a != b for a, b in zip(draws(), first, strict=True))
    seed_everything(2**40)  # NumPy accepts only 32 bits


def test_restored_generators_continue_the_same_sequence() -> None:
    seed_everything(3)
    torch.rand(5)
    states = generator_states()
    assert all(isinstance(value, torch.Tensor) for value in states.values() if not isinstance(value, list))
    expected = torch.rand(5)
    torch.rand(100)
    restore_generators(states)
    assert torch.equal(torch.rand(5), expected)


def test_the_environment_is_json_with_versions() -> None:
    environment = json.loads(json.dumps(describe_environment()))
    assert environment["packages"]["torch"] == torch.__version__
    assert environment["packages"]["tercet"] != "absent"
    assert environment["cores"] == available_cores()
    assert environment["threads"] == torch.get_num_threads()
