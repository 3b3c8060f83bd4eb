"""Every public name of :mod:`encore.terminal`."""

from .progress_display import ProgressDisplay
from .utils import write_static
from .writers import ProgressWriter, SpinWriter

__all__ = ["ProgressDisplay", "ProgressWriter", "SpinWriter", "write_static"]
