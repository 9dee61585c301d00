"""A bundle as one PyTorch module, from which both formats are exported, and as a torch.export program.

Votes and pruning select classes by logits: probabilities close to 1 or 0 may round to equal 32-bit values.
Shapes: B images, M members, K classes.
"""

from __future__ import annotations

import copy
import re
from typing import cast

import torch
from torch import Tensor, nn

from tercet.core.calibration import MIN_PROBABILITY
from tercet.core.errors import ModelError
from tercet.ensemble.bundle import Bundle
from tercet.ensemble.combine import TIE_SHARE, Ties, WeightedOperation, ensemble_method
from tercet.ensemble.combiners import AnyCombiner, FoldMean
from tercet.export.torch_preprocessing import DynamicPreprocess, input_geometry
from tercet.export.tracing import TracingError, trace, tracing_problem, without_beam_search
from tercet.models.fusion_head import FusionHead
from tercet.models.tta import TTAModel

_EXAMPLE_SHAPE = (2, 13, 17, 3)  # no side is 1: torch.export would specialize it


class WeightedCombiner(nn.Module):
    """The operations of `tercet.ensemble.combine.combine_values`."""

    weights: Tensor | None

    def __init__(
        self,
        operation: WeightedOperation,
        weights: tuple[float, ...] | None = None,
        *,
        ties: Ties = "lowest",
        keep: int = 1,
    ) -> None:
        super().__init__()
        self.operation, self.ties, self.keep = operation, ties, keep
        self.register_buffer("weights", None if weights is None else torch.tensor(weights).view(1, -1, 1))

    def forward(self, logits: Tensor, values: Tensor, votes: Tensor | None = None) -> Tensor:
        """Map logits B M K, their probabilities or scores, and optional votes to combined values B K."""
        if self.operation == "mean":
            return self._mean(values)
        if self.operation == "vote":
            shares = self._mean(_top(logits, 1) if votes is None else votes)
            return shares if self.ties == "lowest" else (1 - TIE_SHARE) * shares + TIE_SHARE * self._mean(values)
        mean = self._mean(values * _top(logits, min(self.keep, logits.shape[2])))
        return mean / mean.sum(1, keepdim=True)

    def _mean(self, values: Tensor) -> Tensor:
        return values.mean(1) if self.weights is None else (values * self.weights).sum(1)


def _top(logits: Tensor, count: int) -> Tensor:
    """Return 1 for the `count` highest of each row B M K and 0 for the others; the lowest index wins a tie."""
    last = logits.topk(count, 2).values[..., -1:]
    higher, equal = logits > last, logits == last
    missing = count - higher.sum(2, keepdim=True)
    return (higher | (equal & (equal.cumsum(2) <= missing))).to(logits.dtype)


class ModuleCombiner(nn.Module):
    """A module from probabilities B M K to B K: a trained head, or a combiner of the caller's."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, logits: Tensor, probabilities: Tensor) -> Tensor:
        """Map the members' probabilities B M K to B K."""
        return cast("Tensor", self.module(probabilities))


class FoldMeanCombiner(nn.Module):
    """The mean over the folds of a cross-validation."""

    def __init__(self, folds: FoldMean) -> None:
        super().__init__()
        self.sizes = [part.num_members for part in folds.parts]
        self.folds = nn.ModuleList(combiner_module(part.combiner) for part in folds.parts)

    def forward(self, logits: Tensor, probabilities: Tensor) -> Tensor:
        """Map logits B M K of all folds and their softmax to B K."""
        parts = (torch.split(values, self.sizes, 1) for values in (logits, probabilities))
        return torch.stack([fold(*values) for fold, *values in zip(self.folds, *parts, strict=True)], 1).mean(1)


def combiner_module(combiner: AnyCombiner | None) -> nn.Module:
    """Return a combiner (None: that of a single member) as a module from logits and probabilities B M K to B K.

    Raises:
        ModelError: The combiner is a function without a PyTorch form.
    """
    if combiner is None:
        return WeightedCombiner("mean")
    if isinstance(combiner, FoldMean):
        return FoldMeanCombiner(combiner)
    if isinstance(combiner, FusionHead):
        return ModuleCombiner(nn.Sequential(combiner, nn.Softmax(1)))
    if (operation := combiner.weighted_operation) is not None:
        return WeightedCombiner(operation, combiner.weights, ties=combiner.ties, keep=combiner.keep)
    module = ensemble_method(combiner.method).module
    if module is None:
        raise ModelError(
            f"the ensemble method '{combiner.method}' cannot be exported: it is a NumPy function; register it with a "
            "PyTorch module, or as weights"
        )
    return ModuleCombiner(module())


class Outputs(nn.Module):
    """Activation, combiner, and calibration or label sets of a bundle."""

    thresholds: Tensor

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.rule = bundle.sets
        self.temperature = 1.0 if bundle.calibration is None else bundle.calibration.temperature
        if self.rule is None:
            self.combine = combiner_module(bundle.combiner)
        else:
            operation: WeightedOperation = "vote" if self.rule.operation == "vote" else "mean"
            self.combine = WeightedCombiner(operation, self.rule.weights)
            self.register_buffer("thresholds", torch.tensor(self.rule.thresholds).view(1, -1, 1))

    def forward(self, logits: Tensor) -> dict[str, Tensor]:
        """Map logits B M K to `probabilities` B K, `members` B M K and, if multi-label, `chosen` B K."""
        if self.rule is not None:
            scores = logits.sigmoid()
            votes = scores > self.thresholds
            combined = self.combine(logits, scores, votes.float())
            labels = votes[:, 0] if self.rule.operation is None else combined > self.rule.threshold
            return {"probabilities": combined, "members": scores, "chosen": labels}
        probabilities = logits.softmax(2)
        combined = self.combine(logits, probabilities)
        if self.temperature != 1:
            combined = (combined.clamp(min=MIN_PROBABILITY).log() / self.temperature).softmax(1)
        return {"probabilities": combined, "members": probabilities}


class EnsembleModule(nn.Module):
    """A bundle as one module, from images to outputs; shares the weights of the bundle."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        member_geometries = [input_geometry(spec) for spec in bundle.specs]
        distinct = list(dict.fromkeys(member_geometries))
        self.preprocess = nn.ModuleList(map(DynamicPreprocess, distinct))
        self.input_indices = [distinct.index(geometry) for geometry in member_geometries]
        self.networks = nn.ModuleList(
            TTAModel(without_beam_search(_frozen_copy(member.classifier)), member.views, member.classifier.spec)
            for member in bundle.members
        )
        self.outputs = _frozen_copy(Outputs(bundle))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map uint8 images B H W 3 to the outputs; see `Outputs`."""
        inputs = [preprocess(images) for preprocess in self.preprocess]
        logits = [
            network(inputs[index]).float() for network, index in zip(self.networks, self.input_indices, strict=True)
        ]
        outputs: dict[str, Tensor] = self.outputs(torch.stack(logits, 1))
        return outputs


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
