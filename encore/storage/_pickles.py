"""Metadata that EnCore 0.8 has pickled, read without running what a pickle can run."""

from __future__ import annotations

import io

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

# Those that build plain containers, strings, numbers, booleans and None, and those that organise
# the pickle. What is not in here may name a class or a function, call it, or look one up in
# copyreg's registry.
_PLAIN = frozenset(
    {
        "PROTO",
        "FRAME",
        "STOP",
        "MARK",
        "POP",
        "POP_MARK",
        "DUP",
        "MEMOIZE",
        "PUT",
        "BINPUT",
        "LONG_BINPUT",
        "GET",
        "BINGET",
        "LONG_BINGET",
        "NONE",
        "NEWTRUE",
        "NEWFALSE",
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG",
        "LONG1",
        "LONG4",
        "FLOAT",
        "BINFLOAT",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "UNICODE",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
        "EMPTY_LIST",
        "LIST",
        "APPEND",
        "APPENDS",
        "EMPTY_TUPLE",
        "TUPLE",
        "TUPLE1",
        "TUPLE2",
        "TUPLE3",
        "EMPTY_DICT",
        "DICT",
        "SETITEM",
        "SETITEMS",
    }
)


_MEMO = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})

# What a pickle may grow to: it can name one object many times, and objects made of those many
# times again. Each object counts as so many bytes, apart from its text.
_ENOUGH = 1 << 26
_PER_OBJECT = 64


def load_plain(pickled: bytes) -> Any:
    """Return plain data from a pickle; ValueError if it holds anything else, or is none."""
    from pickletools import genops

    try:
        for opcode, argument, _ in genops(pickled):
            if opcode.name not in _PLAIN:
                raise ValueError(f"a pickle of plain data does not use {opcode.name}")
            # The unpickler makes room for as many as it is told there are.
            if opcode.name in _MEMO and not 0 <= int(argument or 0) <= len(pickled):
                raise ValueError(
                    "a pickle of plain data does not number more objects than it has bytes"
                )
        try:
            data = _load(pickled, "utf-8")
        except UnicodeDecodeError:
            # A str of Python 2 in another encoding.
            data = _load(pickled, "latin-1")
    except ValueError:
        raise
    except Exception as error:
        # The unpickler raises whatever comes of nonsense: IndexError, EOFError, AttributeError...
        raise ValueError(f"this is no pickle of plain data: {error}") from error
    _check_size(data, _ENOUGH + _PER_OBJECT * len(pickled))
    return data


def _load(pickled: bytes, encoding: str) -> Any:
    import pickle

    class PlainUnpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> NoReturn:
            raise pickle.UnpicklingError(f"a pickle of plain data does not name {module}.{name}")

    return PlainUnpickler(io.BytesIO(pickled), encoding=encoding).load()


def _check_size(data: Any, most: int) -> None:
    left = most
    todo = [data]
    while todo:
        item = todo.pop()
        if isinstance(item, dict):
            parts: list[Any] = [*item, *item.values()]
        elif isinstance(item, list | tuple):
            parts = list(item)
        else:
            left -= len(item) if isinstance(item, str) else 0
            continue
        left -= _PER_OBJECT * (len(parts) + 1)
        if left < 0:
            break
        todo += parts
    if left < 0:
        raise ValueError("this pickle grows to many times its size, or contains itself")
