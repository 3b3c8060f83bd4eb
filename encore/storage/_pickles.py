"""Metadata that EnCore 0.8 has pickled, read without running what a pickle can run.

Each opcode is looked at before anything is made of them. Those that are allowed build plain
containers, strings, numbers, booleans and None, or organise the pickle; what is not among them may
name a class or a function, call it, or look one up in copyreg's registry.
"""

from __future__ import annotations

import io

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

_STOP = ord(".")

# Whose arguments have one size: the opcodes in the order of pickletools, by size with argument.
_FIXED = {
    1: b"N\x88\x89]aelt)\x85\x86\x87}dsu012(\x94",
    2: b"Kqh\x80",
    3: b"M",
    5: b"Jj",
    9: b"G\x95",
}

# Whose argument tells its size in so many bytes, and whose argument is a line.
_COUNTED = {1: b"\x8aU\x8c", 4: b"XT\x8b", 8: b"\x8d"}
_LINES = b"ILSVFg"

# By opcode: its size with argument, or the size of the size, negative; 0 is looked at further.
_SIZES = [0] * 256
for _size, _codes in _FIXED.items():
    for _code in _codes:
        _SIZES[_code] = _size
for _size, _codes in _COUNTED.items():
    for _code in _codes:
        _SIZES[_code] = -_size

# What a pickle may grow to: it can name one object many times, and objects made of those many
# times again. Each object counts as so many bytes, apart from its text.
_ENOUGH = 1 << 26
_PER_OBJECT = 64

# Without objects in objects, a pickle of so many bytes cannot grow to more.
_SMALL = 1 << 12

_SCALARS = frozenset({str, int, float, bool, type(None)})

# Made on first use, as pickle is heavy.
_unpickler: Any = None


def load_plain(pickled: bytes) -> Any:
    """Return plain data from a pickle; ValueError if it holds anything else, or is none."""
    if _unpickler is None:
        _make_unpickler()
    try:
        _check_opcodes(pickled)
        try:
            data = _unpickler(io.BytesIO(pickled), encoding="utf-8").load()
        except UnicodeDecodeError:
            # A str of Python 2 in another encoding.
            data = _unpickler(io.BytesIO(pickled), encoding="latin-1").load()
    except ValueError:
        raise
    except Exception as error:
        # The unpickler raises whatever comes of nonsense: IndexError, EOFError, AttributeError...
        raise ValueError(f"this is no pickle of plain data: {error}") from error
    if len(pickled) > _SMALL or type(data) is not dict or not _is_flat(data):
        _check_size(data, _ENOUGH + _PER_OBJECT * len(pickled))
    return data


def _make_unpickler() -> None:
    global _unpickler  # noqa: PLW0603
    import pickle

    class PlainUnpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> NoReturn:
            raise pickle.UnpicklingError(f"a pickle of plain data does not name {module}.{name}")

    _unpickler = PlainUnpickler


def _check_opcodes(pickled: bytes) -> None:
    """Raise ValueError, or an IndexError at the end, unless there are only opcodes of plain data until STOP."""
    sizes, at = _SIZES, 0
    while True:
        code = pickled[at]
        size = sizes[code]
        if size > 0:
            at += size
        elif size < 0:
            at += 1 - size
            at += int.from_bytes(pickled[at + size : at], "little")
        elif code == _STOP:
            return
        elif code in _LINES:
            at = pickled.index(b"\n", at) + 1
        elif code == ord("r"):
            _check_number(int.from_bytes(pickled[at + 1 : at + 5], "little"), pickled)
            at += 5
        elif code == ord("p"):
            end = pickled.index(b"\n", at)
            _check_number(int(pickled[at + 1 : end]), pickled)
            at = end + 1
        else:
            raise ValueError(f"a pickle of plain data does not use {_name_of(code)}")


def _check_number(number: int, pickled: bytes) -> None:
    # The unpickler makes room for as many objects as it is told there are.
    if not 0 <= number <= len(pickled):
        raise ValueError("a pickle of plain data does not number more objects than it has bytes")


def _name_of(code: int) -> str:
    from pickletools import opcodes

    names = [each.name for each in opcodes if each.code == chr(code)]
    return names[0] if names else f"opcode {code:#04x}"


def _is_flat(data: dict[Any, Any]) -> bool:
    for value in data.values():  # noqa: SIM110 - all() would take twice as long
        if type(value) not in _SCALARS:
            return False
    return True


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
