"""An exported ensemble: one ONNX file that answers, with nothing beside it and without PyTorch.

Shapes: B images, H x W pixels, M members, K classes, h x w cells of a map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from tercet.data.store import BadImage
from tercet.deploy.formats import refuse_program
from tercet.deploy.loose import ImageLike, LoosePictures
from tercet.deploy.onnx_file import read_content, unseal
from tercet.ground.cores import available_cores
from tercet.ground.errors import ConfigError, DataError, MemoryExhausted, ModelError, require, starved
from tercet.ground.limits import require_threads
from tercet.records.label_sets import SetPredictions
from tercet.records.predictions import UNKNOWN, Predictions

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
_WAITING_BYTES = 256_000_000  # of decoded images that wait for others of their size

Probabilities = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Output:
    """What a file says of a batch."""

    probabilities: Probabilities
    """B K; rows sum to 1, but where sets of labels are told each label has a score of its own."""
    members: Probabilities
    """B M K, each member alone, uncalibrated."""
    chosen: NDArray[np.bool_] | None = None
    """B K, the labels of each image; only where sets are told."""
    maps: NDArray[np.float32] | None = None
    """B h w from 0 to 1, where the members saw the fused top class in what they were shown; only where exported."""


class ExportedModel:
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
    def load(cls, path: str | Path, *, threads: int | None = None, check: bool = True) -> ExportedModel:
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
        refuse_program(path)
        content = read_content(path)
        document = unseal(content, path)
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
            if starved(error):
                raise MemoryExhausted(f"no memory to load {path}, which asks for more than there is") from error
            raise unusable(path, error) from error
        _require_signature(session, document, path)
        model = cls(session, document, Path(path))
        if check:
            model.run(np.zeros((1, 8, 8, 3), dtype=np.uint8))
        return model

    @property
    def name(self) -> str:
        """Return the member's name, or the way the members are combined."""
        return str(self.metadata["name"])

    def run(self, images: NDArray[np.uint8]) -> Output:
        """Answer for images B H W 3 of one size.

        Raises:
            DataError: They have another shape or type.
            ModelError: The answer is not finite, or the model cannot answer.
            MemoryExhausted: There is no memory for so many pixels.
        """
        values = computed(lambda: self._session.run(self._outputs, {INPUT: images}), images, self.path)
        named = dict(zip(self._outputs, values, strict=True))
        output = Output(named["probabilities"], named["members"], named.get("chosen"), named.get("maps"))
        require_answer(output, len(images), len(self.member_names), len(self.classes), self.path)
        return output

    def predict(self, images: ImageLike | Sequence[ImageLike], *, batch_size: int = 32) -> Predictions | SetPredictions:
        """Classify images.

        Args:
            images: Paths, folders, arrays (H W, H W 1 or H W 3, uint8) or PIL images; one or many, of any sizes.
            batch_size: Images an answer; images of one size are answered together.

        Returns:
            Predictions whose ids are the paths, or numbers for images without one; of label sets where `sets` is true.

        Raises:
            DataError: An image cannot be read, or there is none.
        """
        return self.answer(LoosePictures(images), batch_size=batch_size)

    def answer(self, pictures: LoosePictures, *, batch_size: int = 32) -> Predictions | SetPredictions:
        """Classify pictures; those that cannot be read are left out where they say so (see `predict`).

        Raises:
            DataError: None can be read.
        """
        require([batch_size < 1 and f"batch_size {batch_size} must be positive"])
        found: dict[str, tuple[Any, Any]] = {}
        for names, batch in _batches(pictures, batch_size):
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
    ) -> Predictions | SetPredictions:
        """Wrap what `run` gave: probabilities, or scores with the chosen labels."""
        if chosen is None:
            return Predictions.of(values / values.sum(axis=1, keepdims=True), ids=ids, classes=self.classes)
        truth = np.full(values.shape, UNKNOWN, dtype=np.int8)
        return SetPredictions(tuple(ids), self.classes, values.clip(0.0, 1.0), chosen, truth)


def require_images(images: NDArray[np.uint8]) -> None:
    """Check what a file is asked about.

    Raises:
        DataError: It is not uint8 B H W 3 with at least one pixel.
    """
    shape = f"{images.dtype} array of shape {images.shape}" if isinstance(images, np.ndarray) else str(type(images))
    usable = isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.ndim == 4
    if not usable or images.shape[3] != 3 or not images.size:
        raise DataError(f"images are uint8 B H W 3 with at least one pixel, not a {shape}")


