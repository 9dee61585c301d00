"""Inference with an exported ONNX file, without PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercet.core.errors import ConfigError, ModelError
from tercet.core.model_formats import reject_program
from tercet.core.resource_limits import available_cores, require_threads
from tercet.inference.exported_model import ExportedModel, require_fields, runtime_error
from tercet.inference.onnx_file import read_checked, read_content

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


class OnnxModel(ExportedModel):
    """An exported ensemble that runs in ONNX Runtime; create it with `load`. It is thread-safe.

    Args:
        session: The onnxruntime session.
        metadata: Metadata of the file.
        path: Path of the file, for messages.
    """

    runtime = "onnxruntime"

    def __init__(self, session: onnxruntime.InferenceSession, metadata: Mapping[str, Any], path: Path) -> None:
        super().__init__(metadata, path)
        self._session = session
        self._outputs = [output.name for output in session.get_outputs()]
        self.has_maps = "maps" in self._outputs

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
        # spinning would take CPU time from other processes
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        require_threads(options.intra_op_num_threads, path)
        try:
            session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has one exception class per status code
            raise runtime_error(path, error, memory_message=f"not enough memory to load {path}") from error
        _require_signature(session, document, path)
        model = cls(session, document, Path(path))
        if check:
            model.run(np.zeros((1, 8, 8, 3), dtype=np.uint8))
        return model

    def _run(self, images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        return dict(zip(self._outputs, self._session.run(self._outputs, {INPUT: images}), strict=True))


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
