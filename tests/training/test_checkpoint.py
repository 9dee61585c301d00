"""Checkpoint files: round trip, damage, malicious content, crashes and full disks."""

import hashlib
import os
import pickle
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from tercet.core.errors import ModelError, StorageError
from tercet.models.weight_files import load_weights, save_weights
from tercet.training.checkpoint import load_checkpoint, save_checkpoint

STATE = {"module": {"weight": torch.arange(6.0)}, "note": "x", "numbers": [1, 2.5, None, True]}


def test_round_trip_keeps_tensors_and_values(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.ckpt", STATE)
    loaded = load_checkpoint(tmp_path / "a.ckpt")
    assert torch.equal(loaded["module"]["weight"], STATE["module"]["weight"])
    assert loaded["numbers"] == STATE["numbers"]


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.999])
def test_a_truncated_file_raises(tmp_path: Path, fraction: float) -> None:
    path = tmp_path / "a.ckpt"
    save_checkpoint(path, STATE)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * fraction)])
    with pytest.raises(ModelError):
        load_checkpoint(path)


def test_a_flipped_bit_raises(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    save_checkpoint(path, STATE)
    content = path.read_bytes()
    generator = random.Random(0)
    for _ in range(60):
        damaged = bytearray(content)
        damaged[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(ModelError):
            load_checkpoint(path)


class WritesOnUnpickling:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("kind", ["pickle", "torch", "valid header"])
def test_loading_runs_no_code(tmp_path: Path, kind: str) -> None:
    path, sentinel = tmp_path / "a.ckpt", tmp_path / "sentinel"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(WritesOnUnpickling(str(sentinel))))
    else:
        torch.save({"x": WritesOnUnpickling(str(sentinel))}, path)
        if kind == "valid header":
            body = path.read_bytes()
            path.write_bytes(b"tercet-checkpoint-1 " + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
    with pytest.raises(ModelError):
        load_checkpoint(path)
    assert not sentinel.exists()


@pytest.mark.slow
def test_sigkill_during_a_save_keeps_the_previous_checkpoint(tmp_path: Path) -> None:
    program = (
        "import sys, torch; from pathlib import Path; from tercet.training.checkpoint import save_checkpoint\n"
        "path = Path(sys.argv[1]); i = 0\n"
        "while True:\n"
        "    i += 1; save_checkpoint(path, {'i': i, 'x': torch.full((1_000_000,), float(i))}); print(i, flush=True)\n"
    )
    path, generator, num_temporaries = tmp_path / "a.ckpt", random.Random(1), 0
    for _ in range(4):
        command = [sys.executable, "-c", program, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            saved = int(process.stdout.readline())
            time.sleep(generator.random() * 0.2)
            process.kill()
            saved = max([saved, *(int(line) for line in process.stdout.read().split())])
        state = load_checkpoint(path)
        assert saved <= state["i"] <= saved + 1
        assert bool((state["x"] == state["i"]).all())
        num_temporaries += len(list(tmp_path.glob(".*.tmp")))
    assert num_temporaries <= 4 * 4


def test_a_failed_write_keeps_the_previous_file(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    save_checkpoint(path, STATE)
    before = path.read_bytes()
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # writing more fails, as on a full disk
    try:
        with pytest.raises(StorageError):
            save_checkpoint(path, {"x": torch.zeros(1_000_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.ckpt"]


def test_weights_of_another_network_or_a_changed_file_raise(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    digest = save_weights(path, nn.Linear(3, 2))
    with pytest.raises(ModelError, match="another network"):
        load_weights(path, nn.Linear(4, 2))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ModelError, match="changed"):
        load_weights(path, nn.Linear(3, 2), digest=digest)
