"""Progress of long operations, shown on a terminal."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .api import ProgressDisplay, ProgressWriter, SpinWriter, track, write_static

__all__ = ["ProgressDisplay", "ProgressWriter", "SpinWriter", "track", "write_static"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import api

    return getattr(api, name)
