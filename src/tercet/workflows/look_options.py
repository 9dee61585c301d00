"""The options of the verbs that show: what a bundle saw, what a run did, what data hold."""

from __future__ import annotations

from dataclasses import dataclass

from tercet.records.options import Options, Positional
from tercet.workflows.options import OutputConfig


@dataclass(frozen=True)
class ExplainConfig:
    """What is explained, and where the figures go."""

    output: str | None = None
    """Folder for figures and numbers (default: explanations, or the next free one with a number)."""
    layer: str | None = None
    """Layer of the class-activation map (default: the last whose map is fine enough)."""
    filters: bool = False
    """Draw the filters of the first convolution, and of every convolution that features names."""
    features: tuple[str, ...] = ()
    """Layers whose feature maps are drawn."""
    member: str | None = None
    """Explain this member only."""
    class_name: str | None = None
    """Class to explain, also --class (default: the most probable one of the whole bundle)."""
    layers: bool = False
    """List the layers by name with what they return, and explain nothing."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""


EXPLAIN = Options(
    "explain",
    "Show what a bundle's networks saw in images. Class-activation maps for convolutional networks, attention "
    "roll-out for vision transformers, and for recurrent scans what each step contributed; a row a member, and the "
    "fused answer. Leaves PNG and SVG files and explain.json.",
    groups=[("", ExplainConfig), ("", OutputConfig)],
    positionals=[
        Positional("bundle", "a bundle's folder, or a run's"),
        Positional("images", "image files, or folders of them", many=True, required=False),
    ],
    aliases={"class": "class_name"},
    examples=[
        "runs/photos-1 cat.jpg dog.jpg",
        "runs/photos-1 cat.jpg --class dog --member resnet18 --layer layer3",
        "runs/photos-1 cat.jpg --filters --features layer1,layer4.1.conv2",
        "runs/photos-1 --layers",
    ],
)
