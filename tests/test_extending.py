"""Parts of the user's own, from the user's view: each is given as an object, and its mistakes are one clear line.

The programs of docs/extending.md run first; the other tests are grouped by part.
"""

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional

import tercet
from tercet.core.errors import ConfigError, ModelError, PartError, TercetError
from tercet.core.registry import PARTS
from tercet.core.run_folder import RunFolder
from tercet.core.types import InputSpec
from tercet.experiments.custom_parts import custom_parts
from tercet.experiments.plan import Plan
from tercet.models.build import build
from tests.test_docs import blocks

PAGE = [block for block in blocks("python") if block.page.name == "extending.md"]
FAST: dict[str, Any] = {"epochs": 2, "lr": 1e-2, "batch_size": 8, "ensemble_methods": ["average"], "tensorboard": False}


class Net(nn.Module):
    """Images of 8 x 8 pixels to logits."""

    def __init__(self, num_classes: int, channels: int, outputs: int | None = None) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Dropout(0.1), nn.Linear(64 * channels, outputs or num_classes))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)  # type: ignore[no-any-return]


def blur(images: Tensor) -> Tensor:
    return images + 0.01 * torch.randn_like(images)


def hinge(logits: Tensor, targets: Tensor) -> Tensor:
    return functional.multi_margin_loss(logits, targets)


def ramp(step: int, total_steps: int) -> float:
    return (step + 1) / total_steps


def half_error(predictions: tercet.Predictions) -> float:
    return float((predictions.predicted != predictions.labels).mean()) / 2


half_error.higher_is_better = False  # type: ignore[attr-defined]


