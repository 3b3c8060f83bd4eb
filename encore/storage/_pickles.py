"""Metadata that EnCore 0.8 has pickled, read without running what a pickle can run."""

from __future__ import annotations

import io
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


def load_plain(pickled: bytes) -> Any:
    """Return plain data from a pickle; ValueError if it holds anything else, or is none."""
    import pickle
    from pickletools import genops

    class PlainUnpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> NoReturn:
            raise pickle.UnpicklingError(f"a pickle of plain data does not name {module}.{name}")

    try:
        for opcode, _, _ in genops(pickled):
            if opcode.name not in _PLAIN:
                raise ValueError(f"a pickle of plain data does not use {opcode.name}")
        return PlainUnpickler(io.BytesIO(pickled), encoding="utf-8").load()
    except ValueError:
        raise
    except Exception as error:
        # The unpickler raises whatever comes of nonsense: IndexError, EOFError, AttributeError...
        raise ValueError(f"this is no pickle of plain data: {error}") from error
