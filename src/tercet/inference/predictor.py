"""`Predictor`: what bundles, ONNX files and torch programs have in common, and how to open one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tercet.config.tta import TTAConfig
from tercet.core.calibration import Calibration
from tercet.core.errors import ConfigError
from tercet.core.model_formats import format_of
from tercet.core.multilabel import MultilabelPredictions
from tercet.core.predictions import Predictions
from tercet.data.inputs import AnyImages, ImageInputs, LabelledImages
from tercet.inference.onnx_model import OnnxModel


class Predictor(Protocol):
    """A trained ensemble: a `Bundle`, an `OnnxModel`, a `TorchModel`, or a class of yours with these members."""

    @property
    def name(self) -> str:
        """Name of the only member, or of the combiner."""

    @property
    def classes(self) -> tuple[str, ...]:
        """K class names, in the order of the outputs."""

    @property
    def multilabel(self) -> bool:
        """Whether an image may have several labels."""

    @property
    def member_names(self) -> tuple[str, ...]:
        """M names."""

    @property
    def parameters(self) -> int | None:
        """Number of trainable parameters; None if unknown."""

    @property
    def member_parameters(self) -> Sequence[int | None]:
        """Number of trainable parameters of each member."""

    @property
    def calibration(self) -> Calibration | None:
        """Already applied to the predictions; its rejection threshold and prediction sets are not."""

    @property
    def card(self) -> Mapping[str, Any]:
        """Description of the training: data, metrics, versions."""

    @property
    def note(self) -> str | None:
        """Why the predictions may differ from those of the trained bundle."""

    @property
    def plain(self) -> bool:
        """Whether there is no test-time augmentation that can be switched off."""

    @property
    def runtime(self) -> str:
        """Name of what computes, in benchmarks."""

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the first member's input."""

    def with_tta(self, tta: str | TTAConfig) -> Predictor:
        """Return the ensemble with other test-time augmentation, or raise a ConfigError."""

    def resolve_device(self, name: str) -> str:
        """Return the device that `auto` or another name means, or raise a ConfigError."""

    def predict(
        self, images: AnyImages, *, batch_size: int = 32, device: str = "cpu"
    ) -> Predictions | MultilabelPredictions:
        """Classify images.

        Args:
            images: Paths, folders, arrays (H W, H W 1 or H W 3, uint8) or PIL images; one or many, of any sizes.
            batch_size: Maximum number of images per forward pass.
            device: Device of the networks.

        Returns:
            Predictions whose ids are the paths, or numbers for arrays and PIL images; `MultilabelPredictions` if
            `multilabel` is true.

        Raises:
            DataError: An image cannot be read, or there are no images.
        """

    def predict_with_members(
        self, source: ImageInputs | LabelledImages, *, batch_size: int = 32, device: str = "cpu"
    ) -> tuple[Predictions | MultilabelPredictions, Sequence[Predictions | MultilabelPredictions]]:
        """Return the predictions of the ensemble, and those of each member."""

    def run(self, images: NDArray[np.uint8]) -> object:
        """Compute the outputs for images B H W 3 as one batch, for benchmarks."""


def import_runtime(path: str | Path, *, threads: int | None = None) -> Callable[[], Predictor]:
    """Import the library that runs a model, and return the function that loads it.

    Args:
        path: The file or folder.
        threads: Threads of ONNX Runtime per batch (default: one per core); PyTorch has its own setting.
    """
    form = format_of(path)
    if form == "onnx":
        return lambda: OnnxModel.load(path, threads=threads, check=False)  # it is run at once
    if form == "torch":
        from tercet.inference.torch_model import TorchModel

        return lambda: TorchModel.load(path)
    from tercet.ensemble.bundle import load_bundle

    return lambda: load_bundle(path)


def open_predictor(
    model: str | Path | Predictor, *, tta: str | TTAConfig | None = None, threads: int | None = None
) -> Predictor:
    """Load a model of any kind.

    Args:
        model: Folder of a bundle or run, an ONNX file, a torch program, or a loaded model.
        tta: Test-time augmentation (default: that of the model).
        threads: See `import_runtime`.

    Raises:
        ConfigError: The model is of another type, or does not support the test-time augmentation.
        ModelError: The path is not a model, or was changed.
    """
    if isinstance(tta, str):
        TTAConfig.parse(tta)  # raises before the model is loaded
    if isinstance(model, (str, Path)):
        model = import_runtime(model, threads=threads)()
    elif not hasattr(model, "predict_with_members"):
        kind = f"array of shape {model.shape}" if isinstance(model, np.ndarray) else type(model).__name__
        raise ConfigError(f"expected a bundle, a run folder, an exported file or a loaded model, got {kind}")
    return model if tta is None else model.with_tta(tta)


def model_label(model: str | Path | Predictor) -> str:
    """Return the path of a model for messages and tables; the name of a bundle in memory."""
    return str(model if isinstance(model, (str, Path)) else getattr(model, "path", getattr(model, "name", model)))
