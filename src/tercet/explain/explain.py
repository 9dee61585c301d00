"""`tercet explain`: figures and numbers that explain the predictions of a bundle's members."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from tercet.core.errors import ConfigError, DataError, ModelError
from tercet.core.files import new_folder, slug, write_json
from tercet.core.multilabel import SEPARATOR, MultilabelPredictions
from tercet.core.output import count
from tercet.core.predictions import Predictions
from tercet.core.registry import did_you_mean
from tercet.core.resize import CropMode, visible_window
from tercet.core.runtime import choose_device
from tercet.data.inputs import ImageInputs, ImageLike
from tercet.data.loader import prepare
from tercet.ensemble.bundle import Bundle, load_bundle
from tercet.explain.attention_rollout import attention_rollout
from tercet.explain.grad_cam import activation_map, map_layout
from tercet.explain.hooks import UnsupportedExplanation, require_captum
from tercet.explain.layers import find_layers, member_indices
from tercet.explain.results import Explanations, ImageExplanation, MemberExplanation, top_classes
from tercet.explain.step_attribution import step_contributions
from tercet.models.classifier import Classifier
from tercet.models.forward import evaluation_mode

try:
    from tercet.explain import figures
    from tercet.explain.flow import draw_flow
except ImportError:  # matplotlib is an extra, which captum brings: `pip install tercet[explain]`
    figures = None  # type: ignore[assignment]

Result = TypeVar("Result")
_MAX_CLASSES_LISTED = 10


@dataclass(frozen=True)
class _Request:
    """Validated arguments of an explanation."""

    bundle: Bundle
    """The bundle, whose prediction chooses the class."""
    members: tuple[int, ...]
    """Indices of the members to explain."""
    layers: dict[int, str]
    """Layer of the class-activation map by index of the member, if one was named."""
    features: dict[int, list[str]]
    """Layers whose feature maps are drawn, by index of the member."""
    target: int | None
    """Index of the class, if one was named."""
    device: str
    """Where to compute."""
    flow: bool = False
    """Whether to draw the flow chart of these layers."""


def explain_images(
    bundle: str | Path | Bundle,
    images: ImageLike | Sequence[ImageLike] = (),
    *,
    output: str | None = None,
    layer: str | None = None,
    filters: bool = False,
    features: Sequence[str] = (),
    member: str | None = None,
    class_name: str | None = None,
    device: str = "auto",
) -> Explanations:
    """Explain a bundle's predictions; write figures (PNG and SVG) and `explain.json` to a folder.

    Every member is explained at its own input size and preprocessing, without test-time augmentation, for one class:
    the most probable of the whole bundle, or the one that is named.

    Args:
        bundle: Folder of a bundle or run, or a loaded bundle.
        images: Paths, folders, uint8 arrays or PIL images; one or many. May be empty if only filters are drawn.
        output: Folder, new or empty; None: explanations, or the next free name with a number.
        layer: Layer of the class-activation map by its dotted name; None: the last one whose map is fine enough.
        filters: Draw the filters of the first convolution, and of the convolutions in `features`; for each image,
            also the flow chart of filters and feature maps through the layers in `features`.
        features: Layers whose feature maps are drawn.
        member: Explain this member only.
        class_name: The class to explain.
        device: auto, cpu, cuda, cuda:N or mps.

    Raises:
        ConfigError: No such member, class or layer, a layer without a map, or a library is not installed.
        DataError: There are no images, or none can be read.
        ModelError: The bundle is invalid, or no explanation method applies.
        StorageError: The folder is not empty or not writable.
    """
    if figures is None:
        raise ConfigError("tercet explain needs matplotlib, which is not installed: pip install 'tercet[explain]'")
    require_captum()
    loaded = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
    request = replace(_resolve(loaded, layer, features, member, class_name, choose_device(device)), flow=filters)
    no_images = isinstance(images, (list, tuple)) and not images
    if no_images and not filters:
        raise DataError("there are no images to explain: name images, or use --filters or --layers")
    source = None if no_images else ImageInputs(images, skip_bad=True, decoding=loaded.decoding)
    with _output_folder(output) as folder, _on_device(request):
        files = [file for index in request.members for file in _draw_filters(request, index, folder)] if filters else []
        explained = [] if source is None else list(_explain_each(request, source, folder))
        bad = () if source is None else tuple(source.bad)
        skipped = () if source is None else tuple(source.skipped)
        if source is not None and not explained:
            reasons = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
            raise DataError(f"none of the {count(len(bad), 'image')} can be read: {reasons}")
    notes = _notes(request, no_filters=filters and not files)
    explanations = Explanations(loaded.name, tuple(explained), bad, folder, tuple(files), notes, skipped)
    write_json(folder / "explain.json", explanations.to_dict())
    return explanations


def _resolve(
    bundle: Bundle, layer: str | None, features: Sequence[str], member: str | None, target: str | None, device: str
) -> _Request:
    members = member_indices(bundle, member)
    if target is not None and target not in bundle.classes:
        more = "" if len(bundle.classes) <= _MAX_CLASSES_LISTED else f", ... {len(bundle.classes):,} in all"
        classes = f"(classes: {', '.join(bundle.classes[:_MAX_CLASSES_LISTED])}{more})"
        raise ConfigError(f"the bundle has no class '{target}'{did_you_mean(target, bundle.classes)} {classes}")
    layers = {} if layer is None else _find(bundle, members, layer)
    feature_layers: dict[int, list[str]] = {}
    for name in features:
        for index, full in _find(bundle, members, name).items():
            if full not in feature_layers.setdefault(index, []):  # a layer has two names, the short and the full one
                feature_layers[index].append(full)
    for index, full in [*layers.items(), *((index, full) for index, names in feature_layers.items() for full in names)]:
        _require_map(bundle.members[index].classifier, full)
    class_index = None if target is None else bundle.classes.index(target)
    return _Request(bundle, members, layers, feature_layers, class_index, device)


def _find(bundle: Bundle, members: Sequence[int], layer: str) -> dict[int, str]:
    """Return the full name of a layer by index of each member that has it; at least one must."""
    matches = find_layers([bundle.members[index].classifier for index in members], layer)
    return {members[number]: full for number, full in matches.items()}


def _require_map(classifier: Classifier, layer: str) -> None:
    """Raise ConfigError for a layer without a map, before anything is written."""
    blank = torch.zeros(1, classifier.spec.channels, *classifier.spec.size)
    map_layout(classifier, blank.to(next(classifier.parameters()).device), layer)


@contextmanager
def _output_folder(output: str | None) -> Iterator[Path]:
    """Create the output folder; remove it after an error if it is still empty."""
    path = Path(output or "explanations")
    number = 2
    while output is None and os.path.lexists(path):
        path, number = Path(f"explanations-{number}"), number + 1
    existed = path.exists()
    folder = new_folder(path, resumes=False)
    try:
        yield folder
    except BaseException:
        if not existed:
            with suppress(OSError):  # not empty: it holds the figures drawn before the error
                folder.rmdir()
        raise


@contextmanager
def _on_device(request: _Request) -> Iterator[None]:
    """Move all members to the device, in evaluation mode."""
    with ExitStack() as stack:
        for member in request.bundle.members:
            stack.enter_context(evaluation_mode(member.classifier, request.device))
        yield


def _explain_each(request: _Request, source: ImageInputs, folder: Path) -> Iterator[ImageExplanation]:
    bundle = request.bundle
    for number, (name, pixels) in enumerate(source.pixels(), 1):
        combined, predictions = _predict(bundle, pixels, request.device)
        target = int(np.argmax(combined.shares)) if request.target is None else request.target
        explanation = ImageExplanation(
            name,
            pixels.shape[:2],
            bundle.classes[target],
            combined.predicted,
            top_classes(bundle.classes, combined.shares),
            tuple(_explain_member(request, index, pixels, target, predictions[index]) for index in request.members),
        )
        _require_any(request, explanation)
        stem = f"{number}-{slug(Path(name).stem)}"
        files = [*figures.draw_explanation(explanation, pixels, folder, stem, sets=bundle.sets is not None)]
        for index in request.members:
            for layer in request.features.get(index, ()):
                image = _input(request, index, pixels)
                files += figures.draw_features(bundle.members[index], image, layer, folder, stem)
            if request.flow and (layers := request.features.get(index)):
                files += draw_flow(bundle.members[index], _input(request, index, pixels), layers, folder, stem)
        yield replace(explanation, files=tuple(files))


@dataclass(frozen=True)
class _Prediction:
    """Prediction of the bundle or of a member for one image."""

    shares: NDArray[np.float64]
    """K probabilities or scores."""
    predicted: str
    """The class, or the labels."""


def _predict(bundle: Bundle, pixels: NDArray[np.uint8], device: str) -> tuple[_Prediction, list[_Prediction]]:
    """Return the combined prediction and the members', as the bundle predicts: with its test-time augmentation."""
    combined, members = bundle.predict_with_members(ImageInputs(pixels), device=device)
    predictions = [_prediction(output) for output in (combined, *members)]
    return predictions[0], predictions[1:]


