import hashlib
import os
import pickle
import random
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


def test_round_trip(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.ckpt", STATE)
    loaded = load_checkpoint(tmp_path / "a.ckpt")
    assert torch.equal(loaded["module"]["weight"], STATE["module"]["weight"])
    assert loaded["numbers"] == STATE["numbers"]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "a.ckpt"
    save_checkpoint(path, STATE)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ModelError):
        load_checkpoint(path)


def test_a_flipped_bit_is_noticed_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    save_checkpoint(path, STATE)
    content = path.read_bytes()
    generator = random.Random(0)
    for _ in range(60):
        place = generator.randrange(len(content))
        path.write_bytes(
            content[:place] + bytes([content[place] ^ (1 << generator.randrange(8))]) + content[place + 1 :]
        )
        with pytest.raises(ModelError):
            load_checkpoint(path)


class Bomb:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("kind", ["pickle", "torch", "dressed"])
def test_a_malicious_file_runs_nothing(tmp_path: Path, kind: str) -> None:
    path, sentinel = tmp_path / "a.ckpt", tmp_path / "sentinel"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Bomb(str(sentinel))))
    else:
        torch.save({"x": Bomb(str(sentinel))}, path)
        if kind == "dressed":  # with a correct header of ours
            body = path.read_bytes()
            path.write_bytes(b"tercet-checkpoint-1 " + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
    with pytest.raises(ModelError):
        load_checkpoint(path)
    assert not sentinel.exists()


@pytest.mark.slow
def test_kill_9_during_saves_never_loses_the_last_checkpoint(tmp_path: Path) -> None:
    program = (
        "import sys, torch; from pathlib import Path; from tercet.training.checkpoint import save_checkpoint\n"
        "path = Path(sys.argv[1]); i = 0\n"
        "while True:\n"
        "    i += 1; save_checkpoint(path, {'i': i, 'x': torch.full((1_000_000,), float(i))}); print(i, flush=True)\n"
    )
    path, generator, temporaries = tmp_path / "a.ckpt", random.Random(1), 0
    for _ in range(4):
        command = [sys.executable, "-c", program, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            seen = int(process.stdout.readline())
            time.sleep(generator.random() * 0.2)
            process.kill()
            seen = max([seen, *(int(line) for line in process.stdout.read().split())])
        state = load_checkpoint(path)
        assert seen <= state["i"] <= seen + 1
        assert bool((state["x"] == state["i"]).all())
        temporaries += len(list(tmp_path.glob(".*.tmp")))
    assert temporaries <= 4 * 4


def test_a_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    save_checkpoint(path, STATE)
    before = path.read_bytes()
    program = (
        "import resource, sys, torch; from pathlib import Path\n"
        "from tercet.training.checkpoint import save_checkpoint; from tercet.core.errors import StorageError\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: save_checkpoint(Path(sys.argv[1]), {'x': torch.zeros(1_000_000)})\n"
        "except StorageError as error: sys.exit(error.exit_code)\n"
    )
    code = subprocess.run([sys.executable, "-c", program, str(path)], check=False).returncode
    assert code == StorageError.exit_code
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.ckpt"]


def test_weights_of_another_network_or_a_changed_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    digest = save_weights(path, nn.Linear(3, 2))
    with pytest.raises(ModelError, match="another network"):
        load_weights(path, nn.Linear(4, 2))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ModelError, match="changed"):
        load_weights(path, nn.Linear(3, 2), digest=digest)
