"""Public names of the package: exports, signatures, docstrings."""

import ast
import inspect
import typing
from pathlib import Path
from types import ModuleType

import pytest

import tercet

TREE = ast.parse(Path(tercet.__file__).read_text("utf-8"))


def type_checking_imports() -> dict[str, str]:
    """Return the names imported under `if TYPE_CHECKING`, and their modules."""
    (block,) = [node for node in TREE.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    modules = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        (alias,) = node.names
        assert alias.asname == alias.name, f"{alias.name} is not re-exported: write `as {alias.name}`"
        modules[alias.name] = str(node.module)
    return modules


def test_public_names_are_sorted_and_unique() -> None:
    assert list(tercet.__all__) == sorted(set(tercet.__all__))
    assert "__version__" not in tercet.__all__


def test_type_checkers_and_the_interpreter_have_the_same_names() -> None:
    assert type_checking_imports() == {name: f"tercet.{module}" for name, module in tercet._MODULES.items()}
    assert set(tercet.__all__) == set(tercet._MODULES)


@pytest.mark.parametrize("name", tercet.__all__)
def test_public_names_are_documented_functions_and_classes(name: str) -> None:
    value = getattr(tercet, name)
    assert not isinstance(value, ModuleType)  # a module of the same name would hide the function
    assert value.__name__ == name
    assert value.__module__ == f"tercet.{tercet._MODULES[name]}"
    lines = (inspect.getdoc(value) or "").splitlines()
    assert lines and lines[0].endswith((".", ":"))


@pytest.mark.parametrize("name", tercet.__all__)
def test_all_parameters_have_types(name: str) -> None:
    value = getattr(tercet, name)
    function = value.__init__ if inspect.isclass(value) else value
    if not inspect.isfunction(function):
        return  # __init__ of an exception
    hints = typing.get_type_hints(function, vars(inspect.getmodule(function)))
    parameters = inspect.signature(function).parameters
    assert set(parameters) - {"self"} <= set(hints)
    positional = [parameter for parameter in parameters.values() if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    assert len(positional) <= 3 or inspect.isclass(value)


def test_functions_are_not_hidden_by_modules_of_the_same_name() -> None:
    import tercet.experiments.runs
    import tercet.experiments.train

    for name in ("train", "demo", "runs", "verify"):
        assert inspect.isfunction(getattr(tercet, name))


def test_dir_and_star_import_contain_the_public_names() -> None:
    assert dir(tercet) == sorted([*tercet.__all__, "__version__"])
    names: dict[str, object] = {}
    exec("from tercet import *", names)
    assert set(tercet.__all__) <= names.keys()


@pytest.mark.parametrize("name", ["Trane", "torch", "load_bundel", "__path_to_nowhere__"])
def test_an_unknown_name_raises_an_attribute_error(name: str) -> None:
    with pytest.raises(AttributeError, match=f"'tercet' has no attribute '{name}'"):
        getattr(tercet, name)
    assert not hasattr(tercet, name)


def test_the_version_equals_the_installed_version() -> None:
    from importlib import metadata

    assert tercet.__version__ == metadata.version("tercet")
