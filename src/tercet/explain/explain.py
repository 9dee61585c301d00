"""What a bundle's networks saw in images: class-activation maps, roll-out, contributions of steps, filters."""

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
from tercet.core.registry import did_you_mean
from tercet.core.resize import CropMode, visible_window
from tercet.core.runtime import choose_device
from tercet.data.input_batches import InputBatches
from tercet.data.inputs import ImageLike
from tercet.data.loader import prepare
from tercet.ensemble.bundle import Bundle, load_bundle
from tercet.explain.attention_rollout import attention_rollout
from tercet.explain.grad_cam import activation_map, map_layout
from tercet.explain.hooks import UnsupportedExplanation, require_captum
from tercet.explain.layers import explanation_layers, find_layers
from tercet.explain.results import Explanations, ImageExplanation, MemberExplanation, best_of
from tercet.explain.step_attribution import step_contributions
from tercet.models.classifier import Classifier
from tercet.models.forward import evaluation_mode

try:
    from tercet.explain import figures
except ImportError:  # matplotlib is an extra, which captum brings: `pip install tercet[explain]`
    figures = None  # type: ignore[assignment]

Found = TypeVar("Found")
_LISTED = 10


@dataclass(frozen=True)
class _Asked:
    """What is to be explained, after all names were found."""

    bundle: Bundle
    """The whole bundle, which answers."""
    members: tuple[int, ...]
    """Places of the members that are explained."""
    layers: dict[int, str]
    """By member: the layer of the class-activation map, where one was named."""
    features: dict[int, list[str]]
    """By member: layers whose feature maps are drawn."""
    target: int | None
    """The class, where one was named."""
    device: str
    """Where to compute."""


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
    """Show what a bundle's networks saw in images; leaves PNG and SVG files and `explain.json` in a folder.

    Every member is explained at its own size and preprocessing, without test-time augmentation, for one class: the most
    probable of the whole bundle unless another is named.

    Args:
        bundle: A bundle's folder, a run's folder, or a loaded bundle.
        images: Paths, folders, uint8 arrays or PIL images; one or many. None are needed where only filters are drawn.
        output: Folder, which must be new or empty; None: explanations, or the next free one with a number.
        layer: Layer of the class-activation map, by its dotted name; None: the last whose map is fine enough.
        filters: Draw the filters of the first convolution, and of the convolutions that `features` names.
        features: Layers whose feature maps are drawn.
        member: Explain this member only.
        class_name: The class to explain.
        device: auto, cpu, cuda, cuda:N or mps.

    Raises:
        ConfigError: No such member, class or layer, a layer without a map, or captum is not installed.
        DataError: There is no image, or none can be read.
        ModelError: It is no bundle, or nothing of what it saw can be drawn.
        StorageError: The folder is not empty or cannot be written.
    """
    if figures is None:
        raise ConfigError("tercet explain needs matplotlib, which is not installed: pip install 'tercet[explain]'")
    require_captum()
    loaded = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
    asked = _resolve(loaded, layer, features, member, class_name, choose_device(device))
    empty = isinstance(images, (list, tuple)) and not images
    if empty and not filters:
        raise DataError("there are no images to explain: name some, or ask for --filters or --layers")
    source = None if empty else InputBatches(images, loaded.specs, batch_size=1, skip_bad=True)
    with _output(output) as folder, _together(asked):
        files = [file for place in asked.members for file in _draw_filters(asked, place, folder)] if filters else []
        found = [] if source is None else list(_explained(asked, source, folder))
        bad = () if source is None else tuple(source.bad)
        if source is not None and not found:
            named = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
            raise DataError(f"none of the {len(bad)} image(s) can be read: {named}")
    explanations = Explanations(
        loaded.name, tuple(found), bad, folder, tuple(files), _notes(asked, found, filters, files)
    )
    write_json(folder / "explain.json", explanations.to_dict())
    return explanations


# ------------------------------------------------------------------------------------------------ what was asked


def _resolve(
    bundle: Bundle, layer: str | None, features: Sequence[str], member: str | None, target: str | None, device: str
) -> _Asked:
    places = explanation_layers(bundle, member)
    if target is not None and target not in bundle.classes:
        more = "" if len(bundle.classes) <= _LISTED else f", ... {len(bundle.classes):,} in all"
        known = f"(classes: {', '.join(bundle.classes[:_LISTED])}{more})"
        raise ConfigError(f"the bundle knows no class '{target}'{did_you_mean(target, bundle.classes)} {known}")
    layers = {} if layer is None else _where(bundle, places, layer)
    found: dict[int, list[str]] = {}
    for name in features:
        for place, full in _where(bundle, places, name).items():
            if full not in found.setdefault(place, []):  # a layer has two names, the short and the full one
                found[place].append(full)
    for one, full in [*layers.items(), *((one, full) for one, names in found.items() for full in names)]:
        _require_map(bundle.members[one].classifier, full)
    return _Asked(bundle, places, layers, found, None if target is None else bundle.classes.index(target), device)


def _where(bundle: Bundle, places: Sequence[int], layer: str) -> dict[int, str]:
    """Return the members that have a layer, with its full name; at least one must."""
    found = find_layers([bundle.members[place].classifier for place in places], layer)
    return {places[number]: full for number, full in found.items()}


def _require_map(classifier: Classifier, layer: str) -> None:
    """Refuse a layer without a map before anything is written."""
    blank = torch.zeros(1, classifier.spec.channels, *classifier.spec.size)
    map_layout(classifier, blank.to(next(classifier.parameters()).device), layer)


