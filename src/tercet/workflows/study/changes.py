"""Overrides of a recipe: data, networks, dry run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from tercet.ground.errors import ConfigError, require
from tercet.ground.registry import nearest
from tercet.models.networks import own_network
from tercet.records.documents import read_mapping
from tercet.records.recipe import Part, Setting
from tercet.workflows.train.members import member_mapping

_LENGTH = ("stages", "epochs", "lr", "schedule", "patience", "max_time")
_DRY_RUN = {"model": "test_resnet", "pretrained": False, "weights": None}
_DRY_RUN_SIZE = 64  # pixels; less, and its feature map has nothing to scan
_DRY_RUN_LIMIT = 2000  # training images; a class more than that has none


@dataclass(frozen=True)
class Changes:
    """What is done otherwise than the recipe says."""

    data: str | None = None
    """Other images for every part."""
    data_options: Mapping[str, Any] = field(default_factory=dict)
    """Options on how they are read and divided, by dotted key."""
    replaced: Mapping[str, Any] = field(default_factory=dict)
    """By a network's name in the recipe: the name of another one, or a mapping of `model` and options."""
    dry_run: bool = False
    """Train every network for one step, with tiny backbones."""

    @classmethod
    def parse(
        cls, data: str | Path | None, data_options: Mapping[str, Any], words: Sequence[Any], *, dry_run: bool
    ) -> Changes:
        """Read changes as they are written: `NETWORK=OTHER`, `NETWORK=FILE.yaml`, or mappings from one to the other.

        Raises:
            ConfigError: Another form, or a file that cannot be read.
        """
        replaced: dict[str, Any] = {}
        for word in words:
            pairs = word.items() if isinstance(word, Mapping) else [str(word).partition("=")[::2]]
            for old, new in pairs:
                if not old or not new:
                    raise ConfigError(f"replace '{word}' is not of the form NETWORK=OTHER or NETWORK=FILE.yaml")
                own = isinstance(new, str) and Path(new).suffix in (".yaml", ".yml")
                replaced[str(old)] = {"model": None, **read_mapping(new)} if own else new
        return cls(None if data is None else str(data), dict(data_options), replaced, dry_run)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "data": self.data,
            "data_options": dict(self.data_options),
            "replaced": dict(self.replaced),
            "dry_run": self.dry_run,
        }

    def apply(self, setting: Setting) -> Setting:
        """Return the setting with the changes.

        Raises:
            ConfigError: A network to replace is not in it.
        """
        used = set(networks_of(setting))
        known = sorted(used)
        require(
            f"replace: the recipe has no network '{name}'{nearest(name, known)} ({', '.join(known)})"
            for name in self.replaced
            if name not in used
        )
        parts = {name: self._part(part, setting) for name, part in setting.parts.items()}
        return replace(setting, parts=parts)

    def _part(self, part: Part, setting: Setting) -> Part:
        data = self.data or part.data or setting.data
        if part.files:
            return replace(part, data=os.path.join(self.data_options.get("data_dir") or "", data or ""))
        options = _with_networks(part.options, partial(self._network, varied=bool(part.options.get("sizes"))))
        if part.verb != "ensemble":
            options |= {"data": {**_nested(options.get("data")), **self.data_options}}
        seeds = part.seeds
        if self.dry_run:
            options, seeds = _shortened(part, options), part.seeds[:1]
        return replace(part, data=None if part.verb == "ensemble" else data, options=options, seeds=seeds)

    def _network(self, member: Mapping[str, Any], *, varied: bool) -> dict[str, Any]:
        """Return a member with another network in its place, under the same name.

        Args:
            member: Its mapping.
            varied: Whether the part varies the size of the images.
        """
        name = member["model"]
        changed = {"name": name, **member}
        if name in self.replaced:
            other = self.replaced[name]
            changed |= {"model": other} if isinstance(other, str) else dict(other)
        if self.dry_run:
            changed = {key: value for key, value in changed.items() if key not in _LENGTH}
            if own_network(changed["model"]) is None:
                changed = _tiny(changed, varied=varied)
        return changed


def _tiny(member: Mapping[str, Any], *, varied: bool) -> dict[str, Any]:
    """Return a tiny network in a backbone's place; a size that the part varies is left to it."""
    shown = {key for key in member if key.partition(".")[0] == "input"}
    options = {key: value for key, value in member.items() if key.partition(".")[0] not in ("input", "backbone")}
    size = {} if varied and not shown else {"input": {"size": [_DRY_RUN_SIZE]}}
    return {**options, **size, **_DRY_RUN}


def networks_of(setting: Setting) -> Iterator[str]:
    """Yield the names of the networks in a setting's parts."""
    for part in setting.parts.values():
        for key in ("members", "backbones"):
            for member in part.options.get(key) or ():
                yield str(member_mapping(member)["model"])


def _with_networks(options: Mapping[str, Any], change: Callable[[Mapping[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    changed = dict(options)
    for key in ("members", "backbones"):
        if options.get(key):
            changed[key] = [change(member_mapping(member)) for member in options[key]]
    return changed


def _shortened(part: Part, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options under which every training is one update."""
    if part.verb == "ensemble":
        return {**options, "fusion": {**_nested(options.get("fusion")), "steps": 1}}
    short = {key: value for key, value in options.items() if key not in _LENGTH}
    short["stages"] = [{"lr": 1e-4, "steps": 1}]
    short["data"] = {**_nested(options.get("data")), "limit": _DRY_RUN_LIMIT}
    if part.verb == "compare":
        return {**short, "seeds": 1}
    return {**short, "fusion": {**_nested(options.get("fusion")), "steps": 1}}


def _nested(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}
