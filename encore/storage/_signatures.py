"""Signatures as they are to be read: without the parameter that catches what is given in the wrong way."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    F = TypeVar("F", bound=Callable[..., Any])

__all__ = ["not_there", "without_misplaced"]

# CO_VARARGS and CO_VARKEYWORDS of the module inspect, which takes long to import.
_CATCHES = 0x04 | 0x08


def without_misplaced(function: F) -> F:
    """Have help() and inspect.signature() leave out ``*misplaced`` and ``**misplaced``."""
    given: Any = function
    code = given.__code__
    code = code.replace(co_flags=code.co_flags & ~_CATCHES)
    shown = type(given)(code, {}, given.__name__, given.__defaults__, given.__closure__)
    for name in ("__kwdefaults__", "__annotations__"):
        setattr(shown, name, getattr(given, name))
    given.__wrapped__ = shown
    return function


def not_there(store: Any, name: str) -> AttributeError:
    """Return the error for an attribute of a store that can only be read: perhaps it is there for others."""
    from .abstract_store import AbstractStore

    what = f"{type(store).__name__!r} object has no attribute {name!r}"
    if hasattr(AbstractStore, name) and not name.startswith("_"):
        what += ": it can only be read"
    return AttributeError(what, name=name, obj=store)