@contextmanager
def _output(output: str | None) -> Iterator[Path]:
    """Within the block there is a folder to write into; of work that failed no empty one stays."""
    path = Path(output or "explanations")
    number = 2
    while output is None and os.path.lexists(path):
        path, number = Path(f"explanations-{number}"), number + 1
    was_there = path.exists()
    folder = new_folder(path, resumes=False)
    try:
        yield folder
    except BaseException:
        if not was_there:
            with suppress(OSError):  # it holds what was drawn before
                folder.rmdir()
        raise


@contextmanager
def _together(asked: _Asked) -> Iterator[None]:
    """Within the block all members are on the device in evaluation mode."""
    with ExitStack() as stack:
        for one in asked.bundle.members:
            stack.enter_context(evaluation_mode(one.classifier, asked.device))
        yield


# ------------------------------------------------------------------------------------------------ what was found


def _explained(asked: _Asked, source: InputBatches, folder: Path) -> Iterator[ImageExplanation]:
    for number, (name, pixels) in enumerate(source.pixels(), 1):
        fused, each = _answers(asked.bundle, pixels, asked.device)
        target = int(np.argmax(fused.shares)) if asked.target is None else asked.target
        saw = [_saw(asked, place, pixels, target, each[place]) for place in asked.members]
        found = ImageExplanation(
            name,
            pixels.shape[:2],
            asked.bundle.classes[target],
            fused.predicted,
            best_of(asked.bundle.classes, fused.shares),
            tuple(saw),
        )
        _require_something(asked, found)
        stem = f"{number}-{slug(Path(name).stem)}"
        files = [*figures.draw_explanation(found, pixels, folder, stem, sets=asked.bundle.sets is not None)]
        for place in asked.members:
            for layer in asked.features.get(place, ()):
                files += figures.draw_features(
                    asked.bundle.members[place], _image(asked, place, pixels), layer, folder, stem
                )
        yield replace(found, files=tuple(files))


@dataclass(frozen=True)
class _Answer:
    """What the bundle or a member says of one image."""

    shares: NDArray[np.float64]
    """K probabilities or scores."""
    predicted: str
    """The class, or the labels."""


def _answers(bundle: Bundle, pixels: NDArray[np.uint8], device: str) -> tuple[_Answer, list[_Answer]]:
    """Return the fused answer and the members', as the bundle predicts: with its test-time augmentation."""
    if bundle.sets is None:
        members = bundle.predict_members(pixels, device=device)
        said = [_Answer(one.probabilities[0], one.predicted_names[0]) for one in (bundle.combine(members), *members)]
    else:
        sets = bundle.predict_member_labels(InputBatches(pixels, bundle.specs, batch_size=1), device=device)
        said = [_set_answer(one) for one in (bundle.sets.combine(sets), *sets)]
    return said[0], said[1:]


def _set_answer(said: MultilabelPredictions) -> _Answer:
    return _Answer(said.scores[0], SEPARATOR.join(said.predicted_names[0]) or "no label")


def _image(asked: _Asked, place: int, pixels: NDArray[np.uint8]) -> Any:
    return prepare(pixels, asked.bundle.members[place].classifier.spec)[None].to(asked.device)


def _saw(asked: _Asked, place: int, pixels: NDArray[np.uint8], target: int, answer: _Answer) -> MemberExplanation:
    one = asked.bundle.members[place]
    spec, image = one.classifier.spec, _image(asked, place, pixels)
    crop_mode: CropMode = spec.crop_mode  # type: ignore[assignment]  # InputSpec has checked the word
    window = visible_window((pixels.shape[0], pixels.shape[1]), spec.size, crop_mode=crop_mode, crop_pct=spec.crop_pct)
    reasons: list[str] = []

    def offered(way: Callable[[], Found]) -> Found | None:
        try:
            return way()
        except UnsupportedExplanation as reason:
            reasons.append(str(reason))
            return None

    return MemberExplanation(
        one.name,
        answer.predicted,
        float(answer.shares[target]),
        window,
        offered(lambda: activation_map(one.classifier, image, target, layer=asked.layers.get(place))),
        offered(lambda: attention_rollout(one.classifier, image)),
        offered(lambda: step_contributions(one.classifier, image, target)),
        tuple(reasons),
    )


def _require_something(asked: _Asked, found: ImageExplanation) -> None:
    """Refuse to leave figures without a map, unless feature maps were asked for."""
    if any(saw.cells is not None for saw in found.members) or asked.features:
        return
    reasons = "; ".join(f"{saw.name}: {reason}" for saw in found.members for reason in saw.reasons[:1])
    raise ModelError(f"no explanation can be drawn ({reasons}): --features NAME and --filters draw what there is")


def _draw_filters(asked: _Asked, place: int, folder: Path) -> list[str]:
    return figures.draw_filters(asked.bundle.members[place], asked.features.get(place, ()), folder)


def _notes(asked: _Asked, found: Sequence[ImageExplanation], filters: bool, files: Sequence[str]) -> tuple[str, ...]:
    notes = []
    if any(not asked.bundle.members[place].views.plain for place in asked.members):
        notes.append("answers are with test-time augmentation, maps of the plain picture")
    if filters and not files:
        notes.append("no member explained has a convolution that reads the image: there are no filters to draw")
    return tuple(notes)
