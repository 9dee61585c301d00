"""The package's front door: what `import tercet` promises, read from its syntax tree and tried."""

import ast
import inspect
import typing
from pathlib import Path
from types import ModuleType

import pytest

import tercet

TREE = ast.parse(Path(tercet.__file__).read_text("utf-8"))


def type_checking_imports() -> dict[str, str]:
    """Return the names under `if TYPE_CHECKING`, and the modules that they come from."""
    (block,) = [node for node in TREE.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    found = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        (alias,) = node.names
        assert alias.asname == alias.name, f"{alias.name} is not exported again"  # `as name` is what re-exports it
        found[alias.name] = str(node.module)
    return found


def test_the_public_names_are_sorted_and_unique() -> None:
    assert list(tercet.__all__) == sorted(set(tercet.__all__))
    assert "__version__" not in tercet.__all__


def test_type_checkers_and_the_interpreter_see_the_same_names() -> None:
    assert type_checking_imports() == {name: f"tercet.{home}" for name, home in tercet._MODULES.items()}
    assert set(tercet.__all__) == set(tercet._MODULES)


@pytest.mark.parametrize("name", tercet.__all__)
def test_every_name_resolves_to_something_documented(name: str) -> None:
    value = getattr(tercet, name)
    assert not isinstance(value, ModuleType)  # a function must not be hidden by the module of its name
    assert value.__name__ == name
    assert value.__module__ == f"tercet.{tercet._MODULES[name]}"
    lines = (inspect.getdoc(value) or "").splitlines()
    assert lines and lines[0].endswith((".", ":"))


@pytest.mark.parametrize("name", tercet.__all__)
def test_signatures_are_typed_to_the_last_parameter(name: str) -> None:
    value = getattr(tercet, name)
    function = value.__init__ if inspect.isclass(value) else value
    if not inspect.isfunction(function):
        return  # an exception's or a dataclass's own
    hints = typing.get_type_hints(function, vars(inspect.getmodule(function)))
    assert set(inspect.signature(function).parameters) - {"self"} <= set(hints)
    positional = [
        one for one in inspect.signature(function).parameters.values() if one.kind is one.POSITIONAL_OR_KEYWORD
    ]
    assert len(positional) <= 3 or inspect.isclass(value)


def test_names_stay_themselves_after_their_modules_were_imported() -> None:
    import tercet.experiments.runs
    import tercet.experiments.train

    for name in ("train", "demo", "runs", "verify"):
        assert inspect.isfunction(getattr(tercet, name))


def test_dir_lists_the_public_names() -> None:
    assert dir(tercet) == sorted([*tercet.__all__, "__version__"])


def test_star_import_gives_the_public_names() -> None:
    names: dict[str, object] = {}
    exec("from tercet import *", names)  # what a notebook does
    assert set(tercet.__all__) <= names.keys()


@pytest.mark.parametrize("name", ["Trane", "torch", "load_bundel", "__path_to_nowhere__"])
def test_an_unknown_name_is_an_attribute_error(name: str) -> None:
    with pytest.raises(AttributeError, match=f"'tercet' has no attribute '{name}'"):
        getattr(tercet, name)
    assert not hasattr(tercet, name)


def test_the_version_is_the_installed_one() -> None:
    from importlib import metadata

    assert tercet.__version__ == metadata.version("tercet")
