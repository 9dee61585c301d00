"""Exported models of any format: batches, predictions, and checks of their metadata and outputs.

Shapes: N images, B images of a batch, H x W pixels, M members, K classes, h x w cells of a map.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from tercet.config.tta import TTAConfig
from tercet.core.calibration import Calibration
from tercet.core.errors import ConfigError, DataError, MemoryExhausted, ModelError, is_out_of_memory, raise_problems
from tercet.core.multilabel import MultilabelPredictions
from tercet.core.predictions import UNKNOWN, Ints, Predictions
from tercet.data.decoding import Decoding
from tercet.data.inputs import AnyImages, ImageInputs, LabelledImages

MAX_PENDING_BYTES = 256_000_000
"""Limit of decoded images that wait for others of their size."""
_GREEDY = "the file decodes labels greedily; the bundle uses beam search, and its labels may differ"

Key = TypeVar("Key")
Values = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class ModelOutput:
    """Output of a model for images."""

    probabilities: Values
    """N K; rows sum to 1, except for the scores of multi-label models."""
    members: Values
    """N M K, uncalibrated."""
    chosen: NDArray[np.bool_] | None = None
    """N K, predicted labels of multi-label models."""
    maps: NDArray[np.float32] | None = None
    """N h w in [0, 1], class-activation maps of the predicted class; only if exported."""

    @property
    def predicted(self) -> NDArray[np.int64]:
        """Class indices N, or label sets N K of 0 and 1."""
        return np.asarray(self.probabilities.argmax(axis=1) if self.chosen is None else self.chosen, dtype=np.int64)


class ExportedModel(ABC):
    """An exported ensemble; it computes on the CPU.

    Args:
        metadata: Metadata of the file, see `tercet.export.metadata.describe_bundle`.
        path: Path of the file, for messages.
    """

    runtime: ClassVar[str]
    """Name of what computes, in benchmarks."""
    plain = True  # TTA is part of the file, and cannot be switched off
    has_maps = False

    def __init__(self, metadata: Mapping[str, Any], path: Path) -> None:
        self.metadata, self.path = metadata, path
        members: list[Mapping[str, Any]] = metadata["members"]
        self.name = str(metadata["name"])
        self.classes: tuple[str, ...] = tuple(metadata["classes"])
        self.member_names: tuple[str, ...] = tuple(member["name"] for member in members)
        self.multilabel = metadata.get("sets") is not None
        self.card: Mapping[str, Any] = metadata.get("card", {})
        self.parameters = _parameter_count(metadata)
        self.member_parameters = tuple(map(_parameter_count, members))

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the first member's input."""
        height, width = self.metadata["members"][0].get("input", {}).get("size", (224, 224))
        return height, width

    @property
    def calibration(self) -> Calibration | None:
        """The calibration, which the file applies itself; raises a ModelError if it is malformed."""
        values = self.metadata.get("calibration")
        return None if values is None else Calibration.from_dict(values)

    @property
    def note(self) -> str | None:
        """Why the predictions may differ from those of the bundle."""
        return _GREEDY if self.multilabel and self.metadata["sets"].get("search") == "greedy" else None

    def with_tta(self, tta: str | TTAConfig) -> NoReturn:
        """Raise a ConfigError."""
        raise ConfigError("the TTA of an exported file is fixed: export again with --tta, or use the bundle")

    def resolve_device(self, name: str) -> str:
        """Return `cpu`; raise a ConfigError for other devices."""
        if name not in ("auto", "cpu"):
            raise ConfigError(f"an exported file runs on the CPU: use --device cpu, or the bundle on {name}")
        return "cpu"

    @abstractmethod
    def _run(self, images: NDArray[np.uint8]) -> Mapping[str, NDArray[Any]]:
        """Return the outputs by name."""

    def run(self, images: NDArray[np.uint8]) -> ModelOutput:
        """Run the model on images B H W 3 of one size.

        Raises:
            DataError: The images have another shape or type.
            ModelError: The output is not finite, or the runtime fails.
            MemoryExhausted: There is not enough memory for these images.
        """
        _require_images(images)
        try:
            outputs = self._run(images)
        except Exception as error:  # each runtime has its own exceptions
            message = f"not enough memory for images {images.shape}: use fewer or smaller ones"
            raise runtime_error(self.path, error, memory_message=message) from error
        try:
            output = ModelOutput(
                outputs["probabilities"], outputs["members"], outputs.get("chosen"), outputs.get("maps")
            )
        except KeyError as error:
            raise ModelError(f"{self.path} has no output {error}: export the bundle again") from error
        self._check(output, len(images))
        return output

    def _check(self, output: ModelOutput, count: int) -> None:
        """Raise a ModelError if the output for `count` images does not fit the metadata, or is not finite."""
        path, num_members, num_classes = self.path, len(self.member_names), len(self.classes)
        expected = (count, num_classes), (count, num_members, num_classes)
        if (output.probabilities.shape, output.members.shape) != expected:
            raise ModelError(
                f"{path} has outputs of shapes {output.probabilities.shape} and {output.members.shape} for {count} "
                f"image(s), {num_members} member(s) and {num_classes} classes: its metadata are wrong"
            )
        if output.chosen is not None and (output.chosen.shape != expected[0] or output.chosen.dtype != np.bool_):
            shape = f"{output.chosen.dtype} {output.chosen.shape}"
            raise ModelError(f"{path} has labels of {shape}, not bool {expected[0]}")
        arrays = (output.probabilities, output.members, *([] if output.maps is None else [output.maps]))
        if not all(np.isfinite(array).all() for array in arrays):
            raise ModelError(f"{path} has outputs that are not finite: its weights are damaged, export it again")

    def run_all(
        self, images: Iterable[tuple[Key, NDArray[np.uint8]]], *, batch_size: int, max_bytes: float | None = None
    ) -> tuple[list[Key], ModelOutput]:
        """Run the model on images of any size; return their keys and the output (without maps) in the same order.

        Args:
            images: Keys and pixels, H W 1 or H W 3.
            batch_size: Maximum number of images per batch; a batch has images of one size.
            max_bytes: See `in_batches`.
        """
        raise_problems([batch_size < 1 and f"batch_size {batch_size} must be positive"])
        keys: list[tuple[int, Key]] = []
        outputs: list[ModelOutput] = []
        numbered = (((number, key), pixels) for number, (key, pixels) in enumerate(images))
        for batch_keys, batch in in_batches(numbered, batch_size, max_bytes=max_bytes):
            keys += batch_keys
            outputs.append(self.run(batch))
        if not keys:
            raise DataError("no images to predict")
        order = np.argsort([number for number, _ in keys])
        probabilities, members = (
            np.concatenate([getattr(output, name) for output in outputs])[order].astype(np.float64)
            for name in ("probabilities", "members")
        )
        chosen = [output.chosen for output in outputs if output.chosen is not None]
        labels = np.concatenate(chosen)[order] if chosen else None
        return [keys[index][1] for index in order], ModelOutput(probabilities, members, labels)

    def predict(
        self, images: AnyImages, *, batch_size: int = 32, device: str = "cpu"
    ) -> Predictions | MultilabelPredictions:
        """Classify images of any kind and size; see `Predictor.predict`."""
        self.resolve_device(device)
        inputs = ImageInputs.of(images, Decoding.of_card(self.card))
        ids, output = self.run_all(inputs.pixels(), batch_size=batch_size)
        return self._predictions(output.probabilities, output.chosen, ids, None)

    def predict_with_members(
        self, source: ImageInputs | LabelledImages, *, batch_size: int = 32, device: str = "cpu"
    ) -> tuple[Predictions | MultilabelPredictions, Sequence[Predictions | MultilabelPredictions]]:
        """Return the predictions of the ensemble, and those of each member; see `predict`."""
        self.resolve_device(device)
        ids, output = self.run_all(source.pixels(), batch_size=batch_size)
        truth = source.labels if isinstance(source, LabelledImages) else None
        members = [
            self._predictions(values, None if threshold is None else values > threshold, ids, truth)
            for values, threshold in zip(np.moveaxis(output.members, 1, 0), self._thresholds(), strict=True)
        ]
        return self._predictions(output.probabilities, output.chosen, ids, truth), members

    def _thresholds(self) -> Sequence[np.float32 | None]:
        """Return the threshold of each member, in 32 bits as in the file; None if each image has one class."""
        if not self.multilabel:
            return [None] * len(self.member_names)
        try:
            thresholds = [np.float32(threshold) for threshold in self.metadata["sets"]["thresholds"]]
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"the multi-label rule of {self.path} is damaged: {error}") from error
        if len(thresholds) != len(self.member_names):
            raise ModelError(f"the multi-label rule of {self.path} is for {len(thresholds)} members")
        return thresholds

    def _predictions(
        self, values: Values, chosen: NDArray[np.bool_] | None, ids: Sequence[str], truth: Ints | None
    ) -> Predictions | MultilabelPredictions:
        """Return probabilities N K, or scores and predicted labels N K, as predictions."""
        if chosen is None:
            probabilities = values / values.sum(axis=1, keepdims=True)
            return Predictions.of(probabilities, ids=ids, classes=self.classes, labels=truth)
        labels = np.full(values.shape, UNKNOWN) if truth is None else truth
        return MultilabelPredictions(tuple(ids), self.classes, values.clip(0.0, 1.0), chosen, labels.astype(np.int8))


