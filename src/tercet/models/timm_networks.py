"""Networks of timm by their names, and networks on the Hugging Face hub that timm can build.

A name is timm's, with or without the tag of its weights (`resnet18`, `resnet18.a1_in1k`, `timm/resnet18.a1_in1k`), or a
repository on the hub (`hf-hub:ORG/NAME`, `hf-hub:ORG/NAME@REVISION`).
"""

from __future__ import annotations

import tercet.core.torchvision_ops  # noqa: F401  # isort: skip  (before timm and lightning)

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import timm
from timm.layers import PatchEmbed
from timm.models import PretrainedCfg, get_pretrained_cfg, resolve_model_input_args, split_model_name_tag
from torch import nn

from tercet.config.model import ModelConfig
from tercet.core.errors import ConfigError, ModelError
from tercet.core.files import sha256
from tercet.models.backbone import first_line, size_advice
from tercet.models.hub import RemoteFile, commit_of, fetch, known_licence
from tercet.models.pretrained import load_backbone, read_weights
from tercet.models.registry import pixel_size

_HUB = "hf-hub:"
_TIMM = "timm/"
_HUB_NAME = re.compile(r"hf-hub:(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>(?!.*\.\.)[\w./-]+))?")
_CONFIG = "config.json"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
NOT_PUBLISHED = "none are published"
_SET_BY_US = frozenset({"num_classes", "in_chans"})
_NOT_OF_NETWORK = frozenset(
    {
        "pretrained",
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "checkpoint_path",
        "cache_dir",
        "scriptable",
        "exportable",
        "no_jit",
        "features_only",
    }
)
"""Arguments of timm.create_model that are not the network's; some of them open files."""


@dataclass(frozen=True)
class TimmNetwork:
    """An architecture of timm, and its published weights."""

    name: str
    """As the user named it."""
    architecture: str
    """Name in timm's registry, by which the network can be built without its repository."""
    pretrained: PretrainedCfg
    """Description of the weights and their input."""
    args: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the constructor that the repository states."""
    from_repository: bool = False
    """Whether `pretrained` and `args` are those of a repository instead of timm's registry."""

    def arguments(self, config: ModelConfig) -> dict[str, Any]:
        """Return the arguments of the constructor: those of the repository, and the user's."""
        size, own = pixel_size(config.input), dict(self.args)
        if "img_size" in own and size is not None:
            own["img_size"] = list(size)
        return {**own, **config.backbone.args}

    def create(self, config: ModelConfig, channels: int, *, weights: Path | None = None) -> nn.Module:
        """Return the network without classifier.

        Args:
            config: Options.
            channels: Channels of its input.
            weights: File with its published weights; None leaves it at random.

        Raises:
            ConfigError: timm does not accept the arguments or the image size.
            ModelError: The weights are damaged, or of another network.
        """
        if excluded := sorted(_NOT_OF_NETWORK & config.backbone.args.keys()):
            raise ConfigError(
                f"backbone.args {excluded[0]} is not an argument of the network; see --weights, --pretrained"
            )
        arguments = {"num_classes": 0, **self.arguments(config)}
        overlay: dict[str, Any] | None = None
        if self.from_repository:
            registered = _registered(self.architecture)  # decides on fixed sizes, as it will for a bundle
            arguments["pretrained_cfg"] = replace(
                self.pretrained, fixed_input_size=registered.fixed_input_size
            ).to_dict(remove_source=True)
        elif weights is not None:
            overlay = {"file": str(weights), "custom_load": weights.suffix == ".npz"}  # others are PyTorch's
        size = pixel_size(config.input)
        requested = {"img_size": size} if size else None
        try:
            resolved = resolve_model_input_args(self.architecture, requested, **{"in_chans": channels, **arguments})
            network: nn.Module = timm.create_model(
                pretrained=overlay is not None, pretrained_cfg_overlay=overlay, **resolved
            )
        except (TypeError, ValueError, KeyError, AssertionError, RuntimeError, AttributeError) as error:
            raise self._creation_error(config, size, error) from error
        if self.from_repository and weights is not None:
            try:
                load_backbone(network, read_weights(weights), source=weights, name=self.name)
            except ModelError as error:
                if size is None:
                    raise
                raise self._creation_error(config, size, error) from error
        return network

    def _creation_error(self, config: ModelConfig, size: tuple[int, int] | None, error: Exception) -> ConfigError:
        setting = f" with --backbone.args {config.backbone.args}" if config.backbone.args else ""
        native = self.pretrained.input_size[1:]
        if size is None or size == tuple(native) or isinstance(error, TypeError):  # an unknown argument
            return ConfigError(f"timm cannot create '{self.name}'{setting}{first_line(error)}")
        return ConfigError(
            f"timm cannot create '{self.name}'{setting} for images of {size[0]} x {size[1]} pixels"
            f"{size_advice(size, tuple(native))}{first_line(error)}"
        )

    def check_size(self, network: nn.Module, size: tuple[int, int]) -> None:
        """Raise for a size that is not a multiple of the patch size: timm would ignore the last rows and columns."""
        patches = getattr(network, "patch_embed", getattr(network, "stem", None))  # Sequencers have patches in the stem
        native = tuple(self.pretrained.input_size[1:])
        if size == native or not isinstance(patches, PatchEmbed) or patches.dynamic_img_pad:
            return
        height, width = patches.patch_size
        if size[0] % height or size[1] % width:
            nearest = tuple(
                max(1, round(pixels / side)) * side for pixels, side in zip(size, (height, width), strict=True)
            )
            raise ConfigError(
                f"'{self.name}' has patches of {height} x {width} pixels, and {size[0]} x {size[1]} is not a multiple: "
                f"set --input.size, such as {nearest[0]},{nearest[1]}"
            )


