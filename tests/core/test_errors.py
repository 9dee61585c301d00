import inspect

import pytest

from tercet.core import errors
from tercet.core.errors import (
    ConfigError,
    Crashed,
    DataError,
    Interrupted,
    MemoryExhausted,
    StorageError,
    TercetError,
    to_tercet_error,
)

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, TercetError)]


def test_every_error_has_an_exit_code_of_its_own() -> None:
    codes = {kind.__name__: kind.exit_code for kind in KINDS if kind not in (TercetError, Interrupted, Crashed)}
    assert codes == {
        "ConfigError": 2,
        "DataError": 3,
        "ModelError": 4,
        "StorageError": 5,
        "DivergedError": 6,
        "MemoryExhausted": 7,
    }


@pytest.mark.parametrize(("signal_number", "code"), [(2, 130), (15, 143)])
def test_an_end_by_a_signal_reports_it(signal_number: int, code: int) -> None:
    for kind in (Interrupted, Crashed):
        error = kind("stopped after step 3", signal_number)
        assert error.exit_code == code
        assert str(error) == "stopped after step 3"


@pytest.mark.parametrize(
    ("name", "builtin"),
    [
        ("ConfigError", ValueError),
        ("DataError", ValueError),
        ("ModelError", ValueError),
        ("StorageError", OSError),
        ("DivergedError", ArithmeticError),
        ("MemoryExhausted", MemoryError),
    ],
)
def test_errors_are_also_the_builtin_that_python_users_expect(name: str, builtin: type[Exception]) -> None:
    with pytest.raises(builtin, match="what went wrong"):
        raise getattr(errors, name)("what went wrong")


def test_the_tree_in_the_docstring_names_every_error() -> None:
    assert errors.__doc__ is not None
    for kind in KINDS:
        assert kind.__name__ in errors.__doc__


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), MemoryExhausted),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), MemoryExhausted),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), MemoryExhausted),
        (OSError(28, "No space left on device", "/full/file"), StorageError),
        (DataError("no images"), DataError),
    ],
)
def test_errors_of_the_system_are_explained(error: Exception, kind: type[TercetError]) -> None:
    explained = to_tercet_error(error)
    assert type(explained) is kind
    assert "\n" not in str(explained)


def test_the_file_of_a_system_error_is_named() -> None:
    explained = to_tercet_error(OSError(28, "No space left on device", "/full/file"))
    assert "/full/file" in str(explained) and "No space left" in str(explained)


def test_an_explained_error_is_the_error_itself() -> None:
    error = ConfigError("unknown option")
    assert to_tercet_error(error) is error


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), KeyError("name"), ValueError("bad")])
def test_faults_of_our_own_are_not_explained_away(error: Exception) -> None:
    assert to_tercet_error(error) is None
