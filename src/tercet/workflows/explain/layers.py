"""The layers of a bundle's members by name, for those who want to look at one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tercet.deploy.bundle import Bundle, load_bundle
from tercet.ground.errors import ConfigError
from tercet.ground.registry import nearest
from tercet.ground.result import Answer
from tercet.ground.streams import printable
from tercet.models.explaining import layers
from tercet.workflows.options.look import ExplainConfig


def list_layers(bundle: str | Path | Bundle, *, member: str | None = None) -> Answer:
    """Tell the layers of a bundle's members, and what each returns for one image.

    Args:
        bundle: A bundle's folder, a run's folder, or a loaded bundle.
        member: This member only.

    Raises:
        ConfigError: There is no such member.
        ModelError: It is no bundle, or was changed.
    """
    loaded = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
    lines: list[str] = []
    listed = {}
    for place in member_places(loaded, member):
        one = loaded.members[place]
        found = layers.list_layers(one.classifier)
        width = max(len(layer.name) for layer in found)
        lines += [f"{printable(one.name)} ({one.classifier.network}):", *(_line(layer, width) for layer in found), ""]
        listed[one.name] = [{**vars(layer), "shape": layer.shape and list(layer.shape)} for layer in found]
    return Answer("\n".join(lines), listed)


def require_layers_alone(config: ExplainConfig, images: Sequence[str]) -> None:
    """Refuse to pass over what was asked for beside the list of layers.

    Raises:
        ConfigError: Images were named, or an option that only explanations have.
    """
    options = ("output", "layer", "filters", "features", "class_name")
    beside = [f"--{name.removesuffix('_name')}" for name in options if getattr(config, name)]
    beside = ["images"] * bool(images) + beside
    if beside:
        raise ConfigError(f"--layers only lists layers: it goes without {', '.join(beside)}")


def member_places(bundle: Bundle, member: str | None) -> tuple[int, ...]:
    """Return the places of the members of this name, or of all.

    Raises:
        ConfigError: There is none of this name.
    """
    names = [one.name for one in bundle.members]
    if member is not None and member not in names:
        raise ConfigError(f"the bundle has no member '{member}'{nearest(member, names)} (members: {', '.join(names)})")
    return tuple(place for place, name in enumerate(names) if member in (None, name))


def _line(layer: layers.Layer, width: int) -> str:
    shape = "" if layer.shape is None else " x ".join(map(str, layer.shape))
    return f"  {layer.name:<{width}}  {shape:<16}  {layer.type}"
