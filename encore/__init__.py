"""Application events, key-value storage, executors and progress display."""

__version__ = "1.0.0.dev0"

import sys

if sys.version_info < (3, 10):  # noqa: UP036 - who runs it from a clone is told
    raise ImportError("encore needs Python 3.10 or later")
del sys
