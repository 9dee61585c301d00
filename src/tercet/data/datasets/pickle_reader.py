"""Read pickles as data: no object of the file is imported, called or created.

Supports the opcodes of the official Python versions of CIFAR (Python 2, protocol 2): dictionaries, lists, strings,
numbers and NumPy arrays of bytes. A call becomes an inert `_Call`; only calls that reconstruct such an array are
evaluated, by our own code, and all others are errors.
"""

from __future__ import annotations

import math
import pickletools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tercet.core.errors import DataError
from tercet.data.decode import Pixels

_MAX_OPCODES = 1_000_000
_PLAIN = {"SHORT_BINSTRING", "BINSTRING", "BINUNICODE", "BININT", "BININT1", "BININT2", "BINFLOAT"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_ARRAY = "numpy.core.multiarray _reconstruct"
_GLOBALS = (_ARRAY, "numpy ndarray", "numpy dtype")


@dataclass(frozen=True)
class _Global:
    """Name of an object that a pickle would import."""

    name: str


@dataclass
class _Call:
    """A call of a pickle that is not executed, and the state for its result."""

    target: Any
    arguments: Any
    state: Any = None


def read_pickled_mapping(content: bytes, *, name: str) -> dict[str, Any]:
    """Read a pickled dictionary of a CIFAR batch.

    Args:
        content: The file's bytes.
        name: The file's name, for messages.

    Returns:
        Strings, numbers, lists of them, and arrays of unsigned bytes, by key.

    Raises:
        DataError: The content is not such a pickle, is damaged, or could run code.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # invalid escapes in strings of damaged files
            value = _value(_Machine(name).run(content), name)
    except DataError:
        raise
    except (ValueError, IndexError, TypeError, KeyError, AttributeError, OverflowError, EOFError) as error:
        raise DataError(f"{name} is not a readable pickle: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f"{name} does not contain a dictionary: expected a CIFAR batch")
    return value


class _Machine:
    """Executes the opcodes of a pickle on a stack of plain values."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.stack: list[Any] = []
        self.marks: list[int] = []
        """Stack sizes at the MARK opcodes."""
        self.memo: dict[int, Any] = {}

    def run(self, content: bytes) -> Any:
        """Return the value at the STOP opcode."""
        for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
            if opcode.name == "STOP":
                return self.stack.pop()
            if count > _MAX_OPCODES:
                raise DataError(f"{self.name} has more than {_MAX_OPCODES} opcodes: expected a CIFAR batch")
            self.step(opcode.name, argument)
        raise ValueError("no STOP opcode")

    def step(self, opcode: str, argument: Any) -> None:
        """Execute one opcode."""
        stack = self.stack
        if opcode in _PLAIN:
            stack.append(argument)
        elif opcode in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif opcode in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif opcode in _CONSTANTS:
            stack.append(_CONSTANTS[opcode])
        elif opcode in _TUPLES:
            stack.append(tuple(self.pop(_TUPLES[opcode])))
        elif opcode in ("EMPTY_DICT", "EMPTY_LIST"):
            stack.append({} if opcode == "EMPTY_DICT" else [])
        elif opcode == "MARK":
            self.marks.append(len(stack))
        elif opcode == "TUPLE":
            stack.append(tuple(self.pop_group()))
        elif opcode in ("APPEND", "APPENDS"):
            self.extend(self.pop(1) if opcode == "APPEND" else self.pop_group())
        elif opcode in ("SETITEM", "SETITEMS"):
            self.update(self.pop(2) if opcode == "SETITEM" else self.pop_group())
        elif opcode == "GLOBAL" and argument in _GLOBALS:
            stack.append(_Global(argument))
        elif opcode == "REDUCE":
            target, arguments = self.pop(2)
            stack.append(_Call(target, arguments))
        elif opcode == "BUILD":
            call, state = self.pop(2)
            call.state = state
            stack.append(call)
        elif opcode != "PROTO":
            item = f"imports {argument[:60]!r}" if opcode == "GLOBAL" else f"has the opcode {opcode}"
            raise DataError(f"{self.name} {item}, unlike the official files: not read, since it could run code")

    def pop(self, count: int) -> list[Any]:
        """Remove and return the topmost values, in the order in which they were pushed."""
        if count > len(self.stack):
            raise ValueError("the stack is empty")
        start = len(self.stack) - count
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def pop_group(self) -> list[Any]:
        """Remove and return the values after the last mark."""
        return self.pop(max(0, len(self.stack) - self.marks.pop()))

    def extend(self, values: Sequence[Any]) -> None:
        """Extend the list on top of the stack."""
        if not isinstance(self.stack[-1], list):
            raise ValueError("append to a value that is not a list")
        self.stack[-1].extend(values)

    def update(self, pairs: Sequence[Any]) -> None:
        """Update the dictionary on top of the stack with alternating keys and values."""
        if not isinstance(self.stack[-1], dict) or not all(isinstance(key, str) for key in pairs[::2]):
            raise ValueError("keys that are not strings")
        self.stack[-1].update(zip(pairs[::2], pairs[1::2], strict=True))


def _value(value: Any, name: str) -> Any:
    """Evaluate the arrays of a dictionary; official batches are not nested deeper."""
    if not isinstance(value, dict):
        return value
    return {key: _array(item, name) if isinstance(item, _Call) else item for key, item in value.items()}


def _array(call: _Call, name: str) -> Pixels:
    """Evaluate an array reconstruction, whose state is version, shape, dtype, Fortran order, bytes."""
    version, shape, dtype, fortran_order, content = call.state
    if call.target != _Global(_ARRAY) or version != 1 or not isinstance(content, str):
        raise DataError(f"{name} contains an object that is not an array of bytes")
    if not isinstance(dtype, _Call) or dtype.target != _Global("numpy dtype") or dtype.arguments[0] != "u1":
        raise DataError(f"{name} contains an array that is not of unsigned bytes")
    if not all(type(size) is int and size >= 0 for size in shape) or math.prod(shape) != len(content):
        raise DataError(f"{name} contains an array whose shape does not match its {len(content)} bytes")
    values = np.frombuffer(content.encode("latin-1"), dtype=np.uint8)
    return values.reshape(shape, order="F" if fortran_order else "C")
