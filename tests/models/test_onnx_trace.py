"""`torch.export` traces all kinds of modules with a dynamic batch size."""

import pytest
import torch

from tercet.config.model import InputConfig, ModelConfig
from tercet.models.build import build
from tercet.models.fusion_head import EndToEnd, FusionHead


def classifier(name: str, **options) -> torch.nn.Module:
    size = None if name.startswith(("row", "small")) else InputConfig(size=(64,))
    config = ModelConfig(pretrained=False, **({"input": size} if size else {}), **options)
    return build(name, num_classes=3, config=config, channels=1, image_size=(6, 6)).eval()


@pytest.mark.filterwarnings("ignore:The tensor attributes:UserWarning")  # nn.RNNBase keeps a list of its weights
@pytest.mark.parametrize(
    "make_module",
    [
        pytest.param(lambda: classifier("row-lstm"), id="fast kernel"),
        pytest.param(
            lambda: classifier("row-gru", reset_after=False, num_biases=1), id="step loop", marks=pytest.mark.slow
        ),
        pytest.param(
            lambda: classifier("test_vit", recurrent="lstm", scan="snake", hidden_size=4),
            id="tokens",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda: classifier("test_resnet", recurrent="gru", hidden_size=4), id="pooled", marks=pytest.mark.slow
        ),
        pytest.param(
            lambda: EndToEnd(
                [classifier("row-rnn"), classifier("small-cnn")], FusionHead(2, 3, width=4), train_branches=False
            ).eval(),
            id="end to end",
        ),
    ],
)
def test_a_traced_module_gives_equal_logits_for_another_batch_size(make_module):
    eager = make_module()
    with torch.no_grad():
        shapes = {"images": {0: torch.export.Dim("batch")}}
        traced = torch.export.export(eager, (torch.rand(2, 1, 9, 9),), dynamic_shapes=shapes).module()
        images = torch.rand(5, 1, 9, 9)
        torch.testing.assert_close(traced(images), eager(images), atol=1e-5, rtol=1e-5)
