"""Inference with an exported ONNX file, without PyTorch.

Shapes: B images, H x W pixels, M members, K classes, h x w cells of a map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercet.core.errors import ConfigError, DataError, MemoryExhausted, ModelError, is_out_of_memory, raise_problems
from tercet.core.model_formats import reject_program
from tercet.core.multilabel import MultilabelPredictions
from tercet.core.predictions import UNKNOWN, Predictions
from tercet.core.resource_limits import available_cores, require_threads
from tercet.data.image_cache import BadImage
from tercet.data.inputs import ImageInputs, ImageLike
from tercet.inference.onnx_file import read_checked, read_content
from tercet.inference.outputs import ModelOutput, check_output, in_batches, load_error, require_fields, run_checked

try:
    import onnxruntime
except ImportError:  # an extra: `pip install tercet[export]`
    onnxruntime = None

INPUT = "images"
OUTPUTS = ("probabilities", "members", "chosen", "maps")
_KINDS = {
    "probabilities": ("tensor(float)", 2),
    "members": ("tensor(float)", 3),
    "chosen": ("tensor(bool)", 2),
    "maps": ("tensor(float)", 3),
}


class OnnxModel:
    """An exported ensemble; create it with `load`. It is thread-safe.

    Args:
        session: The onnxruntime session.
        metadata: Metadata of the file.
        path: Path of the file, for messages.
    """

    def __init__(self, session: onnxruntime.InferenceSession, metadata: Mapping[str, Any], path: Path) -> None:
        self._session, self.path = session, path
        self.metadata: Mapping[str, Any] = metadata
        self.classes: tuple[str, ...] = tuple(metadata["classes"])
        self.member_names: tuple[str, ...] = tuple(member["name"] for member in metadata["members"])
        self._outputs = [output.name for output in session.get_outputs()]
        self.has_maps = "maps" in self._outputs
        self.sets = metadata.get("sets") is not None
        self.parameters = _parameter_count(metadata)
        self.member_parameters = tuple(_parameter_count(member) for member in metadata["members"])

    @classmethod
    def load(cls, path: str | Path, *, threads: int | None = None, check: bool = True) -> OnnxModel:
        """Load a file that `tercet export` wrote.

        Args:
            path: The file.
            threads: Threads per inference (default: one per core).
            check: Run the model on one black image to detect errors early.

        Raises:
            ConfigError: onnxruntime is not installed, or the file is a torch.export program.
            ModelError: The file is not from `tercet export`, was changed, or does not run.
            MemoryExhausted: There is not enough memory.
        """
        if onnxruntime is None:
            raise ConfigError("exported files need onnxruntime, which is not installed: pip install 'tercet[export]'")
        reject_program(path)
        content = read_content(path)
        document = read_checked(content, path)
        require_fields(document, path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or available_cores()
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # errors are raised
        options.add_session_config_entry(
            "session.intra_op.allow_spinning", "0"
        )  # spinning would take CPU time from other processes
        require_threads(options.intra_op_num_threads, path)
        try:
            session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has one exception class per status code
            if is_out_of_memory(error):
                raise MemoryExhausted(f"not enough memory to load {path}") from error
            raise load_error(path, error) from error
        _require_signature(session, document, path)
        model = cls(session, document, Path(path))
        if check:
            model.run(np.zeros((1, 8, 8, 3), dtype=np.uint8))
        return model

    @property
    def name(self) -> str:
        """Name of the only member, or of the combiner."""
        return str(self.metadata["name"])

    def run(self, images: NDArray[np.uint8]) -> ModelOutput:
        """Run the model on images B H W 3 of one size.

        Raises:
            DataError: The images have another shape or type.
            ModelError: The output is not finite, or the runtime fails.
            MemoryExhausted: There is not enough memory for these images.
        """
        values = run_checked(lambda: self._session.run(self._outputs, {INPUT: images}), images, self.path)
        outputs = dict(zip(self._outputs, values, strict=True))
        output = ModelOutput(outputs["probabilities"], outputs["members"], outputs.get("chosen"), outputs.get("maps"))
        check_output(output, len(images), len(self.member_names), len(self.classes), self.path)
        return output

    def predict(
        self, images: ImageLike | Sequence[ImageLike], *, batch_size: int = 32
    ) -> Predictions | MultilabelPredictions:
        """Classify images.

        Args:
            images: Paths, folders, arrays (H W, H W 1 or H W 3, uint8) or PIL images; one or many, of any sizes.
            batch_size: Maximum number of images per batch; a batch has images of one size.

        Returns:
            Predictions whose ids are the paths, or numbers for arrays and PIL images; `MultilabelPredictions` if `sets`
            is true.

        Raises:
            DataError: An image cannot be read, or there are no images.
        """
        return self.predict_inputs(ImageInputs(images), batch_size=batch_size)

    def predict_inputs(self, inputs: ImageInputs, *, batch_size: int = 32) -> Predictions | MultilabelPredictions:
        """Classify images, without the unreadable ones if `inputs` skips them; see `predict`.

        Raises:
            DataError: No image can be read.
        """
        raise_problems([batch_size < 1 and f"batch_size {batch_size} must be positive"])
        results: dict[str, tuple[Any, Any]] = {}
        for names, batch in in_batches(inputs.pixels(), batch_size):
            output = self.run(batch)
            chosen = output.chosen if output.chosen is not None else [None] * len(names)
            results |= zip(names, zip(output.probabilities, chosen, strict=True), strict=True)
        if not results:
            raise DataError(f"none of the {len(inputs.bad)} image(s) can be read: {_listing(inputs.bad)}")
        ids = tuple(name for name, _ in inputs.items if name in results)
        values = np.stack([results[name][0] for name in ids]).astype(np.float64)
        return self.predictions(ids, values, np.stack([results[name][1] for name in ids]) if self.sets else None)

    def predictions(
        self, ids: Sequence[str], values: NDArray[Any], chosen: NDArray[np.bool_] | None = None
    ) -> Predictions | MultilabelPredictions:
        """Convert outputs of `run` (probabilities N K, or scores and predicted labels N K) to predictions."""
        if chosen is None:
            return Predictions.of(values / values.sum(axis=1, keepdims=True), ids=ids, classes=self.classes)
        truth = np.full(values.shape, UNKNOWN, dtype=np.int8)
        return MultilabelPredictions(tuple(ids), self.classes, values.clip(0.0, 1.0), chosen, truth)


def _listing(bad: Sequence[BadImage]) -> str:
    return ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")


def _parameter_count(entry: Mapping[str, Any]) -> int | None:
    count = entry.get("parameters")
    return count if isinstance(count, int) and not isinstance(count, bool) and count >= 0 else None


def _require_signature(session: onnxruntime.InferenceSession, document: Mapping[str, Any], path: str | Path) -> None:
    """Raise a ModelError if names, types or ranks of the inputs and outputs are not those of an exported ensemble."""
    inputs = [(value.name, value.type, len(value.shape)) for value in session.get_inputs()]
    outputs = [(value.name, value.type, len(value.shape)) for value in session.get_outputs()]
    sets = document.get("sets") is not None
    names = [name for name in OUTPUTS if (name != "chosen" or sets) and (name != "maps" or len(outputs) > 2 + sets)]
    expected = [(name, *_KINDS[name]) for name in names]
    if inputs != [(INPUT, "tensor(uint8)", 4)] or sorted(outputs) != sorted(expected):
        raise ModelError(
            f"{path} has inputs {inputs} and outputs {outputs}, not uint8 images B H W 3 and {', '.join(names)}: "
            "export the bundle again"
        )
