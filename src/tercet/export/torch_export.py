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
from tercet.export.onnx_members import TracingError, trace, tracing_problem, without_beam_search
from tercet.export.onnx_preprocessing import geometries
from tercet.export.torch_preprocessing import Preprocess
from tercet.models.fusion_head import FusionHead
from tercet.models.tta import TTAModel


class Combine(nn.Module):
    """A way to combine members that tell one class an image.

    Args:
        combiner: The way; None for a single member.
    """

    def __init__(self, combiner: AnyCombiner | None) -> None:
        super().__init__()
        self.rule = combiner if isinstance(combiner, Combiner) else None
        self.head = combiner if isinstance(combiner, FusionHead) else None
        folds = combiner.parts if isinstance(combiner, FoldMean) else ()
        self.sizes = [part.num_members for part in folds]
        self.folds = nn.ModuleList(Combine(part.combiner) for part in folds)

    def forward(self, logits: Tensor, probabilities: Tensor) -> Tensor:
        """Map logits B M K and their softmax to the fused probabilities B K."""
        if self.sizes:
            parts = (torch.split(values, self.sizes, 1) for values in (logits, probabilities))
            own = zip(self.folds, *parts, strict=True)
            return torch.stack([fold(*values) for fold, *values in own], 1).mean(1)
        if self.head is not None:
            return cast("Tensor", self.head(probabilities)).softmax(1)
        return probabilities[:, 0] if self.rule is None else _combined(self.rule, logits, probabilities)


def _combined(rule: Combiner, logits: Tensor, probabilities: Tensor) -> Tensor:
    if rule.weights is not None:
        shares = torch.tensor(rule.weights, dtype=torch.float32, device=logits.device)
        return (probabilities * shares.view(1, -1, 1)).sum(1)
    if rule.method == "vote":
        shares = _picked(logits, 1).mean(1)
        if rule.ties == "lowest":
            return shares
        return (1 - TIE_SHARE) * shares + TIE_SHARE * probabilities.mean(1)
    if rule.method == "pruned":
        mean = (probabilities * _picked(logits, min(rule.keep, logits.shape[2]))).mean(1)
        return mean / mean.sum(1, keepdim=True)
    return probabilities.mean(1)


def _picked(logits: Tensor, count: int) -> Tensor:
    """Return 1 for the `count` highest of each row B M K and 0 for the others; the lowest index wins a tie."""
    places = logits.sort(dim=2, descending=True, stable=True).indices[..., :count]
    return torch.zeros_like(logits).scatter(2, places, 1.0)


def apply_calibration(probabilities: Tensor, calibration: Calibration | None) -> Tensor:
    """Return softmax(log p / T), B K."""
    if calibration is None or calibration.temperature == 1:
        return probabilities
    return (probabilities.clamp(min=MIN_PROBABILITY).log() / calibration.temperature).softmax(1)


def chosen_sets(scores: Tensor, rule: MultilabelRule) -> tuple[Tensor, Tensor]:
    """Return the fused scores and the chosen labels, B K each, of members' scores B M K."""
    limits = torch.tensor(rule.thresholds, dtype=torch.float32, device=scores.device)
    own = scores > limits.view(1, -1, 1)
    if rule.method == "single":
        return scores[:, 0], own[:, 0]
    fused = (own.float() if rule.method == "vote" else scores).mean(1)
    return fused, fused > rule.threshold


_SHOWN = (2, 13, 17, 3)  # of the images that are traced; no side is 1, which stands for itself alone


class EnsembleModule(nn.Module):
    """Everything between images and answers.

    Args:
        bundle: What is exported; its numbers are shared, not copied.
    """

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        wanted = geometries(bundle)
        distinct = list(dict.fromkeys(wanted))
        self.prepared = nn.ModuleList(map(Preprocess, distinct))
        self.places = [distinct.index(geometry) for geometry in wanted]
        self.networks = nn.ModuleList(
            TTAModel(without_beam_search(_fixed(one.classifier)), one.views, one.classifier.spec)
            for one in bundle.members
        )
        self.sets, self.calibration = bundle.sets, bundle.calibration
        self.fusing = _fixed(Combine(bundle.combiner))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map bytes B H W 3 to `probabilities` B K, `members` B M K and, where sets are told, `chosen` B K."""
        shown = [preparation(images) for preparation in self.prepared]
        said = [network(shown[place]).float() for network, place in zip(self.networks, self.places, strict=True)]
        logits = torch.stack(said, 1)
        if self.sets is not None:
            scores = logits.sigmoid()
            fused, chosen = chosen_sets(scores, self.sets)
            return {"probabilities": fused, "members": scores, "chosen": chosen}
        probabilities = logits.softmax(2)
        fused = apply_calibration(self.fusing(logits, probabilities), self.calibration)
        return {"probabilities": fused, "members": probabilities}


def _fixed(module: nn.Module) -> nn.Module:
    """Return a copy on the processor that shares the numbers and asks for no gradients."""
    known: dict[int, object] = {}
    for parameter in module.parameters():
        known[id(parameter)] = nn.Parameter(_whole(parameter), requires_grad=False)
    for buffer in module.buffers():
        known[id(buffer)] = _whole(buffer)
    return copy.deepcopy(module, known)


def _whole(values: Tensor) -> Tensor:
    """Return the values on the processor as all there is of their storage: an archive keeps whole storages."""
    own = values.detach().cpu().contiguous()
    return own if own.untyped_storage().nbytes() == own.nbytes else own.clone()


def assemble_program(bundle: Bundle) -> torch.export.ExportedProgram:
    """Return the program of a bundle; batch, height and width of the images stay free.

    Raises:
        ModelError: A member has a layer that a program cannot hold; it and the layer are named.
        MemoryExhausted: There is no memory.
    """
    network = EnsembleModule(bundle)
    images = torch.zeros(_SHOWN, dtype=torch.uint8)
    try:
        program = trace(network, images, free={0: "batch", 1: "height", 2: "width"})
    except TracingError as error:
        raise _refused(bundle, network, error) from error
    for node in program.graph.nodes:  # where in this machine's files each line came from
        node.meta.pop("stack_trace", None)
    return program


def _refused(bundle: Bundle, network: EnsembleModule, error: TracingError) -> ModelError:
    """Return what the user is told: which member it is, and which layer if that is known."""
    found = re.match(r"networks\.(\d+)\.?(.*)", error.layer)
    if found is not None:
        return tracing_problem(bundle.members[int(found[1])], found[2], error, form="torch.export")
    for member, alone, spec in zip(bundle.members, network.networks, bundle.specs, strict=True):
        try:  # a size that is fixed shows at the end only, when no layer is being computed
            trace(alone, torch.rand(2, spec.channels, *spec.size), free={0: "batch"})
        except TracingError as own:
            return tracing_problem(member, own.layer, own, form="torch.export")
    return ModelError(f"the bundle cannot be exported with torch.export ({error}): export --format onnx, or serve it")
