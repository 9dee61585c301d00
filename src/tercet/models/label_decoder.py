"""CNN-RNN for multi-label images: labels are predicted as a sequence (Wang et al., CVPR 2016, arXiv:1604.04573).

An LSTM takes the embeddings of the labels so far. Its output o(t) and the image features I are projected to the space
of the embeddings, x(t) = relu(U_o o(t) + U_I I), and the logits of the next label are the products of x(t) with all
embeddings, U_l' x(t) (equations 1 to 4). The softmax runs over END and the labels that are not in the sequence yet, so
that no label occurs twice and the probabilities of all sequences sum to 1.

Shapes: B images, D features, K labels (END is K, START is K + 1), T labels in a sequence, W beam size, H hidden size,
E embedding dimension.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tercet.config.model import LabelsConfig
from tercet.models.classifier import Classifier
from tercet.models.layers import dense_layer

TOKEN_EDGE = 1e-6
"""Distance of scores from 0 and 1, so that their logits are finite."""


class Decoded(NamedTuple):
    """The most probable label sequence of each image that a search found."""

    chosen: Tensor
    """B K, whether each label is in the sequence."""
    peaks: Tensor
    """B K, the highest probability of each label over the steps of the sequence."""
    log_probability: Tensor
    """B, log probability of the sequence."""


class LabelDecoder(nn.Module):
    """Autoregressive label decoder; stops at the END token.

    Args:
        num_features: D.
        num_classes: K.
        config: Embedding width E, hidden size H, and beam size W.
    """

    def __init__(self, num_features: int, num_classes: int, config: LabelsConfig) -> None:
        super().__init__()
        self.num_classes, self.beam_size = num_classes, config.beam_size
        self.embedding = nn.Embedding(num_classes + 2, config.embedding_dim)
        nn.init.normal_(self.embedding.weight, std=config.embedding_dim**-0.5)  # keeps initial logits small
        self.lstm = nn.LSTM(config.embedding_dim, config.hidden_size, batch_first=True)
        self.from_state = dense_layer(config.hidden_size, config.embedding_dim, bias=False)
        self.from_image = dense_layer(num_features, config.embedding_dim)

    def forward(self, features: Tensor, sequence: Tensor | None = None) -> Tensor:
        """Predict the labels, or score a given sequence (teacher forcing).

        Args:
            features: B D.
            sequence: B T, the true labels, padded with END; None for beam search.

        Returns:
            Without a sequence, logits B K that are positive for the labels of the most probable sequence. The sigmoid
            of a logit is (1 + p) / 2 for a label in the sequence and p / 2 for others, where p is the label's highest
            probability over the steps. With a sequence, logits of the next label after each prefix, B T+1 K+1; minus
            infinity for labels in the prefix.
        """
        if sequence is not None:
            return self._teacher_forcing(features, sequence)
        decoded = self.search(features, beam_size=self.beam_size)
        scores = 0.5 * (decoded.peaks + decoded.chosen.to(decoded.peaks.dtype))
        return torch.logit(scores.clamp(TOKEN_EDGE, 1 - TOKEN_EDGE))

    def _teacher_forcing(self, features: Tensor, sequence: Tensor) -> Tensor:
        start = sequence.new_full((len(sequence), 1), self.num_classes + 1)
        states, _ = self.lstm(self.embedding(torch.cat([start, sequence], dim=1)))  # B T+1 H
        logits = self._label_logits(states, self.from_image(features).unsqueeze(1))  # B T+1 K+1
        seen = nn.functional.one_hot(sequence, self.num_classes + 1)[..., :-1].cumsum(dim=1) > 0  # B T K
        seen = torch.cat([torch.zeros_like(logits[:, :1, :-1], dtype=torch.bool), seen], dim=1)  # B T+1 K
        return _mask_labels(logits, seen)

    def _label_logits(self, states: Tensor, image: Tensor) -> Tensor:
        """Return the products of x(t) with the embeddings of all labels and END, ... K+1."""
        joint = torch.relu(self.from_state(states) + image)
        return joint @ self.embedding.weight[: self.num_classes + 1].t()

    def search(self, features: Tensor, *, beam_size: int) -> Decoded:
        """Find the most probable sequence by beam search.

        Each step keeps the `beam_size` most probable continuations. Sequences that reach END leave the beam; the search
        stops when none in the beam is more probable than the best complete one. A beam size of 1 is greedy search, and
        one of the number of all sequences is exhaustive.

        Args:
            features: B D.
            beam_size: W.
        """
        count, labels = len(features), self.num_classes
        image = self.from_image(features).repeat_interleave(beam_size, dim=0)  # B W flattened, E
        total = features.new_full((count, beam_size), -torch.inf, dtype=torch.float32)
        total[:, 0] = 0.0  # all sequences start with START
        chosen = torch.zeros(count, beam_size, labels, dtype=torch.bool, device=features.device)
        peaks = torch.zeros(count, beam_size, labels, device=features.device)
        last = torch.full((count * beam_size, 1), labels + 1, device=features.device)
        state: tuple[Tensor, Tensor] | None = None
        best = Decoded(chosen[:, 0], peaks[:, 0], torch.full_like(total[:, 0], -torch.inf))
        row = torch.arange(count, device=features.device).unsqueeze(1)
        for _ in range(labels + 1):  # after K labels only END remains
            output, state = self.lstm(self.embedding(last), state)
            logits = _mask_labels(self._label_logits(output[:, 0], image).view(count, beam_size, -1), chosen)
            step = logits.float().log_softmax(dim=2)  # B W K+1
            peaks = peaks.maximum(step[..., :labels].exp())
            total, index = (total.unsqueeze(2) + step).flatten(1).topk(beam_size)  # B W, of all W (K+1) continuations
            parent, label = index // (labels + 1), index % (labels + 1)
            chosen, peaks = chosen[row, parent], peaks[row, parent]
            ended = label == labels
            best = _more_probable(best, chosen, peaks, total.masked_fill(~ended, -torch.inf))
            total = total.masked_fill(ended, -torch.inf)
            if not total.is_meta and bool((total.amax(dim=1) <= best.log_probability).all()):
                break
            chosen = chosen | nn.functional.one_hot(label, labels + 1)[..., :labels].bool()
            rows = (row * beam_size + parent).flatten()
            state = (state[0][:, rows], state[1][:, rows])
            last = label.view(-1, 1)
        return best


def _mask_labels(logits: Tensor, labels: Tensor) -> Tensor:
    """Return logits ... K+1 with minus infinity where `labels` ... K is true; END is unchanged."""
    end = torch.zeros_like(labels[..., :1])
    return logits.masked_fill(torch.cat([labels, end], dim=-1), -torch.inf)


def _more_probable(best: Decoded, chosen: Tensor, peaks: Tensor, ended: Tensor) -> Decoded:
    """Return the best so far, or the most probable of the sequences that just ended (B W, -inf for the others)."""
    value, index = ended.max(dim=1)
    row = torch.arange(len(value), device=value.device)
    improved = value > best.log_probability
    return Decoded(
        torch.where(improved.unsqueeze(1), chosen[row, index], best.chosen),
        torch.where(improved.unsqueeze(1), peaks[row, index], best.peaks),
        torch.where(improved, value, best.log_probability),
    )


def decode_labels(classifier: Classifier, config: LabelsConfig) -> Classifier:
    """Replace the last linear layer of a classifier by a `LabelDecoder` with the same input."""
    classifier.head = DecodingHead(classifier.head, classifier.num_classes, config)
    return classifier


class DecodingHead(nn.Module):
    """A head whose linear layer `classes` is replaced by a `LabelDecoder` of the same name.

    Args:
        head: A sequential module with a linear layer `classes`; layers after it are removed.
        num_classes: K.
        config: Options of the decoder.
    """

    def __init__(self, head: nn.Module, num_classes: int, config: LabelsConfig) -> None:
        super().__init__()
        layers = dict(head.named_children())
        self._before = tuple(itertools.takewhile(lambda name: name != "classes", layers))
        for name in self._before:
            self.add_module(name, layers[name])
        linear = layers["classes"]
        assert isinstance(linear, nn.Linear)
        self.classes = LabelDecoder(linear.in_features, num_classes, config)

    def forward(self, features: Tensor, sequence: Tensor | None = None) -> Tensor:
        """Map features B F to the output of `LabelDecoder`."""
        for name in self._before:
            features = self.get_submodule(name)(features)
        logits: Tensor = self.classes(features, sequence)
        return logits
