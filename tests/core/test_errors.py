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


def test_exit_codes_are_unique() -> None:
    codes = {kind.__name__: kind.exit_code for kind in KINDS if kind not in (TercetError, Interrupted, Crashed)}
    assert codes == {
        "ConfigError": 2,
        "DataError": 3,
        "ModelError": 4,
        "StorageError": 5,
        "DivergedError": 6,
        "MemoryExhausted": 7,
        "PartError": 8,
    }


@pytest.mark.parametrize(("signal_number", "code"), [(2, 130), (15, 143)])
def test_the_exit_code_after_a_signal_is_128_plus_its_number(signal_number: int, code: int) -> None:
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
def test_errors_derive_from_builtin_exceptions(name: str, builtin: type[Exception]) -> None:
    assert issubclass(getattr(errors, name), builtin)


def test_the_module_docstring_lists_all_errors() -> None:
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
def test_system_errors_are_converted(error: Exception, kind: type[TercetError]) -> None:
    converted = to_tercet_error(error)
    assert type(converted) is kind
    assert "\n" not in str(converted)


def test_converted_errors_mention_the_file() -> None:
    converted = to_tercet_error(OSError(28, "No space left on device", "/full/file"))
    assert "/full/file" in str(converted) and "No space left" in str(converted)


def test_tercet_errors_are_returned_unchanged() -> None:
    error = ConfigError("unknown option")
    assert to_tercet_error(error) is error


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), KeyError("name"), ValueError("bad")])
def test_unexpected_errors_are_not_converted(error: Exception) -> None:
    assert to_tercet_error(error) is None
