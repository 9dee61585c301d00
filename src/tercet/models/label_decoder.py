"""The CNN-RNN: a set of labels told one after the other, each knowing those before it (Wang et al., CVPR 2016).

An LSTM reads the labels named so far through their embeddings; its output o(t) and the image's features I meet in the
space of the embeddings, x(t) = relu(U_o o(t) + U_I I), and the next label's logits are the products of x(t) with all
embeddings, U_l' x(t) (arXiv:1604.04573, equations 1 to 4). The softmax runs over END and the labels not named yet, so
that a sequence names a label once, and the probabilities of all sequences sum to 1.

Shapes: B images, D features, K labels (END is K, START is K + 1), T labels named, W sequences kept, H hidden
size, E width of the joint space.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tercet.config.model import LabelsConfig
from tercet.models.classifier import Classifier
from tercet.models.heads import dense_layer

TOKEN_EDGE = 1e-6
"""Keeps decoded scores off 0 and 1, so that their logits are finite."""


class Decoded(NamedTuple):
    """The most probable sequence that a search found, for each image."""

    chosen: Tensor
    """B K, the labels it names."""
    peaks: Tensor
    """B K, the highest probability that each label had at any step of it."""
    log_probability: Tensor
    """B."""


class LabelDecoder(nn.Module):
    """A head that names labels one after the other, until it says END.

    Args:
        num_features: D.
        num_classes: K.
        config: Embedding width E, hidden size H, and beam size W.
    """

    def __init__(self, num_features: int, num_classes: int, config: LabelsConfig) -> None:
        super().__init__()
        self.num_classes, self.beam_size = num_classes, config.beam_size
        self.embedding = nn.Embedding(num_classes + 2, config.embedding_dim)
        nn.init.normal_(self.embedding.weight, std=config.embedding_dim**-0.5)  # products with x(t) start small
        self.lstm = nn.LSTM(config.embedding_dim, config.hidden_size, batch_first=True)
        self.from_state = dense_layer(config.hidden_size, config.embedding_dim, bias=False)
        self.from_image = dense_layer(num_features, config.embedding_dim)

    def forward(self, features: Tensor, sequence: Tensor | None = None) -> Tensor:
        """Name the labels, or follow a sequence that is given.

        Args:
            features: B D.
            sequence: B T, the labels to follow, with END as padding; None searches.

        Returns:
            Without a sequence, logits B K: positive for the labels of the most probable sequence found. A label's
            score, the logistic function of its logit, is (1 + p) / 2 if it was named and p / 2 if not, p being the
            highest probability that it had at any step of that sequence. With a sequence, the next label's logits after
            each of its beginnings, B T+1 K+1; what is named already has minus infinity.
        """
        if sequence is not None:
            return self._follow(features, sequence)
        found = self.search(features, beam_size=self.beam_size)
        scores = 0.5 * (found.peaks + found.chosen.to(found.peaks.dtype))
        return torch.logit(scores.clamp(TOKEN_EDGE, 1 - TOKEN_EDGE))

    def _follow(self, features: Tensor, sequence: Tensor) -> Tensor:
        start = sequence.new_full((len(sequence), 1), self.num_classes + 1)
        states, _ = self.lstm(self.embedding(torch.cat([start, sequence], dim=1)))  # B T+1 H
        logits = self._compare(states, self.from_image(features).unsqueeze(1))  # B T+1 K+1
        after = nn.functional.one_hot(sequence, self.num_classes + 1)[..., :-1].cumsum(dim=1) > 0  # B T K
        named = torch.cat([torch.zeros_like(logits[:, :1, :-1], dtype=torch.bool), after], dim=1)
        return _without(logits, named)

    def _compare(self, states: Tensor, image: Tensor) -> Tensor:
        """Return the products of the joint vectors with the embeddings of all labels and END."""
        joint = torch.relu(self.from_state(states) + image)
        return joint @ self.embedding.weight[: self.num_classes + 1].t()

    def search(self, features: Tensor, *, beam_size: int) -> Decoded:
        """Find the most probable sequence by beam search.

        Each step keeps the `beam_size` most probable of all continuations. Those that end with END leave the beam; the
        search stops when no sequence in the beam is more probable than the best that ended. A beam of 1 is greedy; one
        as wide as there are sequences is exhaustive.

        Args:
            features: B D.
            beam_size: W.
        """
        count, labels = len(features), self.num_classes
        image = self.from_image(features).repeat_interleave(beam_size, dim=0)  # B W flattened, E
        total = features.new_full((count, beam_size), -torch.inf, dtype=torch.float32)
        total[:, 0] = 0.0  # one beginning: START
        named = torch.zeros(count, beam_size, labels, dtype=torch.bool, device=features.device)
        peaks = torch.zeros(count, beam_size, labels, device=features.device)
        last = torch.full((count * beam_size, 1), labels + 1, device=features.device)
        state: tuple[Tensor, Tensor] | None = None
        best = Decoded(named[:, 0], peaks[:, 0], torch.full_like(total[:, 0], -torch.inf))
        row = torch.arange(count, device=features.device).unsqueeze(1)
        for _ in range(labels + 1):  # after K labels only END is left
            output, state = self.lstm(self.embedding(last), state)
            logits = _without(self._compare(output[:, 0], image).view(count, beam_size, -1), named)
            step = logits.float().log_softmax(dim=2)  # B W K+1
            peaks = peaks.maximum(step[..., :labels].exp())
            total, place = (total.unsqueeze(2) + step).flatten(1).topk(beam_size)  # B W, of all W (K+1) continuations
            parent, label = place // (labels + 1), place % (labels + 1)
            named, peaks = named[row, parent], peaks[row, parent]
            ended = label == labels
            best = _better(best, named, peaks, total.masked_fill(~ended, -torch.inf))
            total = total.masked_fill(ended, -torch.inf)
            if not total.is_meta and bool((total.amax(dim=1) <= best.log_probability).all()):
                break
            named = named | nn.functional.one_hot(label, labels + 1)[..., :labels].bool()
            kept = (row * beam_size + parent).flatten()
            state = (state[0][:, kept], state[1][:, kept])
            last = label.view(-1, 1)
        return best


def _without(logits: Tensor, named: Tensor) -> Tensor:
    """Return logits (... K+1) with minus infinity for the labels named already (... K); END stays."""
    kept = torch.zeros_like(named[..., :1])
    return logits.masked_fill(torch.cat([named, kept], dim=-1), -torch.inf)


def _better(best: Decoded, named: Tensor, peaks: Tensor, ended: Tensor) -> Decoded:
    """Return the better of the best so far and of the sequences (B W) that have just ended; the others are -inf."""
    value, place = ended.max(dim=1)
    row = torch.arange(len(value), device=value.device)
    wins = value > best.log_probability
    return Decoded(
        torch.where(wins.unsqueeze(1), named[row, place], best.chosen),
        torch.where(wins.unsqueeze(1), peaks[row, place], best.peaks),
        torch.where(wins, value, best.log_probability),
    )


def decode_labels(classifier: Classifier, config: LabelsConfig) -> Classifier:
    """Put a `LabelDecoder` in the place of a classifier's last linear layer; what it read is the image embedding."""
    classifier.head = DecodingHead(classifier.head, classifier.num_classes, config)
    return classifier


class DecodingHead(nn.Module):
    """A head whose last layer names labels one after the other, under the name of what it replaces (`classes`).

    Args:
        head: A sequence with a linear layer called `classes`; what comes after it is left out.
        num_classes: K.
        config: Options of the decoder.
    """

    def __init__(self, head: nn.Module, num_classes: int, config: LabelsConfig) -> None:
        super().__init__()
        parts = dict(head.named_children())
        self._before = tuple(itertools.takewhile(lambda name: name != "classes", parts))
        for name in self._before:
            self.add_module(name, parts[name])
        last = parts["classes"]
        assert isinstance(last, nn.Linear)
        self.classes = LabelDecoder(last.in_features, num_classes, config)

    def forward(self, features: Tensor, sequence: Tensor | None = None) -> Tensor:
        """Map features B F to what `LabelDecoder` returns."""
        for name in self._before:
            features = self.get_submodule(name)(features)
        answer: Tensor = self.classes(features, sequence)
        return answer
