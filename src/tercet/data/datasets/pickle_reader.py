"""Pickles read as data: nothing that a file names is ever imported, called or made.

The opcodes are those of the official Python versions of CIFAR (Python 2, protocol 2): dictionaries, lists, strings,
numbers and NumPy arrays of bytes. What would be a call becomes an inert `_Call`, and only one that spells out such an
array is turned into one; every other is refused.
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
    """The name of something that a pickle would import."""

    name: str


@dataclass
class _Call:
    """What a pickle would call, with what, and the state that it would give to the result."""

    target: Any
    arguments: Any
    state: Any = None


def read_pickled_mapping(content: bytes, *, name: str) -> dict[str, Any]:
    """Read a pickled dictionary of a CIFAR batch.

    Args:
        content: The file's bytes.
        name: The file's name, for messages.

    Returns:
        Its values by key: texts, numbers, lists of them, and arrays of unsigned bytes.

    Raises:
        DataError: It is no such pickle, is damaged, or would run code.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # odd escapes in a damaged file's texts
            value = _value(_Machine(name).run(content), name)
    except DataError:
        raise
    except (ValueError, IndexError, TypeError, KeyError, AttributeError, OverflowError, EOFError) as error:
        raise DataError(f"{name} is not a readable pickle: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f"{name} holds no dictionary: expected a batch of CIFAR")
    return value


class _Machine:
    """Follows the opcodes of a pickle with a stack of plain values."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.stack: list[Any] = []
        self.marks: list[int] = []
        """Sizes of the stack where groups of values began."""
        self.memo: dict[int, Any] = {}

    def run(self, content: bytes) -> Any:
        """Return the value that the pickle ends with."""
        for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
            if opcode.name == "STOP":
                return self.stack.pop()
            if count > _MAX_OPCODES:
                raise DataError(f"{self.name} has more than {_MAX_OPCODES} opcodes: not read")
            self.step(opcode.name, argument)
        raise ValueError("it does not end")

    def step(self, opcode: str, argument: Any) -> None:
        """Follow one opcode."""
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
            what = f"names {argument[:60]!r}" if opcode == "GLOBAL" else f"has the opcode {opcode}"
            raise DataError(f"{self.name} {what}, which the official files do not: refused, it could run code")

    def pop(self, count: int) -> list[Any]:
        """Take the topmost values, in the order in which they came."""
        if count > len(self.stack):
            raise ValueError("its stack is empty")
        start = len(self.stack) - count
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def pop_group(self) -> list[Any]:
        """Take the values after the last mark."""
        return self.pop(max(0, len(self.stack) - self.marks.pop()))

    def extend(self, values: Sequence[Any]) -> None:
        """Append to the list on top."""
        if not isinstance(self.stack[-1], list):
            raise ValueError("it appends to what is no list")
        self.stack[-1].extend(values)

    def update(self, pairs: Sequence[Any]) -> None:
        """Enter keys and values into the dictionary on top."""
        if not isinstance(self.stack[-1], dict) or not all(isinstance(key, str) for key in pairs[::2]):
            raise ValueError("it has keys that are no text")
        self.stack[-1].update(zip(pairs[::2], pairs[1::2], strict=True))


def _value(value: Any, name: str) -> Any:
    """Turn what a batch consists of into plain values; two levels deep, as official batches are."""
    if not isinstance(value, dict):
        return value
    return {key: _array(item, name) if isinstance(item, _Call) else item for key, item in value.items()}


def _array(call: _Call, name: str) -> Pixels:
    """Return the array that a reconstruction spells out: version, shape, type, order, bytes."""
    version, shape, kind, by_columns, content = call.state
    if call.target != _Global(_ARRAY) or version != 1 or not isinstance(content, str):
        raise DataError(f"{name} holds something else than an array of bytes")
    if not isinstance(kind, _Call) or kind.target != _Global("numpy dtype") or kind.arguments[0] != "u1":
        raise DataError(f"{name} holds an array of another type than unsigned bytes")
    if not all(type(size) is int and size >= 0 for size in shape) or math.prod(shape) != len(content):
        raise DataError(f"{name} holds an array whose shape does not fit its {len(content)} bytes")
    values = np.frombuffer(content.encode("latin-1"), dtype=np.uint8)
    return values.reshape(shape, order="F" if by_columns else "C")
