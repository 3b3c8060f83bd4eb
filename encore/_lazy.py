"""Modules whose names are imported from elsewhere when they are first asked for (PEP 562)."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["lazy_names"]


def lazy_names(
    module: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` for a module.

    Parameters
    ----------
    module : str
        The name of the module.
    homes : mapping
        Modules of the same package, and what they define: names with spaces in between.
    """
    package = module if hasattr(sys.modules[module], "__path__") else module.rpartition(".")[0]
    home_of = {name: home for home, names in homes.items() for name in names.split()}

    def __getattr__(name: str) -> object:
        if name not in home_of:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        home = f"{package}.{home_of[name]}"
        __import__(home)  # importlib, which has a function for this, takes longer to import
        value: object = getattr(sys.modules[home], name)
        setattr(sys.modules[module], name, value)
        return value

    def __dir__() -> list[str]:
        return sorted({*vars(sys.modules[module]), *home_of})

    return __getattr__, __dir__