def as_rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return pixels H W 1 or H W 3 as H W 3."""
    return pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)


def in_batches(
    images: Iterable[tuple[Key, NDArray[np.uint8]]], batch_size: int, *, max_bytes: float | None = None
) -> Iterator[tuple[list[Key], NDArray[np.uint8]]]:
    """Yield keys and images B H W 3, where all images of a batch have the same size.

    Args:
        images: Keys and pixels, H W 1 or H W 3 of any size.
        batch_size: Maximum number of images per batch.
        max_bytes: Limit of pending images, beyond which incomplete batches are yielded (default: `MAX_PENDING_BYTES`).
    """
    pending: dict[tuple[int, ...], list[tuple[Key, NDArray[np.uint8]]]] = {}
    pending_bytes, limit = 0, MAX_PENDING_BYTES if max_bytes is None else max_bytes
    for key, pixels in images:
        image = as_rgb(pixels)
        group = pending.setdefault(image.shape, [])
        group.append((key, image))
        pending_bytes += image.nbytes
        ready = [image.shape] if len(group) == batch_size else [*pending] if pending_bytes > limit else []
        for shape in ready:
            group = pending.pop(shape)
            pending_bytes -= sum(pixels.nbytes for _, pixels in group)
            yield _stack(group)
    yield from map(_stack, pending.values())


def _stack(group: list[tuple[Key, NDArray[np.uint8]]]) -> tuple[list[Key], NDArray[np.uint8]]:
    return [key for key, _ in group], np.stack([pixels for _, pixels in group])


def _require_images(images: NDArray[np.uint8]) -> None:
    """Raise a DataError if `images` is not a uint8 array B H W 3 with at least one pixel."""
    shape = f"{images.dtype} array of shape {images.shape}" if isinstance(images, np.ndarray) else str(type(images))
    valid = isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.ndim == 4
    if not valid or images.shape[3] != 3 or not images.size:
        raise DataError(f"images must be uint8 B H W 3 with at least one pixel, not {shape}")


def _parameter_count(entry: Mapping[str, Any]) -> int | None:
    count = entry.get("parameters")
    return count if isinstance(count, int) and not isinstance(count, bool) and count >= 0 else None


def runtime_error(path: str | Path, error: Exception, *, memory_message: str) -> MemoryExhausted | ModelError:
    """Return the error for a file that its runtime cannot load or run."""
    if is_out_of_memory(error):
        return MemoryExhausted(memory_message)
    message = str(error).strip()
    reason = message.splitlines()[0][:300] if message else type(error).__name__
    return ModelError(f"{path} cannot be used: {reason}; export the bundle again with this version")


def require_fields(document: Mapping[str, Any], path: str | Path) -> None:
    """Raise a ModelError if required fields of a file's metadata are missing or malformed."""
    classes, members = document.get("classes"), document.get("members")
    entries = members if isinstance(members, list) else []
    names = [member.get("name") if isinstance(member, dict) else None for member in entries]
    for what, values in (("classes", classes), ("members", names)):
        if not isinstance(values, list) or not values or not all(isinstance(name, str) for name in values):
            raise ModelError(f"{path} has no names of its {what}: export the bundle again")
    if len(set(cast("list[str]", classes))) != len(cast("list[str]", classes)):
        raise ModelError(f"{path} has duplicate class names: export the bundle again")
    if not isinstance(document.get("name"), str):
        raise ModelError(f"{path} has no model name: export the bundle again")
