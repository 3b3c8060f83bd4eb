"""Bulk: check 47, for what writes."""

from __future__ import annotations

import io
import itertools
from typing import TYPE_CHECKING, Any

from ...storage.events import (
    StoreTransactionEndEvent,
    StoreTransactionEvent,
    StoreTransactionStartEvent,
)
from ._case import Failure, StoreCase, Trickle, told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Bulk"]


class Bulk(StoreCase):
    """Many keys by one call."""

    def bulk_writers(self) -> list[tuple[Callable[..., object], Callable[[int], Any]]]:
        """Every method that writes many keys, and what makes it a value."""
        store = self.store
        return [
            (store.multiset, lambda number: (io.BytesIO(b"%d" % number), {"n": number})),
            (store.multiset_data, lambda number: io.BytesIO(b"%d" % number)),
            (store.multiset_metadata, lambda number: {"n": number}),
            (store.multiupdate_metadata, lambda number: {"n": number}),
        ]

    def prepare_keys(self) -> None:
        self.fill({f"key{number}": (b"old", {"n": -1}) for number in range(4)})

    def changed_keys(self) -> list[str]:
        return [
            key for key in sorted(self.store.query_keys()) if self.pair(key) != (b"old", {"n": -1})
        ]

    def test_keys_and_values_may_be_generators(self) -> None:
        """Bulk: keys and values may be one-shot generators; excess is ignored as zip does."""
        for write, make in self.bulk_writers():
            self.prepare_keys()
            write((f"key{n}" for n in range(3)), (make(n) for n in range(3)))
            self.assertEqual(self.changed_keys(), ["key0", "key1", "key2"])
            self.prepare_keys()
            write(["key0", "key1"], map(make, itertools.count()))
            self.assertEqual(self.changed_keys(), ["key0", "key1"], "excess values are ignored")
            self.prepare_keys()
            write((f"key{n}" for n in itertools.count()), [make(0)])
            self.assertEqual(self.changed_keys(), ["key0"], "excess keys are ignored")
            self.prepare_keys()
            with self.recorded() as events:
                write([], [])
                write(iter(()), map(make, itertools.count()))
                write(["key0"], [])
            self.assertEqual(told(events), [])
            self.assertEqual(self.changed_keys(), [])

    def test_the_last_of_equal_keys_counts(self) -> None:
        """Bulk: multiset is set() for each key and value, one after the other."""
        self.prepare_keys()
        write, make = self.bulk_writers()[0]
        with self.recorded() as events:
            write(["key0", "new", "key0", "new"], [make(1), make(2), make(3), make(4)])
        self.check_pair("key0", b"3", {"n": 3})
        self.check_pair("new", b"4", {"n": 4})
        self.assertEqual(
            told(events),
            [
                ("StoreUpdateEvent", "key0"),
                ("StoreSetEvent", "new"),
                ("StoreUpdateEvent", "key0"),
                ("StoreUpdateEvent", "new"),
            ],
        )

    def test_what_fails_in_the_middle(self) -> None:
        """Bulk: one transaction where there are any; a missing key raises KeyError naming it."""
        transactional = self.info["transactional"]
        for write, make in self.bulk_writers():
            self.prepare_keys()

            def values(make: Callable[[int], Any] = make) -> Iterator[Any]:
                yield make(1)
                yield make(2)
                raise Failure

            with self.recorded() as events:
                self.refused(Failure, write, (f"key{n}" for n in range(4)), values())
            done = [] if transactional else ["key0", "key1"]
            self.assertEqual(self.changed_keys(), done)
            self.assertEqual([key for _, key in told(events)], done)
        self.prepare_keys()
        write, make = self.bulk_writers()[3]
        self.missing("no", write, ["key0", "no", "key1"], [make(1), make(2), make(3)])
        self.assertEqual(self.changed_keys(), [] if transactional else ["key0"])
        self.prepare_keys()
        broken = Trickle(b"data", fail_after=2, error=Failure())
        self.refused(
            Failure, self.store.multiset_data, ["key0", "key1"], [io.BytesIO(b"new"), broken]
        )
        self.assertEqual(self.changed_keys(), [] if transactional else ["key0"])

    def test_one_transaction(self) -> None:
        """Bulk: one transaction where there are any."""
        self.need("transactional")
        for write, make in self.bulk_writers():
            self.prepare_keys()
            with self.recorded(StoreTransactionEvent) as events:
                write(["key0", "key1"], [make(1), make(2)])
            self.assertEqual(
                [type(event) for event in events],
                [StoreTransactionStartEvent, StoreTransactionEndEvent],
            )
