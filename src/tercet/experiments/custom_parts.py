"""Parts of the caller's: networks, losses, callbacks and others given as objects instead of names.

They are registered for the duration of a call, so that configurations, plans and bundles hold only their names, and
sent to the child processes that train.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle

from tercet.core.errors import ConfigError, TercetError
from tercet.core.registry import PARTS
from tercet.models.registry import as_factory
from tercet.models.timm_networks import is_timm
from tercet.training.callbacks import EVENTS

OPTIONS = {
    "augment": "augmentation",
    "ensemble_methods": "combiner",
    "head": "head",
    "loss": "loss",
    "monitor": "metric",
    "optimizer": "optimizer",
    "schedule": "schedule",
}
"""Options that take an object, and the kind of part that it is."""
_NETWORKS = ("members", "backbones")
_SENT = ("network", "callback", *OPTIONS.values())
_VARIABLE = "TERCET_CUSTOM_PARTS"  # set for child processes whose standard input has parts


@contextmanager
def custom_parts(options: Mapping[str, Any], *, resume: str | Path | None = None) -> Iterator[dict[str, Any]]:
    """Register the objects among options within the block; yield the options with their names instead.

    Args:
        options: Keywords of `train`, `crossval`, `compare` or `tune`, with `modules` (networks by name) and
            `callbacks`, which the configuration does not have.
        resume: Folder to resume; the run knows the names already, so that options with objects are only registered.

    Raises:
        ConfigError: An object has no name, or its name is that of another part.
    """
    parts = _Parts()
    named = {key: parts.option(key, value) for key, value in options.items() if key not in ("modules", "callbacks")}
    for name, network in (options.get("modules") or {}).items():
        parts.add("network", as_factory(network), name)
    callbacks = options.get("callbacks") or ()
    for number, callback in enumerate(callbacks if isinstance(callbacks, (list, tuple)) else [callbacks]):
        if not any(hasattr(callback, event) for event in EVENTS):
            raise ConfigError(f"callbacks: {type(callback).__name__} has no method {', '.join(EVENTS)}")
        parts.add("callback", callback, f"{number:03} {type(callback).__name__}")
    with ExitStack() as scopes:
        for kind, registered in parts.named.items():
            scopes.enter_context(PARTS[kind].scoped(registered))
        yield named if resume is None else {key: value for key, value in named.items() if key not in parts.options}


class _Parts:
    """Collects the objects among options."""

    def __init__(self) -> None:
        self.named: dict[str, dict[str, Any]] = {}
        self.options: set[str] = set()
        """Top-level options with an object."""
        self._count = 0

    def add(self, kind: str, part: Any, name: str) -> str:
        """Collect a part and return its name.

        Raises:
            ConfigError: Another part has the name.
        """
        self._count += 1
        if self.named.setdefault(kind, {}).setdefault(name, part) is not part or (kind == "network" and is_timm(name)):
            raise ConfigError(f"{kind} '{name}' is already registered: choose another name")
        return name

    def option(self, key: str, value: Any) -> Any:
        """Return the value of a top-level option with names instead of objects."""
        before = self._count
        if key in _NETWORKS:
            networks = value if isinstance(value, (list, tuple)) else [value]
            result: Any = [self._network(network) for network in networks] if value is not None else value
        elif key == "space" and isinstance(value, Mapping):
            result = {name: self._values(name, choices) for name, choices in value.items()}
        else:
            result = self._values(key, value)
        if self._count > before:
            self.options.add(key)
            return result
        return value

    def _network(self, network: Any) -> Any:
        """Return a network, given as a factory, a module, or a mapping with one, as name or mapping."""
        options = dict(network) if isinstance(network, Mapping) else {"model": network}
        model = options.get("model")
        if callable(model):
            name = str(options.get("name") or _name_of(model, "members", "{'model': ..., 'name': 'mine'}"))
            known = self.named.get("network", {}).get(name)
            if isinstance(known, partial) and known.args == (model,):  # the same module again
                model = known
            options["model"] = self.add("network", as_factory(model), name)
        elif not isinstance(network, Mapping):
            return network
        return {key: self._values(key, value) for key, value in options.items()}

    def _values(self, key: str, value: Any) -> Any:
        """Return the value of an option, or a list of values, with names instead of objects."""
        if key == "stages" and isinstance(value, (list, tuple)):
            stages = [dict(stage) if isinstance(stage, Mapping) else stage for stage in value]
            return [
                {name: self._values(name, item) for name, item in stage.items()} if isinstance(stage, dict) else stage
                for stage in stages
            ]
        kind = OPTIONS.get(key)
        if kind is None:
            return value
        if isinstance(value, (list, tuple)):
            return [self._values(key, item) for item in value]
        is_part = callable(value) or (hasattr(value, "name") and not isinstance(value, (str, os.PathLike)))
        return self.add(kind, value, _name_of(value, key, "an object with a name")) if is_part else value


def _name_of(part: Any, option: str, instead: str) -> str:
    """Return the name of a part: its `__name__`, its `name`, or that of its class.

    Raises:
        ConfigError: It has none, as a lambda.
    """
    inner = part.func if isinstance(part, partial) else part
    names = (getattr(inner, "__name__", None), getattr(inner, "name", None), type(inner).__name__)
    name = next(name for name in names if isinstance(name, str) and name)
    if not re.fullmatch(r"[\w.+-]+", name):
        raise ConfigError(f"{option}: {name} is not a usable name: give a function defined with def, or {instead}")
    return name


class UnsendableError(TercetError):
    """A part cannot be pickled."""


def pack_parts() -> bytes | None:
    """Return what a child process needs of the registered parts of the caller's; None if there are none.

    Raises:
        UnsendableError: A part cannot be pickled.
    """
    parts = {kind: named for kind in _SENT if (named := PARTS[kind].custom())}
    for kind, named in parts.items():
        for name, part in named.items():
            try:
                cloudpickle.dumps(part)
            except Exception as error:  # a part may raise anything when it is pickled
                label = f"callback {type(part).__name__}" if kind == "callback" else f"{kind} '{name}'"
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                raise UnsendableError(f"{label} cannot be sent to other processes ({reason})") from error
    path = json.dumps([str(folder) for folder in sys.path]).encode()
    return path + b"\n" + cloudpickle.dumps(parts) if parts else None


def child_environment(parts: bytes | None) -> dict[str, str]:
    """Return the environment variables of a child process that gets these parts on its standard input."""
    return {} if parts is None else {_VARIABLE: "stdin"}


def receive_parts() -> None:
    """Register the parts that the parent process sent, if any.

    Raises:
        ConfigError: They cannot be loaded.
    """
    if os.environ.pop(_VARIABLE, None) is None:
        return
    path, _, content = sys.stdin.buffer.read().partition(b"\n")
    sys.path[:] = json.loads(path)  # modules of the caller's are found as in the parent
    try:
        # runs code, but only that of the parent process, which wrote it into this process's pipe: it is never on disk
        parts = cloudpickle.loads(content)
    except Exception as error:  # importing the caller's modules may raise anything
        raise ConfigError(
            f"a child process cannot load your parts ({type(error).__name__}: {error}): define them in the script, or "
            "in a module that can be imported"
        ) from error
    for kind, named in parts.items():
        for name, part in named.items():
            PARTS[kind].add_custom(name, part)


def used_parts(options: Any) -> dict[str, list[str]]:
    """Return the names of the caller's parts that occur in options, by kind."""
    names = set(_texts(options))
    used = {kind: sorted(names & PARTS[kind].custom().keys()) for kind in _SENT}
    return {kind: parts for kind, parts in used.items() if parts}


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (text for item in value.values() for text in _texts(item))
    elif isinstance(value, (list, tuple)):
        yield from (text for item in value for text in _texts(item))


def require_parts(folder: Path, custom: Mapping[str, Sequence[str]]) -> None:
    """Check that parts of the caller's are registered.

    Raises:
        ConfigError: Lists those that are missing, and how to give them.
    """
    missing = [(kind, name) for kind, names in custom.items() for name in names if name not in PARTS[kind]]
    if missing:
        listed = ", ".join(f"{kind} '{name}'" for kind, name in missing)
        option = {kind: option for option, kind in OPTIONS.items()}
        keywords = [
            f'modules={{"{name}": factory}}' if kind == "network" else f"{option[kind]}={name}"
            for kind, name in missing
        ]
        raise ConfigError(
            f"{folder} uses parts of yours ({listed}): resume it in Python with them, as in "
            f"tercet.train(resume='{folder}', {', '.join(keywords)})"
        )
