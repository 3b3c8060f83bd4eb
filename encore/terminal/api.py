"""Every public name of :mod:`encore.terminal`."""

from .printing import log_handler, write
from .progress_display import ProgressDisplay
from .tracking import track
from .utils import write_static
from .writers import ProgressWriter, SpinWriter

__all__ = [
    "ProgressDisplay",
    "ProgressWriter",
    "SpinWriter",
    "log_handler",
    "track",
    "write",
    "write_static",
]