def is_timm(name: str) -> bool:
    """Return whether a name is one of timm's, or that of a repository; repositories are not looked up."""
    return _registry_name(name) is not None or _HUB_NAME.fullmatch(name) is not None


def naming_hint(name: str) -> str:
    """Return how to write a name that looks like a repository's; empty for others."""
    if "/" not in name and ":" not in name:
        return ""
    repository = name.split(":")[-1].strip("/")
    return f", write {_HUB}{repository}" if _HUB_NAME.fullmatch(_HUB + repository) else ", write hf-hub:ORG/NAME"


def find_network(name: str) -> TimmNetwork:
    """Return the network of a valid name; the description of a repository is downloaded if necessary.

    Raises:
        ModelError: A repository's description is not available, or not that of a network of timm.
    """
    if (registered := _registry_name(name)) is not None:
        return TimmNetwork(name, registered, _registered(registered))
    description = _description_file(name)
    paths, reasons = fetch([description])
    if reasons:
        raise ModelError(
            f"'{name}' cannot be built: its {_CONFIG} is {reasons[description]}; use the timm name of its architecture "
            "with --weights FILE"
        )
    return _read_description(name, paths[description])


def weights_file(name: str) -> RemoteFile | None:
    """Return where the weights of a network are published; None if they are not. Nothing is looked up."""
    if (registered := _registry_name(name)) is None:
        description = _description_file(name)
        return replace(description, names=_WEIGHTS)
    pretrained = _registered(registered)
    if not (pretrained.hf_hub_id or pretrained.url):
        return None
    url = pretrained.url if isinstance(pretrained.url, str) or pretrained.url is None else pretrained.url[0]
    if pretrained.hf_hub_id is None:
        return RemoteFile(url=url)
    repository, _, revision = str(pretrained.hf_hub_id).partition("@")
    names = (pretrained.hf_hub_filename,) if pretrained.hf_hub_filename else _WEIGHTS
    if (match := _HUB_NAME.fullmatch(name)) and match["revision"]:
        return RemoteFile(names, repository, match["revision"])  # the file at the URL may be of another revision
    return RemoteFile(names, repository, revision or None, url)


