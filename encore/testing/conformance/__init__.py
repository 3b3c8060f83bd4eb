"""The conformance kit: whether a store keeps the contract.

For a store that can be written, mix StoreConformance into a ``unittest.TestCase`` and define
``make_store``; for one that can only be read there is ReadOnlyStoreConformance. What they check
stands section by section in the mixins that they combine, which can be used alone too. A failure
says which sentence of the contract is broken.
"""

from __future__ import annotations

from ._case import StoreCase
from .bulk import Bulk
from .concurrency import Concurrency
from .conditional import Conditional
from .crash import Crash
from .events import Events
from .keys import Keys
from .life_cycle import LifeCycle, Opening
from .listing import Listing
from .metadata import Metadata
from .overwriting import Overwriting
from .query import Query
from .ranges import Ranges
from .read_only import ReadOnlyStoreConformance
from .readers import Readers
from .streams import Streams
from .transactions import Transactions

__all__ = [
    "Bulk",
    "Concurrency",
    "Conditional",
    "Crash",
    "Events",
    "Keys",
    "LifeCycle",
    "Listing",
    "Metadata",
    "Opening",
    "Overwriting",
    "Query",
    "Ranges",
    "ReadOnlyStoreConformance",
    "Readers",
    "StoreCase",
    "StoreConformance",
    "Streams",
    "Transactions",
]


class StoreConformance(
    Keys,
    Streams,
    Readers,
    Ranges,
    Overwriting,
    Metadata,
    Query,
    Listing,
    Bulk,
    Conditional,
    Transactions,
    Events,
    Concurrency,
    Crash,
    LifeCycle,
):
    """All checks for a store that can be written.

    Mix it into a ``unittest.TestCase`` and define ``make_store``; it runs under unittest and
    pytest::

        class TestMyStore(StoreConformance, unittest.TestCase):
            def make_store(self, event_manager):
                folder = tempfile.TemporaryDirectory()
                self.addCleanup(folder.cleanup)
                return MyStore(folder.name, event_manager=event_manager)

            def make_handle(self, store):
                return MyStore(store.path)

    What the store can do is taken from its ``info()``: where that says that it has no transactions,
    for example, it is checked that it does not pretend. A check that the store cannot take part in
    is skipped with the reason.

    Hooks
    -----
    make_store(event_manager)
        A new, empty store, connected or not, with its events to `event_manager`.
    make_handle(store)
        Another handle on the same data, if there can be one.
    process_store(store)
        What can be pickled to give another process a handle on the data; by default the store, if
        it outlives the process.
    make_relative_store(event_manager)
        A new store whose place was given as a relative path, if it has one.
    leftovers(store)
        How many files (rows, objects) there are where the store keeps its data: failures must
        not make it grow.
    damage(store, key)
        Damage the stored metadata of a key behind the store's back, and return True.
    failing_commit(store)
        A context manager in which commits fail.

    Attributes
    ----------
    patience : float, in seconds
        A store that does not answer for so long has failed the check.
    kills : int
        How often a writing process is killed.
    own_names : tuple of str
        Names that the store uses for itself, to be tried as keys.
    """
