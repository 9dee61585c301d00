"""Export a bundle as one torch.export program."""

from __future__ import annotations

import copy
import re
from typing import cast

import torch
from torch import Tensor, nn

from tercet.core.calibration import MIN_PROBABILITY, Calibration
from tercet.core.errors import ModelError
from tercet.ensemble.bundle import Bundle
from tercet.ensemble.combine import TIE_SHARE, Combiner
from tercet.ensemble.combiners import AnyCombiner, FoldMean
from tercet.ensemble.multilabel import MultilabelRule
from tercet.export.torch_preprocessing import DynamicPreprocess, geometries
from tercet.export.tracing import TracingError, trace, tracing_problem, without_beam_search
from tercet.models.fusion_head import FusionHead
from tercet.models.tta import TTAModel

_EXAMPLE_SHAPE = (2, 13, 17, 3)  # no side is 1: torch.export would specialize it


class Combine(nn.Module):
    """The ensemble method of single-label members, as in `tercet.ensemble.combine`.

    Args:
        combiner: The ensemble method; None for a single member.
    """

    def __init__(self, combiner: AnyCombiner | None) -> None:
        super().__init__()
        self.rule = combiner if isinstance(combiner, Combiner) else None
        self.head = combiner if isinstance(combiner, FusionHead) else None
        folds = combiner.parts if isinstance(combiner, FoldMean) else ()
        self.sizes = [part.num_members for part in folds]
        self.folds = nn.ModuleList(Combine(part.combiner) for part in folds)

    def forward(self, logits: Tensor, probabilities: Tensor) -> Tensor:
        """Map logits B M K and their softmax to the combined probabilities B K."""
        if self.sizes:
            parts = (torch.split(values, self.sizes, 1) for values in (logits, probabilities))
            inputs = zip(self.folds, *parts, strict=True)
            return torch.stack([fold(*values) for fold, *values in inputs], 1).mean(1)
        if self.head is not None:
            return cast("Tensor", self.head(probabilities)).softmax(1)
        return probabilities[:, 0] if self.rule is None else _combine(self.rule, logits, probabilities)


def _combine(rule: Combiner, logits: Tensor, probabilities: Tensor) -> Tensor:
    if rule.weights is not None:
        weights = torch.tensor(rule.weights, dtype=torch.float32, device=logits.device)
        return (probabilities * weights.view(1, -1, 1)).sum(1)
    if rule.method == "vote":
        votes = _top(logits, 1).mean(1)
        if rule.ties == "lowest":
            return votes
        return (1 - TIE_SHARE) * votes + TIE_SHARE * probabilities.mean(1)
    if rule.method == "pruned":
        mean = (probabilities * _top(logits, min(rule.keep, logits.shape[2]))).mean(1)
        return mean / mean.sum(1, keepdim=True)
    return probabilities.mean(1)


def _top(logits: Tensor, count: int) -> Tensor:
    """Return 1 for the `count` highest of each row B M K and 0 for the others; the lowest index wins a tie."""
    indices = logits.sort(dim=2, descending=True, stable=True).indices[..., :count]
    return torch.zeros_like(logits).scatter(2, indices, 1.0)


def apply_calibration(probabilities: Tensor, calibration: Calibration | None) -> Tensor:
    """Return softmax(log p / T), B K."""
    if calibration is None or calibration.temperature == 1:
        return probabilities
    return (probabilities.clamp(min=MIN_PROBABILITY).log() / calibration.temperature).softmax(1)


def decide_labels(scores: Tensor, rule: MultilabelRule) -> tuple[Tensor, Tensor]:
    """Return the combined scores and the predicted labels, B K each, from the members' scores B M K."""
    thresholds = torch.tensor(rule.thresholds, dtype=torch.float32, device=scores.device)
    labels = scores > thresholds.view(1, -1, 1)
    if rule.method == "single":
        return scores[:, 0], labels[:, 0]
    combined = (labels.float() if rule.method == "vote" else scores).mean(1)
    return combined, combined > rule.threshold


class EnsembleModule(nn.Module):
    """A bundle as one module, from images to outputs.

    Args:
        bundle: Its weights are shared, not copied.
    """

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        member_geometries = geometries(bundle)
        distinct = list(dict.fromkeys(member_geometries))
        self.preprocess = nn.ModuleList(map(DynamicPreprocess, distinct))
        self.input_indices = [distinct.index(geometry) for geometry in member_geometries]
        self.networks = nn.ModuleList(
            TTAModel(without_beam_search(_frozen_copy(member.classifier)), member.views, member.classifier.spec)
            for member in bundle.members
        )
        self.sets, self.calibration = bundle.sets, bundle.calibration
        self.combine = _frozen_copy(Combine(bundle.combiner))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map uint8 images B H W 3 to `probabilities` B K, `members` B M K and, if multi-label, `chosen` B K."""
        inputs = [preprocess(images) for preprocess in self.preprocess]
        outputs = [
            network(inputs[index]).float() for network, index in zip(self.networks, self.input_indices, strict=True)
        ]
        logits = torch.stack(outputs, 1)
        if self.sets is not None:
            scores = logits.sigmoid()
            combined, labels = decide_labels(scores, self.sets)
            return {"probabilities": combined, "members": scores, "chosen": labels}
        probabilities = logits.softmax(2)
        combined = apply_calibration(self.combine(logits, probabilities), self.calibration)
        return {"probabilities": combined, "members": probabilities}


def _frozen_copy(module: nn.Module) -> nn.Module:
    """Return a copy on the CPU that shares the weights and does not require gradients."""
    shared: dict[int, object] = {}
    for parameter in module.parameters():
        shared[id(parameter)] = nn.Parameter(_compact(parameter), requires_grad=False)
    for buffer in module.buffers():
        shared[id(buffer)] = _compact(buffer)
    return copy.deepcopy(module, shared)


def _compact(values: Tensor) -> Tensor:
    """Return the values on the CPU in a storage of their own size: torch.export saves whole storages."""
    compact = values.detach().cpu().contiguous()
    return compact if compact.untyped_storage().nbytes() == compact.nbytes else compact.clone()


def assemble_program(bundle: Bundle) -> torch.export.ExportedProgram:
    """Return the program of a bundle; batch, height and width of the images are dynamic.

    Raises:
        ModelError: torch.export does not support a layer; the message names member and layer.
        MemoryExhausted: Out of memory.
    """
    network = EnsembleModule(bundle)
    images = torch.zeros(_EXAMPLE_SHAPE, dtype=torch.uint8)
    try:
        program = trace(network, images, dynamic={0: "batch", 1: "height", 2: "width"})
    except TracingError as error:
        raise _tracing_problem(bundle, network, error) from error
    for node in program.graph.nodes:  # source locations, with paths of this machine
        node.meta.pop("stack_trace", None)
    return program


def _tracing_problem(bundle: Bundle, network: EnsembleModule, error: TracingError) -> ModelError:
    """Return the error message, which names the member, and the layer if it is known."""
    match = re.match(r"networks\.(\d+)\.?(.*)", error.layer)
    if match is not None:
        return tracing_problem(bundle.members[int(match[1])], match[2], error, form="torch.export")
    for member, tta_model, spec in zip(bundle.members, network.networks, bundle.specs, strict=True):
        try:  # a specialized size is reported after tracing, when no layer runs: trace each member alone
            trace(tta_model, torch.rand(2, spec.channels, *spec.size), dynamic={0: "batch"})
        except TracingError as member_error:
            return tracing_problem(member, member_error.layer, member_error, form="torch.export")
    return ModelError(f"torch.export does not support the bundle ({error}): use --format onnx, or serve the bundle")