def require_answer(output: Output, count: int, num_members: int, num_classes: int, path: Path) -> None:
    """Check what a file answered for `count` images.

    Raises:
        ModelError: It has another shape than the file's description tells, or is not finite.
    """
    wanted = (count, num_classes), (count, num_members, num_classes)
    if (output.probabilities.shape, output.members.shape) != wanted:
        raise ModelError(
            f"{path} answered with shapes {output.probabilities.shape} and {output.members.shape} for "
            f"{count} image(s), {num_members} member(s) and {num_classes} classes: its description is wrong"
        )
    if output.chosen is not None and (output.chosen.shape != wanted[0] or output.chosen.dtype != np.bool_):
        raise ModelError(f"{path} chose labels as {output.chosen.dtype} {output.chosen.shape}, not bool {wanted[0]}")
    parts = (output.probabilities, output.members, *([] if output.maps is None else [output.maps]))
    if not all(np.isfinite(part).all() for part in parts):
        raise ModelError(f"{path} gave an answer that is not finite: its weights are damaged, export it again")


def as_colour(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return pixels H W 1 or H W 3 as H W 3."""
    return pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)


def _batches(pictures: LoosePictures, size: int) -> Iterator[tuple[list[str], NDArray[np.uint8]]]:
    """Yield names and images B H W 3 of one size; images wait for others of their size while there is room."""
    waiting: dict[tuple[int, ...], list[tuple[str, NDArray[np.uint8]]]] = {}
    held = 0
    for name, pixels in pictures.pictures():
        picture = as_colour(pixels)
        group = waiting.setdefault(picture.shape, [])
        group.append((name, picture))
        held += picture.nbytes
        full = [picture.shape] if len(group) == size else [*waiting] if held > _WAITING_BYTES else []
        for shape in full:
            group = waiting.pop(shape)
            held -= sum(one.nbytes for _, one in group)
            yield [name for name, _ in group], np.stack([one for _, one in group])
    for group in waiting.values():
        yield [name for name, _ in group], np.stack([one for _, one in group])


def _named(bad: Sequence[BadImage]) -> str:
    return ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")


def _count(told: Mapping[str, Any]) -> int | None:
    """Return the number of parameters that is told; None in files from before it was."""
    count = told.get("parameters")
    return count if isinstance(count, int) and not isinstance(count, bool) and count >= 0 else None


def computed(work: Callable[[], Any], images: NDArray[np.uint8], path: Path) -> Any:
    """Return what a runtime makes of images; its errors come in our words.

    Raises:
        DataError: The images have another shape or type.
        ModelError: The model cannot answer.
        MemoryExhausted: There is no memory for so many pixels.
    """
    require_images(images)
    try:
        return work()
    except Exception as error:  # every runtime has exceptions of its own
        if starved(error):
            raise MemoryExhausted(
                f"no memory to answer for images {images.shape}: give fewer or smaller ones"
            ) from error
        raise unusable(path, error) from error


def unusable(path: str | Path, error: Exception) -> ModelError:
    """Return what the user is told of a file that its runtime cannot load or run."""
    reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
    return ModelError(f"{path} cannot be used: {reason}; export the bundle again with this version")


def require_fields(document: Mapping[str, Any], path: str | Path) -> None:
    """Check the parts of a description that are relied on.

    Raises:
        ModelError: One is missing or of another kind.
    """
    classes, members = document.get("classes"), document.get("members")
    listed = members if isinstance(members, list) else []
    names = [member.get("name") if isinstance(member, dict) else None for member in listed]
    for what, values in (("classes", classes), ("members", names)):
        if not isinstance(values, list) or not values or not all(isinstance(name, str) for name in values):
            raise ModelError(f"{path} does not tell the names of its {what}: export the bundle again")
    if len(set(cast("list[str]", classes))) != len(cast("list[str]", classes)):
        raise ModelError(f"{path} tells a class twice: export the bundle again")
    if not isinstance(document.get("name"), str):
        raise ModelError(f"{path} does not tell its name: export the bundle again")


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
