"""The label decoder without a search: one sequence, whose next label is always the most probable one.

What `LabelDecoder.search` does with a beam of 1, in as many steps as there can be, none of which depends on the values
before it. Shapes: B images, D features, K labels, H units, E width of the joint space.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from tercet.models.label_decoder import EDGE, LabelDecoder


class GreedyDecoder(nn.Module):
    """Names labels one after the other until END.

    Args:
        decoder: Whose weights are read.
    """

    kernel: Tensor
    recurrent: Tensor
    bias: Tensor

    def __init__(self, decoder: LabelDecoder) -> None:
        super().__init__()
        self.num_classes, self.hidden_size = decoder.num_classes, decoder.lstm.hidden_size
        self.embedding, self.from_state, self.from_image = decoder.embedding, decoder.from_state, decoder.from_image
        kernel, recurrent, *biases = (value.detach() for value in decoder.lstm.parameters())
        for name, value in (("kernel", kernel.t()), ("recurrent", recurrent.t()), ("bias", sum(biases))):
            self.register_buffer(name, cast("Tensor", value).contiguous())

    def forward(self, features: Tensor, sequence: Tensor | None = None) -> Tensor:
        """Map B D to logits B K, positive for the labels that were named; no sequence can be followed."""
        labels, table = self.num_classes, self.embedding.weight
        image = self.from_image(features)  # B E
        state = cell = image.new_zeros(image.shape[0], self.hidden_size)
        word = table[labels + 1].expand(image.shape[0], -1)  # START
        named = peaks = image.new_zeros(image.shape[0], labels)  # 1 where a label was named
        running = image.new_ones(image.shape[0], 1)
        stays = image.new_zeros(image.shape[0], 1)  # END can always follow
        for _ in range(labels + 1):  # after K labels only END is left
            gates = word @ self.kernel + state @ self.recurrent + self.bias
            i, f, g, o = gates.chunk(4, 1)  # B H each
            cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
            state = torch.sigmoid(o) * torch.tanh(cell)
            joint = torch.relu(self.from_state(state) + image)
            logits = joint @ table[: labels + 1].t()  # B K+1
            logits = logits.masked_fill(torch.cat([named, stays], dim=1) > 0, -torch.inf)
            peaks = torch.maximum(peaks, running * logits.softmax(dim=1)[:, :labels])
            said = nn.functional.one_hot(logits.argmax(dim=1), labels + 1).to(image.dtype)
            running = running * (1 - said[:, labels:])
            named = named + running * said[:, :labels]
            word = said @ table[: labels + 1]
        return torch.logit((0.5 * (peaks + named)).clamp(EDGE, 1 - EDGE))
