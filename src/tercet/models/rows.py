"""Row classifiers: an image read as the sequence of its pixel rows.

B C H W becomes B H (W C): H steps, each one row of W pixels with their C channels. Stacked recurrent layers (2, hidden
size 128) read it from top to bottom; a dense layer (32, ReLU) and a linear one turn the last state into logits.

With `activation="relu"` the LSTM is the published notebook's (ReLU on the candidate and on the cell's output, sigmoid
gates); `tanh` is the textbook's and runs on PyTorch's fast kernels. PyTorch has two bias vectors per gate:
`num_biases=1` gives Keras' count, 216,426 parameters for row-lstm on 28 x 28 x 1 with 10 classes.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

from torch import Tensor, nn

from tercet.models.classifier import Classifier
from tercet.models.heads import dense
from tercet.models.networks import NETWORKS, NamedNetwork, Request, plain_spec
from tercet.models.recurrent import Cell, RecurrentStack


class PixelRows(nn.Module):
    """Lays an image B C H W out as the sequence of its rows, B H (W C)."""

    def forward(self, images: Tensor) -> Tensor:
        """Map B C H W to B H (W C)."""
        return images.permute(0, 2, 3, 1).flatten(2)  # B H W C to B H (W C)


def build_rows(request: Request, *, cell: Cell, bidirectional: bool = False) -> Classifier:
    """Return a row classifier for the data's image size and channels.

    Args:
        request: What is to be built.
        cell: Simple RNN, GRU or LSTM.
        bidirectional: Read the rows from bottom to top as well.
    """
    config, spec = request.config, plain_spec(request)
    recurrent = RecurrentStack(
        spec.size[1] * spec.channels,
        cell=cell,
        hidden_size=config.hidden_size or 128,
        num_layers=config.num_layers or 2,
        bidirectional=bidirectional,
        activation=config.activation,
        recurrent_activation=config.recurrent_activation,
        reset_after=config.reset_after,
        num_biases=config.num_biases,
    )
    width = config.head_hidden_dim or 32
    layers = {
        "dense": dense(recurrent.output_size, width),
        "activation": nn.ReLU(),
        "classes": dense(width, request.num_classes),
    }
    return Classifier(
        request.network,
        spec=spec,
        num_classes=request.num_classes,
        features=PixelRows(),
        recurrent=recurrent,
        head=nn.Sequential(OrderedDict(layers)),
    )


_OPTIONS = frozenset({"input", "hidden_size", "num_layers", "activation", "num_biases", "head_hidden_dim"})
_ROWS = "reads pixel rows from top to bottom, 2 layers of 128, dense 32"
NETWORKS.register("row-rnn")(NamedNetwork(f"simple RNN that {_ROWS}", _OPTIONS, partial(build_rows, cell="rnn")))
NETWORKS.register("row-gru")(
    NamedNetwork(
        f"GRU that {_ROWS}", _OPTIONS | {"recurrent_activation", "reset_after"}, partial(build_rows, cell="gru")
    )
)
NETWORKS.register("row-lstm")(
    NamedNetwork(f"LSTM that {_ROWS}", _OPTIONS | {"recurrent_activation"}, partial(build_rows, cell="lstm"))
)
NETWORKS.register("row-bilstm")(
    NamedNetwork(
        "LSTM that reads pixel rows in both directions, 2 layers of 2 x 128, dense 32",
        _OPTIONS | {"recurrent_activation"},
        partial(build_rows, cell="lstm", bidirectional=True),
    )
)
