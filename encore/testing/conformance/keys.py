"""Keys: checks 1 to 10."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from ._case import Closed, StoreCase
from ._samples import BAD_KEYS, LOOK_ALIKES, ODD_KEYS, long_keys

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Keys"]


def reading_calls(store: Any, key: Any) -> list[Callable[[], object]]:
    """Every method that reads one key."""
    return [
        lambda: store.get(key),
        lambda: store.get_data(key),
        lambda: store.get_metadata(key),
        lambda: store.get_metadata(key, select=["a"]),
        lambda: store.get_data_range(key, 0, 1),
        lambda: store.to_bytes(key),
        lambda: store.to_file(key, io.BytesIO()),
        lambda: list(store.multiget([key])),
        lambda: list(store.multiget_data([key])),
        lambda: list(store.multiget_metadata([key])),
    ]


def writing_calls(store: Any, key: Any) -> list[Callable[[], object]]:
    """Every method that writes one key."""
    return [
        lambda: store.set(key, (Closed(), {})),
        lambda: store.set_data(key, Closed()),
        lambda: store.set_metadata(key, {}),
        lambda: store.update_metadata(key, {}),
        lambda: store.from_bytes(key, b""),
        lambda: store.from_file(key, io.BytesIO()),
        lambda: store.delete(key),
        lambda: store.multiset([key], [(io.BytesIO(), {})]),
        lambda: store.multiset_data([key], [io.BytesIO()]),
        lambda: store.multiset_metadata([key], [{}]),
        lambda: store.multiupdate_metadata([key], [{}]),
        lambda: store.copy("there", key),
        lambda: store.copy(key, "elsewhere"),
        lambda: store.move("there", key),
        lambda: store.move(key, "elsewhere"),
    ]


class Keys(StoreCase):
    """Any non-empty str of at most 1024 bytes in UTF-8 is a key, and no two of them are one."""

    #: More keys to try, names that only this store uses for itself.
    own_names: tuple[str, ...] = ()

    def check_all(self, keys: list[str]) -> None:
        self.assertEqual(sorted(self.store.query_keys()), sorted(keys), "query_keys()")
        self.assertEqual(list(self.store.keys()), sorted(keys), "keys(): all, in code point order")
        for key in keys:
            data, metadata = self.pair(key)
            self.assertEqual(
                (data, metadata), (key.encode(), {"key": key}), f"what {key!a} was given"
            )
            self.assertTrue(self.store.exists(key), f"exists({key!a})")
        for key, metadata in self.store.query():
            self.assertEqual(metadata, {"key": key}, f"query() gives {key!a} its own metadata")

    def check_keys(self, keys: list[str]) -> None:
        values = [(io.BytesIO(key.encode()), {"key": key}) for key in keys]
        self.store.multiset(keys, values)
        self.check_all(keys)
        with self.store.transaction("half of them"):
            for key in keys[::2]:
                self.store.delete(key)
        self.check_all(keys[1::2])
        for key in keys[::2]:
            self.assertFalse(self.store.exists(key), f"exists({key!a}) after delete")
            self.missing(key, self.store.get, key)

    def test_every_legal_key_keeps_its_own_value(self) -> None:
        """Key: any non-empty str that encodes to UTF-8, at most 1024 bytes encoded; keys are
        opaque."""
        self.check_keys(list(dict.fromkeys([*ODD_KEYS, *self.own_names])))

    def test_long_keys_work(self) -> None:
        """Key: at most 1024 bytes encoded, or info()['max_key_bytes'], where a store that spends
        some of them on a prefix says so."""
        limit = self.info.get("max_key_bytes", 1024)
        self.check_keys(long_keys(limit))
        for call in reading_calls(self.store, "k" * (limit + 1)):
            self.refused(ValueError, call)
        self.put("there")
        for call in writing_calls(self.store, "k" * (limit + 1)):
            self.refused(ValueError, call)

    def test_look_alikes_are_different_keys(self) -> None:
        """Keys are opaque: a, ./a, a/../a, A, a%2F and the NFC and NFD forms of one word are all
        different keys."""
        self.check_look_alikes(LOOK_ALIKES)

    def check_look_alikes(self, groups: list[tuple[str, ...]]) -> None:
        for turn in range(max(map(len, groups))):
            now = [group[turn] for group in groups if turn < len(group)]
            self.store.multiset(now, [(io.BytesIO(key.encode()), {"key": key}) for key in now])
            for group in groups:
                for key in group:
                    self.assertEqual(
                        self.store.exists(key), key in now, f"exists({key!a}), with only {now!a}"
                    )
                    if key not in now:
                        self.missing(key, self.store.get, key)
                        self.missing(key, self.store.delete, key)
            self.check_all(now)
            with self.store.transaction("clear"):
                for key in now:
                    self.store.delete(key)

    def test_a_key_may_be_the_prefix_of_another(self) -> None:
        """Keys are opaque: a key may be another's prefix, in either order of writing and
        deleting."""
        for keys in (["p", "p/q", "p/q/r"], ["s/t/u", "s/t", "s"]):
            for key in keys:
                self.put(key, key.encode(), key=key)
            self.check_all(keys)
            self.store.delete(keys[1])
            self.check_all([keys[0], keys[2]])
            self.store.delete(keys[0])
            self.check_all([keys[2]])
            self.store.delete(keys[2])

    def test_bad_keys_are_refused_by_every_method(self) -> None:
        """Anything else is a TypeError (not a str) or a ValueError, from every method, exists
        included."""
        self.put("there", b"data")
        with self.unchanged():
            for key, error in BAD_KEYS:
                self.refused(error, self.store.exists, key)
                for call in [*reading_calls(self.store, key), *writing_calls(self.store, key)]:
                    self.refused(error, call)

    def test_a_missing_key_is_a_key_error_from_every_method(self) -> None:
        """Missing key: KeyError with the key as given, raised by the call itself."""
        self.put("there", b"data")
        key = "no such \u00e9\n key"
        store = self.store
        with self.unchanged():
            self.assertIs(store.exists(key), False)
            for call in reading_calls(store, key):
                self.missing(key, call)
            self.missing(key, store.delete, key)
            self.missing(key, store.update_metadata, key, {"a": 1})
            self.missing(key, store.multiupdate_metadata, [key], [{}])
            self.missing(key, store.copy, key, "elsewhere")
            self.missing(key, store.move, key, "elsewhere")

    def test_a_deleted_key_does_not_exist(self) -> None:
        """Delete: afterwards the key does not exist."""
        self.put("gone", b"data", a=1)
        self.store.delete("gone")
        self.assertFalse(self.store.exists("gone"))
        self.assertEqual(list(self.store.query_keys()), [])
        self.assertEqual(list(self.store.query(a=1)), [])
        for call in reading_calls(self.store, "gone"):
            self.missing("gone", call)
        self.missing("gone", self.store.delete, "gone")
        self.store.set_data("gone", io.BytesIO(b"new"))
        self.check_pair("gone", b"new", {})
