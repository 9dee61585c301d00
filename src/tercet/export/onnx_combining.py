"""ONNX nodes of ensemble methods, calibration and multi-label decisions, as in `tercet.ensemble.combine`.

Votes and pruning select classes by logits: probabilities close to 1 or 0 may round to equal 32-bit values.

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
    """Add an ensemble method; return the combined probabilities B K.

    Args:
        graph: Graph to extend.
        logits: B M K.
        probabilities: Their softmax, B M K.
        combiner: The ensemble method; None for a single member.
        num_classes: K.
    """
    if isinstance(combiner, FoldMean):
        return _fold_mean(graph, logits, probabilities, combiner, num_classes)
    if isinstance(combiner, FusionHead):
        return _fusion_head(graph, probabilities, combiner)
    if combiner is None:
        return graph.add("Squeeze", probabilities, graph.integers(1))
    if combiner.weights is not None:
        weights = graph.constant(np.reshape(combiner.weights, (1, -1)))
        return graph.add("Squeeze", graph.add("MatMul", weights, probabilities), graph.integers(1))  # 1 M by B M K
    if combiner.method == "vote":
        return _vote(graph, logits, probabilities, combiner)
    if combiner.method == "pruned":
        return _pruned(graph, logits, probabilities, min(combiner.keep, num_classes))
    return _mean(graph, probabilities)


def _mean(graph: Graph, values: str) -> str:
    return graph.add("ReduceMean", values, graph.integers(1), keepdims=0)


def _top(graph: Graph, logits: str, count: int) -> str:
    """Return 1 for the `count` highest of each row B M K and 0 for the others; the lowest index wins a tie."""
    indices = graph.add("TopK", logits, graph.integers(count), outputs=2) + ".1"  # B M count
    classes = graph.add("Shape", logits, start=2, end=3)
    one_hot = graph.add("OneHot", indices, classes, graph.constant([0.0, 1.0]))  # B M count K
    return graph.add("ReduceSum", one_hot, graph.integers(2), keepdims=0)


def _vote(graph: Graph, logits: str, probabilities: str, combiner: Combiner) -> str:
    votes = _mean(graph, _top(graph, logits, 1))
    if combiner.ties == "lowest":
        return votes
    votes = graph.add("Mul", votes, graph.constant(1 - TIE_SHARE))
    return graph.add("Add", votes, graph.add("Mul", _mean(graph, probabilities), graph.constant(TIE_SHARE)))


def _pruned(graph: Graph, logits: str, probabilities: str, keep: int) -> str:
    pruned = graph.add("Mul", probabilities, _top(graph, logits, keep))
    mean = _mean(graph, pruned)
    return graph.add("Div", mean, graph.add("ReduceSum", mean, graph.integers(1)))


def _fusion_head(graph: Graph, probabilities: str, head: FusionHead) -> str:
    values = graph.add("Flatten", probabilities, axis=1)  # B (M K)
    for layer in head.layers:
        if isinstance(layer, nn.Linear):
            weights = [layer.weight, *([layer.bias] if layer.bias is not None else [])]
            names = [graph.constant(weight.detach().cpu().numpy()) for weight in weights]
            values = graph.add("Gemm", values, *names, transB=1)
        elif isinstance(layer, nn.LeakyReLU):
            values = graph.add("LeakyRelu", values, alpha=float(layer.negative_slope))
        else:  # active in training only
            assert isinstance(layer, nn.Dropout)
    return graph.add("Softmax", values, axis=1)


def _fold_mean(graph: Graph, logits: str, probabilities: str, folds: FoldMean, num_classes: int) -> str:
    outputs, first, axis = [], 0, graph.integers(1)
    for part in folds.parts:
        bounds = graph.integers(first), graph.integers(first + part.num_members)
        members = [graph.add("Slice", values, *bounds, axis) for values in (logits, probabilities)]
        combined = add_combiner(graph, members[0], members[1], part.combiner, num_classes=num_classes)
        outputs.append(graph.add("Unsqueeze", combined, axis))
        first += part.num_members
    return _mean(graph, graph.add("Concat", *outputs, axis=1))


def add_calibration(graph: Graph, probabilities: str, calibration: Calibration | None) -> str:
    """Add the temperature; return softmax(log p / T), B K."""
    if calibration is None or calibration.temperature == 1:
        return probabilities
    logits = graph.add("Log", graph.add("Max", probabilities, graph.constant(MIN_PROBABILITY)))
    return graph.add("Softmax", graph.add("Div", logits, graph.constant(calibration.temperature)), axis=1)


def add_decision(graph: Graph, scores: str, rule: MultilabelRule) -> tuple[str, str]:
    """Add the multi-label rule for scores B M K; return the combined scores and the predicted labels, B K each."""
    thresholds = graph.constant(np.reshape(rule.thresholds, (1, -1, 1)))
    labels = graph.add("Greater", scores, thresholds)  # B M K
    if rule.method == "single":
        axis = graph.integers(1)
        return graph.add("Squeeze", scores, axis), graph.add("Squeeze", labels, axis)
    combined = _mean(graph, graph.cast(labels, FLOAT) if rule.method == "vote" else scores)
    return combined, graph.add("Greater", combined, graph.constant(rule.threshold))