class Recorder:
    """Appends the events of trainings to a file that child processes share."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def _write(self, *values: object) -> None:
        with open(self.file, "a") as stream:
            print(*values, file=stream)

    def on_train_begin(self, start: Any) -> None:
        self.name = start.name
        self._write(self.name, "begin", start.total_steps)

    def on_epoch_end(self, row: Any) -> None:
        self._write(self.name, "epoch", row.epoch)

    def on_train_end(self, result: Any) -> None:
        self._write(self.name, "end", result.steps)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of 14 images of 8 x 8 pixels."""
    random = np.random.default_rng(0)
    for name, level in (("dark", 70), ("light", 180)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index in range(14):
            pixels = random.normal(level, 20, (8, 8)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{index}.png")
    return tmp_path / "photos"


def train(photos: Path, *members: Any, name: str = "run", **options: Any) -> Any:
    return tercet.train(photos, members=list(members), output=str(photos.parent / name), **{**FAST, **options})


def error_of(photos: Path, *members: Any, **options: Any) -> str:
    """Return the only line of the error that a training ends with."""
    with pytest.raises(TercetError) as caught:
        train(photos, *members, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------------------------------------ the page


@pytest.mark.parametrize("block", PAGE, ids=[f"line {block.line}" for block in PAGE])
def test_programs_of_the_page_run(block: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for registry in PARTS.values():  # what a program registers is gone after it
        list(registry)  # loads the built-in parts
        monkeypatch.setattr(registry, "_values", dict(registry._values))
        monkeypatch.setattr(registry, "_custom", set(registry._custom))
    assert len(block.text.splitlines()) <= 20
    exec(compile(block.text, str(block), "exec"), {"__name__": "program"})


# ------------------------------------------------------------------------------------------ all parts together


def everything(folder: Path) -> dict[str, Any]:
    parts = {"augment": blur, "loss": hinge, "schedule": ramp, "optimizer": torch.optim.RMSprop}
    parts["monitor"] = half_error
    return {**parts, "callbacks": [Recorder(folder / "events.txt")]}


def test_one_member_uses_every_part_and_its_files_hold_names_only(photos: Path) -> None:
    run = train(photos, Net, **everything(photos.parent))
    lines = (photos.parent / "events.txt").read_text().splitlines()
    assert [line.split()[1] for line in lines] == ["begin", "epoch", "epoch", "end"]
    (member,) = _plan(run.path, Net=Net).members
    assert (member.network, member.training.augment, member.training.loss) == ("Net", "blur", "hinge")
    assert '"augment": "blur"' in (run.path / "run.json").read_text()
    assert all(not registry.custom() for registry in PARTS.values())


def _plan(path: Path, **networks: Any) -> Plan:
    kinds = {"network": networks, "augmentation": {"blur": blur}, "loss": {"hinge": hinge}, "schedule": {"ramp": ramp}}
    kinds |= {"optimizer": {"RMSprop": torch.optim.RMSprop}}
    kinds["metric"] = {"half_error": half_error}
    for kind, parts in kinds.items():
        for name, part in parts.items():
            PARTS[kind].add_custom(name, part)
    try:
        return Plan.load(RunFolder(path))
    finally:
        for registry in PARTS.values():
            for name in registry.custom():
                registry._custom.discard(name)
                del registry._values[name]


def test_several_members_use_every_part_in_child_processes(photos: Path) -> None:
    members = ("small-cnn", {"model": Net, "name": "mine", "lr": 1e-3})
    run = train(photos, *members, threads=1, **everything(photos.parent))
    begun = {line.split()[0] for line in (photos.parent / "events.txt").read_text().splitlines()}
    assert begun == {"small-cnn", "mine"}
    assert [member.classifier.custom for member in run.bundle().members] == [False, True]


@pytest.mark.slow
def test_objects_of_a_script_travel_to_child_processes(photos: Path) -> None:
    """The script has no guard, and defines its network in `__main__`."""
    script = photos.parent / "script.py"
    script.write_text(
        "import sys, tercet\n"
        "from torch import nn\n"
        "def mine(num_classes, channels):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64 * channels, num_classes))\n"
        "if True:\n"
        "    run = tercet.train(sys.argv[1], members=[mine, {'model': mine, 'name': 'other'}], epochs=1, threads=1,\n"
        "                       ensemble_methods=['average'], output=sys.argv[2])\n"
        "    print(run.bundle().classes)\n"
    )
    command = [sys.executable, str(script), str(photos), str(photos.parent / "out")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "('dark', 'light')"


def test_parts_that_cannot_be_pickled_are_used_in_this_process(photos: Path) -> None:
    class Locked:
        def __init__(self) -> None:
            self.stream = open(photos / "dark" / "0.png", "rb")  # noqa: SIM115

        def on_epoch_end(self, row: Any) -> None:
            self.row = row

    callback = Locked()
    console = Console(record=True, force_terminal=False, file=io.StringIO())
    train(photos, Net, {"model": Net, "name": "b"}, threads=1, callbacks=[callback], console=console, epochs=1)
    callback.stream.close()
    assert "callback Locked cannot be sent to other processes" in console.export_text()
    assert callback.row.epoch == 0


@pytest.mark.slow
def test_cross_validation_comparison_and_search_use_them(photos: Path) -> None:
    options = {**FAST, "threads": 1, "augment": blur, "loss": hinge, "epochs": 1}
    folds = tercet.crossval(photos, members=[Net], folds=2, output=str(photos.parent / "folds"), **options)
    assert len(folds.bundle().members) == 2
    del options["ensemble_methods"]
    compared = tercet.compare(
        photos, backbones=[Net, "small-cnn"], seeds=1, output=str(photos.parent / "compared"), **options
    )
    assert "Net" in compared.report
    options["schedule"] = "constant"
    space = {"schedule": [ramp, "cosine"], "lr": [1e-2, 1e-3]}
    tuned = tercet.tune(photos, members=[Net], space=space, trials=2, output=str(photos.parent / "tuned"), **options)
    assert tuned.metrics["best"]["score"] is not None


# ------------------------------------------------------------------------------------------ networks


def test_an_instance_keeps_its_weights_and_is_copied(photos: Path) -> None:
    module = Net(2, 1)
    before = module.layers[2].weight.detach().clone()
    run = train(photos, module, epochs=0.1, lr=1e-9)
    assert torch.equal(module.layers[2].weight, before)
    trained = run.bundle().members[0].classifier.features.layers[2].weight
    assert torch.allclose(trained, before, atol=1e-6)


def test_the_input_of_a_network_is_its_spec_or_the_options_or_the_data() -> None:
    class Specified(Net):
        input_spec = InputSpec((8, 8), 1, mean=(0.5,), std=(0.25,))

    class Timm(Net):
        default_cfg = {"input_size": (1, 8, 8), "mean": (0.1,), "std": (0.2,), "interpolation": "bicubic"}  # noqa: RUF012

    networks = {"specified": Specified, "timm_like": Timm, "plain": Net}
    with PARTS["network"].scoped(networks):
        specs = {name: build(name, num_classes=2, channels=1, image_size=(8, 8)).spec for name in networks}
    assert specs["specified"].std == (0.25,)
    assert (specs["timm_like"].mean, specs["timm_like"].interpolation) == ((0.1,), "bicubic")
    assert (specs["plain"].size, specs["plain"].mean, specs["plain"].std) == ((8, 8), (0.0,), (1.0,))


def test_bundles_take_the_network_and_never_import_it(photos: Path) -> None:
    run = train(photos, {"model": Net, "name": "mine"}, epochs=1)
    with pytest.raises(ModelError, match=r"member mine uses the network 'mine' of yours: load_bundle\(path, modules="):
        tercet.load_bundle(run.path)
    bundle = tercet.load_bundle(run.path, modules={"mine": Net})
    assert np.allclose(bundle.predict(photos).probabilities, run.bundle().predict(photos).probabilities)
    again = bundle.save(photos.parent / "copy")
    assert tercet.load_bundle(again, modules={"mine": Net(2, 1)}).members[0].classifier.custom


def test_exported_networks_are_verified(photos: Path) -> None:
    pytest.importorskip("onnxscript")
    run = train(photos, Net, epochs=1)
    file = photos.parent / "model.onnx"
    result = tercet.export_model(run.path, file, data=str(photos), modules={"Net": Net})
    assert result.verification.passed and result.verification.agreement == 1


def test_wrong_networks_are_refused_before_any_training(photos: Path) -> None:
    def wide(num_classes: int, channels: int) -> nn.Module:
        return Net(num_classes, channels, outputs=5)

    def broken() -> nn.Module:
        raise RuntimeError("no such layer\nand more")

    def nothing() -> None:
        return None

    line = error_of(photos, wide)
    assert "network 'wide' returned Tensor of shape (2, 5), expected logits (B, K) of shape (2, 2)" in line
    assert error_of(photos, broken) == "network 'broken' raised RuntimeError: no such layer"
    assert "network 'nothing' returned NoneType, expected an nn.Module" in error_of(photos, nothing)
    assert "--hidden-size has no effect on 'Net'" in error_of(photos, {"model": Net, "hidden_size": 4})
    assert not (photos.parent / "run").exists()


@pytest.mark.parametrize(
    ("member", "line"),
    [
        (
            lambda: Net(2, 1),
            "members: <lambda> is not a usable name: give a function defined with def, or",
        ),
        ({"model": Net, "name": "small-cnn"}, "network 'small-cnn' is already registered: choose another name"),
        ({"model": Net, "name": "resnet18"}, "network 'resnet18' is already registered: choose another name"),
    ],
)
def test_networks_need_a_free_name(photos: Path, member: Any, line: str) -> None:
    assert line in error_of(photos, member)


# ------------------------------------------------------------------------------------------ other parts


def test_wrong_parts_are_named_and_leave_no_folder(photos: Path) -> None:
    def crop(images: Tensor) -> Tensor:
        return images[..., 1:]

    def per_image(logits: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(logits, targets, reduction="none")

    line = error_of(photos, "small-cnn", augment=crop)
    assert line == "augmentation 'crop' returned Tensor of shape (2, 1, 8, 7), expected the images' (2, 1, 8, 8)"
    assert "loss 'per_image' returned Tensor of shape (2,), expected the mean" in error_of(photos, Net, loss=per_image)
    assert "loss 'hinge' has no parameter label_smoothing" in error_of(photos, Net, loss=hinge, label_smoothing=0.1)
    assert "augmentation 'light' is already registered" in error_of(photos, Net, augment=_named("light"))
    assert "callbacks: int has no method on_train_begin" in error_of(photos, Net, callbacks=[3])
    assert "loss: expected one of" in error_of(photos, Net, loss=3)
    assert not (photos.parent / "run").exists()


def _named(name: str) -> Any:
    def part(images: Tensor) -> Tensor:
        return images

    part.__name__ = name
    return part


def test_one_part_can_be_given_in_several_options() -> None:
    member = {"model": Net, "loss": hinge, "stages": [{"schedule": ramp, "steps": 2}]}
    with custom_parts({"loss": hinge, "schedule": ramp, "members": [member, Net], "lr": 0.1}) as named:
        assert PARTS["schedule"].custom() == {"ramp": ramp}
    stages = [{"schedule": "ramp", "steps": 2}]
    assert named["members"] == [{"model": "Net", "loss": "hinge", "stages": stages}, {"model": "Net"}]
    assert (named["loss"], named["schedule"], named["lr"]) == ("hinge", "ramp", 0.1)


def test_a_schedule_must_return_a_factor(photos: Path) -> None:
    def broken(step: int, total_steps: int) -> float:
        return float("nan") if step else 1.0

    assert "schedule 'broken' returned nan at step 1" in error_of(photos, Net, schedule=broken)


class Failing:
    """Fails in one method, once."""

    def __init__(self, method: str) -> None:
        self.failed = False
        setattr(self, method, self.fail)

    def fail(self, argument: Any) -> None:
        if not self.failed:
            self.failed = True
            raise ValueError("no connection")


@pytest.mark.parametrize("method", ["on_train_begin", "on_train_batch_end", "on_epoch_end", "on_train_end"])
def test_a_callback_that_raises_loses_nothing(photos: Path, method: str) -> None:
    reference = train(photos, Net, name="reference")
    with pytest.raises(TercetError, match=rf"callback Failing\.{method} raised ValueError: no connection") as caught:
        train(photos, Net, callbacks=[Failing(method)])
    assert isinstance(caught.value.__cause__, PartError)
    assert isinstance(caught.value.__cause__.__cause__, ValueError)
    run = tercet.train(resume=photos.parent / "run", modules={"Net": Net})
    ours, theirs = (RunFolder(path).member("Net").bundle for path in (run.path, reference.path))
    assert (ours / "1-Net.safetensors").read_bytes() == (theirs / "1-Net.safetensors").read_bytes()


def test_a_resume_needs_the_same_parts(photos: Path) -> None:
    class Stop:
        def on_epoch_end(self, row: Any) -> None:
            raise RuntimeError("enough")

    reference = train(photos, Net, augment=blur, name="reference")
    assert "callback Stop.on_epoch_end raised RuntimeError: enough" in error_of(
        photos, Net, augment=blur, callbacks=[Stop()]
    )
    folder = photos.parent / "run"
    with pytest.raises(
        ConfigError, match=r"network 'Net', augmentation 'blur'.*modules=\{\"Net\": factory\}, augment=blur"
    ):
        tercet.train(resume=folder)
    run = tercet.train(resume=folder, members=[Net], augment=blur)
    ours, theirs = (RunFolder(path).member("Net").bundle for path in (run.path, reference.path))
    assert (ours / "1-Net.safetensors").read_bytes() == (theirs / "1-Net.safetensors").read_bytes()


@pytest.mark.slow
def test_a_metric_selects_epochs_and_its_mistakes_are_named(photos: Path) -> None:
    def undefined(predictions: tercet.Predictions) -> float:
        return float("nan")

    run = train(photos, Net, "small-cnn", monitor=half_error, threads=1)
    assert "half_error" in (run.path / "metrics.json").read_text()
    assert re.search("metric 'undefined' is nan", error_of(photos, Net, monitor=undefined, name="nan"))
    assert (photos.parent / "nan").exists()


@pytest.mark.parametrize("kind", ["augment", "loss", "schedule", "optimizer", "head"])
def test_unknown_names_are_one_line(photos: Path, kind: str) -> None:
    member = {"model": "test_resnet", "pretrained": False} if kind == "head" else "small-cnn"
    assert f"{kind}: expected one of" in error_of(photos, member, **{kind: "unknown"})


def test_plans_and_bundles_with_unknown_names_are_one_line(photos: Path) -> None:
    run = train(photos, Net, loss=hinge, epochs=1)
    (run.path / "report.txt").unlink()
    for name in ("run.json", "plan.json"):
        document = json.loads((run.path / name).read_text())
        (run.path / name).write_text(json.dumps({**document, "custom": {}}))
    with pytest.raises(ConfigError, match="loss: expected one of cross-entropy, got 'hinge'"):
        tercet.train(resume=run.path)
