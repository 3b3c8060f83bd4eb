"""Crashes: check 30, and what a dead process leaves to the others."""

from __future__ import annotations

from .._child import Child, pair
from ._case import StoreCase

__all__ = ["Crash"]


class Crash(StoreCase):
    """What was acknowledged survives kill -9, nothing is torn, nothing is left behind."""

    #: How many times to kill; a long run takes 200.
    kills = 10

    def test_kill_tears_nothing_and_loses_nothing(self) -> None:
        """Atomicity: kill -9 at any moment: every acknowledged value is there, and no pair is
        torn."""
        store = self.shared()
        together = self.info["transactional"]
        keys = ("one", "other", "left", "right")
        for key in (*keys, "flicker"):
            data, metadata = pair(0)
            self.put(key, data, **metadata)
        before = self.leftovers(self.store)
        acknowledged = dict.fromkeys(keys, 0)
        for number in range(self.kills):
            self.store.disconnect()
            child = Child(
                store, "write_pairs", max(acknowledged.values()), together, patience=self.patience
            )
            try:
                lines = [child.hear() for _ in range(1 + number * 7 % 17)]
            finally:
                lines += child.kill()
            self.assertNotIn("", lines, "the writing process ended by itself")
            for line in lines:
                key, serial = line.split()
                acknowledged[key] = int(serial)
            acknowledged["right"] = acknowledged["left"]
            self.store.connect()
            self.check_after_crash(acknowledged, together)
        self.assertEqual(
            sorted(self.store.query_keys()),
            sorted({*keys, "flicker"} & set(self.store.query_keys())),
        )
        for key in keys:
            data, metadata = pair(0)
            self.put(key, data, **metadata)
        left = self.leftovers(self.store)
        if before is not None and left is not None:
            self.assertLessEqual(left, before + 4, "killed writers leave nothing that grows")

    def check_after_crash(self, acknowledged: dict[str, int], together: bool) -> None:
        found = {}
        for key, least in acknowledged.items():
            data, metadata = self.pair(key)
            found[key] = metadata["serial"]
            expected = pair(metadata["serial"])
            self.assertTrue((data, metadata) == expected, f"the pair of {key!r} is torn")
            self.assertGreaterEqual(
                metadata["serial"], least, f"the acknowledged value of {key!r} is lost"
            )
            self.assertEqual(list(self.store.query_keys(serial=least + 10**9)), [])
            self.assertIn(
                key, list(self.store.query_keys(serial=metadata["serial"])), "the index is torn"
            )
        if together:
            self.assertEqual(found["left"], found["right"], "a transaction is torn")
        if self.store.exists("flicker"):
            data, metadata = self.pair("flicker")
            self.assertTrue(
                (data, metadata) == pair(metadata["serial"]), "the pair of 'flicker' is torn"
            )

    def test_a_dead_writer_locks_nobody_out(self) -> None:
        """Concurrency: a dead owner's lock is found at once, and its transaction never happened."""
        self.need("transactional")
        store = self.shared()
        self.put("key", b"data")
        for _ in range(2):
            child = Child(store, "hold", patience=self.patience)
            self.addCleanup(child.kill)
            self.assertEqual(child.hear(), "held")
            self.assertFalse(self.store.exists("held"))
            child.kill()
            self.in_thread(lambda: self.put("key", b"written after the writer died"))
            self.assertEqual(list(self.store.keys()), ["key"])
            self.assertEqual(self.store.to_bytes("key"), b"written after the writer died")
