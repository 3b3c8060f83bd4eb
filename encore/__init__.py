"""Application events, key-value storage, executors and progress display."""

__version__ = "1.0.0.dev0"
