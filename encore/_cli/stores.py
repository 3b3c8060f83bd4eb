"""The stores and streams that commands work on."""

from __future__ import annotations

import errno
from contextlib import contextmanager

from . import WrongUse
from .text import pairs_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any, BinaryIO

    from encore.storage.abstract_store import AbstractReadOnlyStore, AbstractStore

__all__ = ["bytes_of", "opened", "writable"]

# How Python, or people, write what is written in another way in JSON.
_NO_JSON = {"none": "null", "true": "true", "false": "false"}

_NO_FS = "dir:PATH reads any directory; copy and put make stores of new and of empty ones"


@contextmanager
def opened(
    name: str, options: Sequence[str] | None, create: bool = False
) -> Iterator[AbstractReadOnlyStore]:
    from encore.storage.errors import StoreError
    from encore.storage.opener import open_store

    try:
        store = open_store(name, create=create, options=pairs_of(options or ()))
    except StoreError as error:
        if name.startswith(("fs:", "lockfs:")):
            from encore.storage.filesystem_store import FileSystemStoreError

            if isinstance(error, FileSystemStoreError):
                raise StoreError(f"{error}; {_NO_FS}") from error
        is_missing = not create and getattr(error, "errno", None) == errno.ENOENT
        if is_missing and name.startswith(("fs:", "lockfs:", "sqlite:")):
            raise StoreError(f"{error}; put and copy make what is missing") from error
        raise
    except (TypeError, ValueError) as error:
        hint = _json_hint(options or ())
        raise WrongUse(f"{error}{hint}") from error
    with store:
        yield store


def _json_hint(options: Sequence[str]) -> str:
    for option in options:
        name, _, value = option.partition("=")
        if value.lower() in _NO_JSON and value not in _NO_JSON.values():
            return (
                f"; a value is JSON, or else text: did you mean {name}={_NO_JSON[value.lower()]}?"
            )
    return ""


@contextmanager
def writable(
    name: str, options: Sequence[str] | None, create: bool = False
) -> Iterator[AbstractStore]:
    from encore.storage._chain import shown_name
    from encore.storage.abstract_store import AbstractStore
    from encore.storage.errors import StoreError

    with opened(name, options, create) as store:
        if not isinstance(store, AbstractStore):
            raise StoreError(f"{shown_name(name)!r} can only be read")
        yield store


def bytes_of(stream: Any, name: str) -> BinaryIO:
    if stream is None:
        raise OSError(f"{name} is closed")
    binary: BinaryIO = stream.buffer
    return binary
