"""Every public name of :mod:`encore.terminal`."""

from .progress_display import ProgressDisplay
from .tracking import track
from .utils import write_static
from .writers import ProgressWriter, SpinWriter

__all__ = ["ProgressDisplay", "ProgressWriter", "SpinWriter", "track", "write_static"]