def _prediction(output: Predictions | MultilabelPredictions) -> _Prediction:
    names = output.predicted_names[0]
    return _Prediction(output.values[0], names if isinstance(names, str) else SEPARATOR.join(names) or "no label")


def _input(request: _Request, index: int, pixels: NDArray[np.uint8]) -> Any:
    """Return the image as the member reads it, 1 C H W."""
    return prepare(pixels, request.bundle.members[index].classifier.spec)[None].to(request.device)


def _explain_member(
    request: _Request, index: int, pixels: NDArray[np.uint8], target: int, prediction: _Prediction
) -> MemberExplanation:
    member = request.bundle.members[index]
    classifier, spec, image = member.classifier, member.classifier.spec, _input(request, index, pixels)
    crop_mode: CropMode = spec.crop_mode  # type: ignore[assignment]  # InputSpec has checked the word
    window = visible_window((pixels.shape[0], pixels.shape[1]), spec.size, crop_mode=crop_mode, crop_pct=spec.crop_pct)
    reasons: list[str] = []

    def attempt(method: Callable[[], Result]) -> Result | None:
        try:
            return method()
        except UnsupportedExplanation as reason:
            reasons.append(str(reason))
            return None

    return MemberExplanation(
        member.name,
        prediction.predicted,
        float(prediction.shares[target]),
        window,
        attempt(lambda: activation_map(classifier, image, target, layer=request.layers.get(index))),
        attempt(lambda: attention_rollout(classifier, image)),
        attempt(lambda: step_contributions(classifier, image, target)),
        tuple(reasons),
    )


def _require_any(request: _Request, explanation: ImageExplanation) -> None:
    """Raise ModelError if no member has a map and no feature maps were requested."""
    if any(member.cells is not None for member in explanation.members) or request.features:
        return
    reasons = "; ".join(f"{member.name}: {reason}" for member in explanation.members for reason in member.reasons[:1])
    raise ModelError(f"no explanation method applies ({reasons}): use --features NAME or --filters")


def _draw_filters(request: _Request, index: int, folder: Path) -> list[str]:
    return figures.draw_filters(request.bundle.members[index], request.features.get(index, ()), folder)


def _notes(request: _Request, *, no_filters: bool) -> tuple[str, ...]:
    notes = []
    if any(not request.bundle.members[index].views.plain for index in request.members):
        notes.append("predictions use test-time augmentation; maps are of the plain image")
    if no_filters:
        notes.append("no filters to draw: none of the explained members has a convolution that reads the image")
    return tuple(notes)
