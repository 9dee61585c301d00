"""From members' logits to the answer, inside the graph: what `evaluation.combining` does over arrays.

Whatever picks a class (a vote, pruning) picks by logits: probabilities far apart may round to the same 32 bits.

Shapes: B images, M members, K classes.
"""

from __future__ import annotations

import numpy as np
from torch import nn

from tercet.core.calibration import MIN_PROBABILITY, Calibration
from tercet.ensemble.combine import TIE_SHARE, Combiner
from tercet.ensemble.combiners import AnyCombiner, FoldMean
from tercet.ensemble.multilabel import MultilabelRule
from tercet.export.onnx_graph import FLOAT, Graph
from tercet.models.fusion_head import FusionHead


def add_combiner(
    graph: Graph, logits: str, probabilities: str, combiner: AnyCombiner | None, *, num_classes: int
) -> str:
    """Add a way to combine; return the fused probabilities B K.

    Args:
        graph: Where to.
        logits: B M K.
        probabilities: Their softmax, B M K.
        combiner: The way; None for a single member.
        num_classes: K.
    """
    if isinstance(combiner, FoldMean):
        return _mean_of_folds(graph, logits, probabilities, combiner, num_classes)
    if isinstance(combiner, FusionHead):
        return _head(graph, probabilities, combiner)
    if combiner is None:
        return graph.add("Squeeze", probabilities, graph.integers(1))
    if combiner.weights is not None:
        shares = graph.constant(np.reshape(combiner.weights, (1, -1)))
        return graph.add("Squeeze", graph.add("MatMul", shares, probabilities), graph.integers(1))  # 1 M by B M K
    if combiner.method == "vote":
        return _vote(graph, logits, probabilities, combiner)
    if combiner.method == "pruned":
        return _pruned(graph, logits, probabilities, min(combiner.keep, num_classes))
    return _mean(graph, probabilities)


def _mean(graph: Graph, values: str) -> str:
    return graph.add("ReduceMean", values, graph.integers(1), keepdims=0)


def _picked(graph: Graph, logits: str, count: int) -> str:
    """Return 1 for the `count` highest of each row B M K and 0 for the others; the lowest index wins a tie."""
    places = graph.add("TopK", logits, graph.integers(count), outputs=2) + ".1"  # B M count
    classes = graph.add("Shape", logits, start=2, end=3)
    marked = graph.add("OneHot", places, classes, graph.constant([0.0, 1.0]))  # B M count K
    return graph.add("ReduceSum", marked, graph.integers(2), keepdims=0)


def _vote(graph: Graph, logits: str, probabilities: str, combiner: Combiner) -> str:
    shares = _mean(graph, _picked(graph, logits, 1))
    if combiner.ties == "lowest":
        return shares
    large = graph.add("Mul", shares, graph.constant(1 - TIE_SHARE))
    return graph.add("Add", large, graph.add("Mul", _mean(graph, probabilities), graph.constant(TIE_SHARE)))


def _pruned(graph: Graph, logits: str, probabilities: str, keep: int) -> str:
    kept = graph.add("Mul", probabilities, _picked(graph, logits, keep))
    mean = _mean(graph, kept)
    return graph.add("Div", mean, graph.add("ReduceSum", mean, graph.integers(1)))


def _head(graph: Graph, probabilities: str, head: FusionHead) -> str:
    values = graph.add("Flatten", probabilities, axis=1)  # B (M K)
    for layer in head.layers:
        if isinstance(layer, nn.Linear):
            weights = [layer.weight, *([layer.bias] if layer.bias is not None else [])]
            names = [graph.constant(weight.detach().cpu().numpy()) for weight in weights]
            values = graph.add("Gemm", values, *names, transB=1)
        elif isinstance(layer, nn.LeakyReLU):
            values = graph.add("LeakyRelu", values, alpha=float(layer.negative_slope))
        else:  # dropout, which only training does
            assert isinstance(layer, nn.Dropout)
    return graph.add("Softmax", values, axis=1)


def _mean_of_folds(graph: Graph, logits: str, probabilities: str, folds: FoldMean, num_classes: int) -> str:
    said, first, axis = [], 0, graph.integers(1)
    for part in folds.parts:
        ends = graph.integers(first), graph.integers(first + part.num_members)
        own = [graph.add("Slice", values, *ends, axis) for values in (logits, probabilities)]
        answer = add_combiner(graph, own[0], own[1], part.combiner, num_classes=num_classes)
        said.append(graph.add("Unsqueeze", answer, axis))
        first += part.num_members
    return _mean(graph, graph.add("Concat", *said, axis=1))


def add_calibration(graph: Graph, probabilities: str, calibration: Calibration | None) -> str:
    """Add the temperature; return softmax(log p / T), B K."""
    if calibration is None or calibration.temperature == 1:
        return probabilities
    logits = graph.add("Log", graph.add("Max", probabilities, graph.constant(MIN_PROBABILITY)))
    return graph.add("Softmax", graph.add("Div", logits, graph.constant(calibration.temperature)), axis=1)


def add_decision(graph: Graph, scores: str, rule: MultilabelRule) -> tuple[str, str]:
    """Add how sets are chosen from scores B M K; return the fused scores and the chosen labels, B K each."""
    limits = graph.constant(np.reshape(rule.thresholds, (1, -1, 1)))
    own = graph.add("Greater", scores, limits)  # B M K
    if rule.method == "single":
        axis = graph.integers(1)
        return graph.add("Squeeze", scores, axis), graph.add("Squeeze", own, axis)
    fused = _mean(graph, graph.cast(own, FLOAT) if rule.method == "vote" else scores)
    return fused, graph.add("Greater", fused, graph.constant(rule.threshold))
