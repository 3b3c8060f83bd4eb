"""Progress of long operations, shown on a terminal."""

from __future__ import annotations

from .._lazy import lazy_names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .api import (
        ProgressDisplay,
        ProgressWriter,
        SpinWriter,
        log_handler,
        track,
        write,
        write_static,
    )

__all__ = [
    "ProgressDisplay",
    "ProgressWriter",
    "SpinWriter",
    "log_handler",
    "track",
    "write",
    "write_static",
]

__getattr__, __dir__ = lazy_names(__name__, {"api": " ".join(__all__)})
