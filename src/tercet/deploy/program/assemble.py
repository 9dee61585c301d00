"""The whole ensemble as one module, and that module as one program.

Shapes: B images, H x W pixels, C channels, h x w of what a member is shown, M members, K classes.
"""

from __future__ import annotations

import copy
import re

import torch
from torch import Tensor, nn

from tercet.deploy.bundle import Bundle
from tercet.deploy.export.geometry import geometries
from tercet.deploy.export.tracing import Untraceable, refusal, trace, without_search
from tercet.deploy.program.combining import Fusing, calibrated, chosen_sets
from tercet.deploy.program.preprocessing import Preparation
from tercet.evaluation.tta import Viewed
from tercet.ground.errors import ModelError

_SHOWN = (2, 13, 17, 3)  # of the images that are traced; no side is 1, which stands for itself alone


class Ensemble(nn.Module):
    """Everything between images and answers.

    Args:
        bundle: What is exported; its numbers are shared, not copied.
    """

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        wanted = geometries(bundle)
        distinct = list(dict.fromkeys(wanted))
        self.prepared = nn.ModuleList(map(Preparation, distinct))
        self.places = [distinct.index(geometry) for geometry in wanted]
        self.networks = nn.ModuleList(
            Viewed(without_search(_fixed(one.classifier)), one.views, one.classifier.spec) for one in bundle.members
        )
        self.sets, self.calibration = bundle.sets, bundle.calibration
        self.fusing = _fixed(Fusing(bundle.combiner))

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
        fused = calibrated(self.fusing(logits, probabilities), self.calibration)
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


def assemble(bundle: Bundle) -> torch.export.ExportedProgram:
    """Return the program of a bundle; batch, height and width of the images stay free.

    Raises:
        ModelError: A member has a layer that a program cannot hold; it and the layer are named.
        MemoryExhausted: There is no memory.
    """
    network = Ensemble(bundle)
    images = torch.zeros(_SHOWN, dtype=torch.uint8)
    try:
        program = trace(network, images, free={0: "batch", 1: "height", 2: "width"})
    except Untraceable as error:
        raise _refused(bundle, network, error) from error
    for node in program.graph.nodes:  # where in this machine's files each line came from
        node.meta.pop("stack_trace", None)
    return program


def _refused(bundle: Bundle, network: Ensemble, error: Untraceable) -> ModelError:
    """Return what the user is told: which member it is, and which layer if that is known."""
    found = re.match(r"networks\.(\d+)\.?(.*)", error.layer)
    if found is not None:
        return refusal(bundle.members[int(found[1])], found[2], error, form="torch.export")
    for member, alone, spec in zip(bundle.members, network.networks, bundle.specs, strict=True):
        try:  # a size that is fixed shows at the end only, when no layer is being computed
            trace(alone, torch.rand(2, spec.channels, *spec.size), free={0: "batch"})
        except Untraceable as own:
            return refusal(member, own.layer, own, form="torch.export")
    return ModelError(f"the bundle cannot be exported with torch.export ({error}): export --format onnx, or serve it")
