"""Tools for those who write stores: streams, transactions, progress."""

from ._metadata import matches
from ._progress import StoreProgressManager
from ._streams import (
    BufferIteratorIO,
    add_context_manager_support,
    buffer_iterator,
    hashing_file,
    tee,
)
from ._transactions import DummyTransactionContext, SimpleTransactionContext

__all__ = [
    "BufferIteratorIO",
    "DummyTransactionContext",
    "SimpleTransactionContext",
    "StoreProgressManager",
    "add_context_manager_support",
    "buffer_iterator",
    "hashing_file",
    "matches",
    "tee",
]
