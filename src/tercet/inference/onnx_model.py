"""An exported ensemble: one ONNX file that answers, with nothing beside it and without PyTorch.

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
    """An exported ensemble, ready to answer. Many threads may ask it at once; make one with `load`.

    Args:
        session: The loaded model.
        metadata: What the file says of itself.
        path: Where it came from, for messages.
    """

    def __init__(self, session: onnxruntime.InferenceSession, metadata: Mapping[str, Any], path: Path) -> None:
        self._session, self.path = session, path
        self.metadata: Mapping[str, Any] = metadata
        self.classes: tuple[str, ...] = tuple(metadata["classes"])
        self.member_names: tuple[str, ...] = tuple(member["name"] for member in metadata["members"])
        self._outputs = [output.name for output in session.get_outputs()]
        self.has_maps = "maps" in self._outputs
        self.sets = metadata.get("sets") is not None
        self.parameters = _count(metadata)
        self.member_parameters = tuple(_count(member) for member in metadata["members"])

    @classmethod
    def load(cls, path: str | Path, *, threads: int | None = None, check: bool = True) -> OnnxModel:
        """Load a file that `tercet export` wrote.

        Args:
            path: The file.
            threads: Threads an answer (default: one a core).
            check: Answer for one black image too, so that what cannot run is known now.

        Raises:
            ConfigError: onnxruntime is not installed, or the file is a program of PyTorch.
            ModelError: It is another kind of file, was cut short or changed, needs other files or operators from
                elsewhere, or does not run.
            MemoryExhausted: There is no memory for it.
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
        options.log_severity_level = 4  # what goes wrong is raised, and told by us
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # a busy machine has other work
        require_threads(options.intra_op_num_threads, path)
        try:
            session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has an exception of its own for each of its states
            if is_out_of_memory(error):
                raise MemoryExhausted(f"no memory to load {path}, which asks for more than there is") from error
            raise load_error(path, error) from error
        _require_signature(session, document, path)
        model = cls(session, document, Path(path))
        if check:
            model.run(np.zeros((1, 8, 8, 3), dtype=np.uint8))
        return model

    @property
    def name(self) -> str:
        """Return the member's name, or the way the members are combined."""
        return str(self.metadata["name"])

    def run(self, images: NDArray[np.uint8]) -> ModelOutput:
        """Answer for images B H W 3 of one size.

        Raises:
            DataError: They have another shape or type.
            ModelError: The answer is not finite, or the model cannot answer.
            MemoryExhausted: There is no memory for so many pixels.
        """
        values = run_checked(lambda: self._session.run(self._outputs, {INPUT: images}), images, self.path)
        named = dict(zip(self._outputs, values, strict=True))
        output = ModelOutput(named["probabilities"], named["members"], named.get("chosen"), named.get("maps"))
        check_output(output, len(images), len(self.member_names), len(self.classes), self.path)
        return output

    def predict(
        self, images: ImageLike | Sequence[ImageLike], *, batch_size: int = 32
    ) -> Predictions | MultilabelPredictions:
        """Classify images.

        Args:
            images: Paths, folders, arrays (H W, H W 1 or H W 3, uint8) or PIL images; one or many, of any sizes.
            batch_size: Images an answer; images of one size are answered together.

        Returns:
            Predictions whose ids are the paths, or numbers for images without one; of label sets where `sets` is true.

        Raises:
            DataError: An image cannot be read, or there is none.
        """
        return self.predict_inputs(ImageInputs(images), batch_size=batch_size)

    def predict_inputs(self, pictures: ImageInputs, *, batch_size: int = 32) -> Predictions | MultilabelPredictions:
        """Classify pictures; those that cannot be read are left out where they say so (see `predict`).

        Raises:
            DataError: None can be read.
        """
        raise_problems([batch_size < 1 and f"batch_size {batch_size} must be positive"])
        found: dict[str, tuple[Any, Any]] = {}
        for names, batch in in_batches(pictures.pictures(), batch_size):
            output = self.run(batch)
            chosen = output.chosen if output.chosen is not None else [None] * len(names)
            found |= zip(names, zip(output.probabilities, chosen, strict=True), strict=True)
        if not found:
            raise DataError(f"none of the {len(pictures.bad)} image(s) can be read: {_named(pictures.bad)}")
        ids = tuple(name for name, _ in pictures.items if name in found)
        values = np.stack([found[name][0] for name in ids]).astype(np.float64)
        return self.predictions(ids, values, np.stack([found[name][1] for name in ids]) if self.sets else None)

    def predictions(
        self, ids: Sequence[str], values: NDArray[Any], chosen: NDArray[np.bool_] | None = None
    ) -> Predictions | MultilabelPredictions:
        """Wrap what `run` gave: probabilities, or scores with the chosen labels."""
        if chosen is None:
            return Predictions.of(values / values.sum(axis=1, keepdims=True), ids=ids, classes=self.classes)
        truth = np.full(values.shape, UNKNOWN, dtype=np.int8)
        return MultilabelPredictions(tuple(ids), self.classes, values.clip(0.0, 1.0), chosen, truth)


def _named(bad: Sequence[BadImage]) -> str:
    return ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")


def _count(told: Mapping[str, Any]) -> int | None:
    """Return the number of parameters that is told; None in files from before it was."""
    count = told.get("parameters")
    return count if isinstance(count, int) and not isinstance(count, bool) and count >= 0 else None


def _require_signature(session: onnxruntime.InferenceSession, document: Mapping[str, Any], path: str | Path) -> None:
    """Check names, types and ranks of what goes in and comes out.

    Raises:
        ModelError: They are not those of an exported ensemble.
    """
    taken = [(one.name, one.type, len(one.shape)) for one in session.get_inputs()]
    given = [(one.name, one.type, len(one.shape)) for one in session.get_outputs()]
    sets = document.get("sets") is not None
    wanted = [name for name in OUTPUTS if (name != "chosen" or sets) and (name != "maps" or len(given) > 2 + sets)]
    right = [(name, *_KINDS[name]) for name in wanted]
    if taken != [(INPUT, "tensor(uint8)", 4)] or sorted(given) != sorted(right):
        told = f"takes {taken} and gives {given}"
        raise ModelError(f"{path} {told}, not uint8 images B H W 3 to {', '.join(wanted)}: export the bundle again")
