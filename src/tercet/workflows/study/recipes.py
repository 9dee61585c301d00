"""The recipes that come with the package, and those of a user's own."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from tercet.ground.errors import ConfigError
from tercet.ground.registry import nearest
from tercet.records.documents import parse_yaml, read_mapping
from tercet.records.recipe import Recipe

_SUFFIX = ".yaml"


def recipe_names() -> list[str]:
    """Return the names of the packaged recipes."""
    return sorted(entry.name.removesuffix(_SUFFIX) for entry in _folder().iterdir() if entry.name.endswith(_SUFFIX))


def recipe_text(name: str) -> str:
    """Return a packaged recipe's file, or a user's, as it is written.

    Raises:
        ConfigError: There is none of that name.
    """
    if Path(name).suffix in (_SUFFIX, ".yml"):
        try:
            return Path(name).read_text("utf-8-sig")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8 text"
            raise ConfigError(f"cannot read {name}: {reason}") from error
    if name not in recipe_names():
        known = ", ".join(recipe_names())
        raise ConfigError(f"unknown recipe '{name}'{nearest(name, recipe_names())} (known: {known}; or a YAML file)")
    return (_folder() / f"{name}{_SUFFIX}").read_text("utf-8")


def load_recipe(name: str) -> Recipe:
    """Return a recipe by its name, or from a YAML file.

    Raises:
        ConfigError: There is none of that name, or it is not sound.
    """
    own = Path(name).suffix in (_SUFFIX, ".yml")
    document = read_mapping(name) if own else parse_yaml(recipe_text(name), source=f"recipe {name}")
    return Recipe.from_mapping(Path(name).stem if own else name, document)


def _folder() -> Traversable:
    return files("tercet") / "recipes"