def needed_files(name: str, config: ModelConfig) -> tuple[RemoteFile, ...]:
    """Return the published files that building a network with its weights reads."""
    description = () if _registry_name(name) is not None else (_description_file(name),)
    weights = weights_file(name) if config.pretrained and config.weights is None else None
    return (*description, weights) if weights is not None else description


def published_weights(name: str) -> Path:
    """Return the local file with the published weights of a network, downloading it if necessary.

    Raises:
        ModelError: None are published, or they are neither cached nor reachable.
    """
    file = weights_file(name)
    paths, reasons = ({}, {}) if file is None else fetch([file])
    if file is None or reasons:
        raise ModelError(
            f"no pretrained weights for '{name}': {NOT_PUBLISHED if file is None else reasons[file]}; set --weights "
            "FILE, or train from scratch with --pretrained false"
        )
    return paths[file]


def describe_file(path: Path) -> dict[str, Any]:
    """Return what `describe_weights` does for a file of the user's, whose origin is unknown."""
    return {"source": path.name, "revision": None, "licence": None, "sha256": sha256(path)}


def describe_weights(network: TimmNetwork, path: Path | None) -> dict[str, Any]:
    """Return `source`, `revision` (commit hash), `licence` and `sha256` of published weights; None is unknown.

    Args:
        network: The network.
        path: The local file, or None.
    """
    remote = weights_file(network.name)
    source, licence = None, known_licence(network.pretrained.license)
    if remote is not None:
        from_url = path is not None and commit_of(path) is None and remote.url is not None
        source = remote.url if from_url else remote.source
        licence = licence or remote.licence()
    return {
        "source": source,
        "revision": None if path is None else commit_of(path),
        "licence": licence,
        "sha256": None if path is None else sha256(path),
    }


def _registry_name(name: str) -> str | None:
    """Return timm's name of a network; None for repositories of others and for unknown names."""
    match = _HUB_NAME.fullmatch(name)
    registered = (match["repository"] if match else name).removeprefix(_TIMM)
    if match and registered == match["repository"]:
        return None
    architecture, tag = split_model_name_tag(registered)
    if "/" in registered or not timm.is_model(architecture):
        return None
    known = not tag or registered in timm.list_models(f"{architecture}.*", pretrained=False, include_tags=True)
    return registered if known else None


def _registered(name: str) -> PretrainedCfg:
    return get_pretrained_cfg(name) or PretrainedCfg()


def _description_file(name: str) -> RemoteFile:
    match = _HUB_NAME.fullmatch(name)
    if match is None:
        raise ConfigError(f"'{name}' is not a network{naming_hint(name)}")
    return RemoteFile((_CONFIG,), match["repository"], match["revision"])


def _read_description(name: str, path: Path) -> TimmNetwork:
    """Read the `config.json` of a repository, as timm writes it."""
    try:
        config = json.loads(path.read_text("utf-8"))
        values = dict(config.get("pretrained_cfg", config))  # older files have one level
        architecture, args = config["architecture"], dict(config.get("model_args") or {})
        known = {item.name for item in fields(PretrainedCfg)} - {"file", "state_dict", "source", "url", "custom_load"}
        pretrained = PretrainedCfg(**{key: value for key, value in values.items() if key in known})
        channels, height, width = (int(value) for value in pretrained.input_size)
        if isinstance(size := args.get("img_size"), int | list):
            height, width = (size, size) if isinstance(size, int) else map(int, size)
        pretrained = replace(
            pretrained,
            input_size=(int(args.get("in_chans") or channels), height, width),
            mean=tuple(map(float, pretrained.mean)),
            std=tuple(map(float, pretrained.std)),
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ModelError(
            f"'{name}' is not a network of timm: its {_CONFIG} does not describe one ({_reason(error)})"
        ) from error
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        raise ModelError(f"'{name}' has the architecture '{architecture}', which this version of timm does not have")
    args = {key: value for key, value in args.items() if key not in _SET_BY_US | _NOT_OF_NETWORK}
    return TimmNetwork(name, architecture, pretrained, args, from_repository=True)


def _reason(error: Exception) -> str:
    return f"no {error}" if isinstance(error, KeyError) else str(error).splitlines()[0][:160]
