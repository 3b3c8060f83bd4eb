"""Query: checks 38 to 44, and pages while the store changes."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ._case import Failure, StoreCase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Query"]

_VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    2,
    0.0,
    1.0,
    1.5,
    -0.0,
    2**53,
    2**53 + 1,
    float(2**53),
    2**63,
    2**64,
    10**100,
    1e100,
    "",
    "1",
    "1.0",
    "true",
    "null",
    "None",
    "a",
    "A",
    "\u00e9",
    "e\u0301",
    "a\0",
    "a\0b",
    "[]",
    "{}",
    '"a"',
    "a ",
    [],
    [1],
    [1.0],
    [True],
    [1, 2],
    [2, 1],
    [[1]],
    [None],
    ["1"],
    {},
    {"a": 1},
    {"a": 1.0},
    {"a": True},
    {"a": None},
    {"a": 1, "b": 2},
    {"b": 2, "a": 1},
    {"a": {"b": [1]}},
]


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


class Query(StoreCase):
    """A query finds what is equal as JSON values are, now."""

    def found(self, /, **criteria: Any) -> list[str]:
        keys = sorted(self.store.query_keys(**criteria))
        self.assertEqual(
            sorted(key for key, _ in self.store.query(**criteria)),
            keys,
            "query and query_keys agree",
        )
        return keys

    def test_equality_of_json_values(self) -> None:
        """Query: 1 and 1.0 are equal, 1 and True are not, key order in a dict does not matter, null
        is null."""
        self.fill({f"{number:02}": (b"", {"name": value}) for number, value in enumerate(_VALUES)})
        self.put("without", b"", other=None)
        for value in _VALUES:
            expected = [
                f"{number:02}" for number, other in enumerate(_VALUES) if _equal(value, other)
            ]
            self.assertEqual(self.found(name=value), expected, f"query(name={value!r})")
            wrapped = [
                f"{number:02}" for number, other in enumerate(_VALUES) if _equal([value], other)
            ]
            self.assertEqual(self.found(name=(value,)), wrapped, f"query(name=({value!r},))")

    def test_all_criteria_must_hold(self) -> None:
        """Query: all criteria have to be fulfilled; an unknown name finds nothing."""
        self.fill({f"{a}{b}": (b"", {"a": a, "b": [b]}) for a in range(3) for b in range(3)})
        self.assertEqual(self.found(a=1), ["10", "11", "12"])
        self.assertEqual(self.found(a=1, b=[2]), ["12"])
        self.assertEqual(self.found(a=1, b=[5]), [])
        self.assertEqual(self.found(a=1, no=1), [])
        self.assertEqual(self.found(no=None), [])
        self.assertEqual(len(self.found()), 9)

    def test_any_name_can_be_queried(self) -> None:
        """Query: every metadata name can be queried, 'self' included (by def query(self, /, ...)),
        and through where= also 'select' and 'where'."""
        names = [
            "self",
            "key",
            "data",
            "metadata",
            "created",
            "modified",
            "rowid",
            "odd name",
            "",
            "a.b",
            "a'b",
            'a"b',
            "a]b",
            "$",
            "\u00e9",
            "\0",
            "1",
            "A",
            "a",
            "%",
            "class",
            "kwargs",
            "criteria",
            "name",
        ]
        self.fill({f"key {number}": (b"", {name: 1}) for number, name in enumerate(names)})
        for number, name in enumerate(names):
            self.assertEqual(
                self.found(**{name: 1}), [f"key {number}"], f"query(**{{{name!r}: 1}})"
            )
            self.assertEqual(
                self.found(where={name: 1}), [f"key {number}"], f"query(where={{{name!r}: 1}})"
            )
        self.put("special", b"", select=1, where=2, a=3)
        for where, expected in [
            ({"select": 1}, ["special"]),
            ({"where": 2}, ["special"]),
            ({"select": 1, "where": 3}, []),
            ({}, None),
        ]:
            self.assertEqual(
                self.found(where=where),
                sorted(self.store.query_keys()) if expected is None else expected,
            )
        self.assertEqual(self.found(where={"select": 1}, a=3), ["special"])
        self.assertEqual(self.found(where={"select": 1}, a=4), [])
        self.assertEqual(dict(self.store.query(["a"], where={"select": 1})), {"special": {"a": 3}})

    def test_criteria_are_json(self) -> None:
        """Query: equality of JSON values; what is no JSON value is refused as in metadata."""
        self.put("key", b"", a=1)
        for bad, error in [
            (b"x", TypeError),
            ({1}, TypeError),
            (float("nan"), ValueError),
            ("\ud800", ValueError),
        ]:
            self.refused(error, self.store.query, a=bad)
            self.refused(error, self.store.query_keys, a=bad)
        for method in (self.store.query, self.store.query_keys):
            self.refused(TypeError, method, where=5)

    def test_queries_see_every_change(self) -> None:
        """Query: an index changes speed, never answers: after set, set_metadata, update, delete and
        rollback."""
        self.put("key", b"", a=1, b=1)
        self.put("other", b"", a=1)
        self.assertEqual(self.found(a=1), ["key", "other"])
        self.put("key", b"", a=2)
        self.assertEqual(
            (self.found(a=1), self.found(a=2), self.found(b=1)), (["other"], ["key"], [])
        )
        self.store.set_metadata("key", {"a": 3})
        self.assertEqual((self.found(a=2), self.found(a=3)), ([], ["key"]))
        self.store.update_metadata("key", {"a": 4, "c": [1]})
        self.assertEqual(
            (self.found(a=3), self.found(a=4), self.found(c=[1])), ([], ["key"], ["key"])
        )
        self.store.from_bytes("key", b"data")
        self.assertEqual(self.found(a=4), ["key"])
        self.store.copy("key", "copy")
        self.assertEqual(self.found(c=[1]), ["copy", "key"])
        self.store.move("copy", "moved")
        self.assertEqual(self.found(c=[1]), ["key", "moved"])
        self.store.delete("key")
        self.assertEqual((self.found(a=4), self.found()), (["moved"], ["moved", "other"]))
        if self.info["transactional"]:
            with suppress(Failure), self.store.transaction("rolled back"):
                self.put("other", b"", a=9, new=1)
                self.put("new", b"", a=9)
                self.store.delete("moved")
                self.assertEqual((self.found(a=9), self.found(a=1)), (["new", "other"], []))
                raise Failure
            self.assertEqual(
                (self.found(a=9), self.found(new=1), self.found(a=4)), ([], [], ["moved"])
            )
            self.assertEqual(self.found(a=1), ["other"])

    def test_queries_find_all_after_reconnecting(self) -> None:
        """Query: an index changes speed, never answers: after reopening too."""
        self.put("key", b"", a=1)
        self.put("other", b"", a=2, b=None)
        if self.info["durable"] == "none":
            self.skipTest("info()['durable'] is 'none'")
        self.store.disconnect()
        self.store.connect()
        self.assertEqual(
            (self.found(a=1), self.found(b=None), self.found()),
            (["key"], ["other"], ["key", "other"]),
        )

    def test_the_store_may_change_inside_loops(self) -> None:
        """Iteration: inside the loop any call on the store works; a key there all the time appears
        exactly once."""
        stay = [f"stay{number:02}" for number in range(20)]
        walks: dict[str, Callable[[], Iterator[str]]] = {
            "query_keys": self.store.query_keys,
            "query": lambda: (key for key, _ in self.store.query()),
            "query_keys(a=1)": lambda: self.store.query_keys(a=1),
            "query(a=1)": lambda: (key for key, _ in self.store.query(a=1)),
            "glob": lambda: self.store.glob("*"),
            "keys": self.store.keys,
            "mapping": lambda: iter(self.store.mapping()),
        }
        for what, walk in walks.items():
            self.fill({key: (b"x", {"a": 1}) for key in [*stay, "gone1", "gone2", "gone3"]})
            seen: list[str] = []
            for number, key in enumerate(walk()):
                seen.append(key)
                self.assertLess(
                    number,
                    60,
                    f"{what}: what is added inside the loop does not prolong it for ever",
                )
                if number < 3:
                    self.store.delete(f"gone{number + 1}")
                    # First the store shrinks, then it grows: it may be the size that breaks a walk.
                    for new in range(number * 2):
                        self.put(f"new{number} {new}", b"", a=1)
                    self.store.update_metadata(key, {"b": number}) if key in stay else None
                    self.put(stay[-1 - number], b"longer", a=1)
                    self.assertTrue(self.store.exists(stay[number]))
                    with suppress(KeyError):
                        self.store.to_bytes(key)
            counts = [seen.count(key) for key in stay]
            self.assertEqual(
                counts, [1] * len(stay), f"{what}: every key that stays appears exactly once"
            )
            self.assertLessEqual(len(seen), len(set(seen)), f"{what}: no key twice")
            with self.store.transaction("clear"):
                for key in list(self.store.query_keys()):
                    self.store.delete(key)

    def test_loops_nest_and_may_be_abandoned(self) -> None:
        """Iteration: the loop may be abandoned, loops nest."""
        keys = [f"key{number}" for number in range(6)]
        self.fill({key: (b"", {"a": 1}) for key in keys})
        pairs = {
            (one, other) for one in self.store.query_keys(a=1) for other, _ in self.store.query()
        }
        self.assertEqual(len(pairs), 36)
        for walk in (
            self.store.query(),
            self.store.query_keys(),
            self.store.glob("*"),
            self.store.keys(),
        ):
            next(walk)
            self.put("written", b"while a loop is abandoned", a=1)
            self.store.delete("written")
            self.in_thread(lambda: self.put("written", b"from elsewhere"))
            self.in_thread(lambda: self.store.delete("written"))
        self.assertEqual(sorted(self.store.query_keys()), keys)

    def test_pages_while_the_store_changes(self) -> None:
        """Listing: a key that is there all the time is on exactly one page, with inserts and
        deletes between."""
        stay = [f"k{number:02}" for number in range(0, 40, 4)]
        for size in (1, 3, 4):
            self.fill({key: (b"", {}) for key in [*stay, "k01", "k17", "k39"]})
            seen: list[str] = []
            page = list(self.store.keys(limit=size))
            number = 0
            while page:
                seen += page
                number += 1
                self.assertLess(number, 60, "pages overlap")
                if number < 20:
                    self.put(f"k{number:02}x")
                if number in (2, 3):
                    self.store.delete(("k17", "k39")[number - 2])
                page = list(self.store.keys(start_after=page[-1], limit=size))
            self.assertEqual([key for key in seen if key in stay], stay)
            self.assertEqual(seen, sorted(set(seen)))
            with self.store.transaction("clear"):
                for key in list(self.store.query_keys()):
                    self.store.delete(key)

    def test_the_mapping_writes_to_the_store(self) -> None:
        """Listing: the rest of a MutableMapping of bytes comes from store.mapping(); metadata
        stay."""
        self.put("a", b"1", m=1)
        mapping = self.store.mapping()
        mapping["a"] = b"2"
        mapping["b"] = b"3"
        self.check_pair("a", b"2", {"m": 1})
        self.check_pair("b", b"3", {})
        self.assertEqual(mapping.pop("b"), b"3")
        self.assertFalse(self.store.exists("b"))
        self.missing("b", mapping.__delitem__, "b")
        self.assertEqual(mapping.setdefault("c", b"4"), b"4")
        mapping.update({"d": b"5"})
        self.assertEqual(sorted(mapping), ["a", "c", "d"])
        mapping.clear()
        self.assertEqual(len(mapping), 0)
