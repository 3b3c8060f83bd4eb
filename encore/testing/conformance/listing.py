"""Finding keys in what is already there: checks 42, 45 and 46; needs no particular metadata."""

from __future__ import annotations

from ._case import StoreCase

__all__ = ["Listing"]

_KEYS = [
    "a",
    "A",
    "b",
    "ab",
    "abc",
    "a.txt",
    "b.txt",
    "B.TXT",
    "[x]",
    "x",
    "*",
    "?",
    "a*",
    "d/e",
    "d/f.txt",
    "d/g/h",
    "-",
    ".hidden",
    "a b",
    "]",
    "!a",
    "\u00e9",
]

#: Pattern: the keys it matches.
_PATTERNS: dict[str, set[str]] = {
    "": set(),
    "*": set(_KEYS),
    "a": {"a"},
    "?": {"a", "A", "b", "x", "*", "?", "-", "]", "\u00e9"},
    "a*": {"a", "ab", "abc", "a.txt", "a*", "a b"},
    "*.txt": {"a.txt", "b.txt", "d/f.txt"},
    "[a-b]": {"a", "b"},
    "[ab].txt": {"a.txt", "b.txt"},
    "[!a]": {"A", "b", "x", "*", "?", "-", "]", "\u00e9"},
    "[!a-z]*": {"A", "B.TXT", "[x]", "*", "?", "-", ".hidden", "]", "!a", "\u00e9"},
    "[[]*": {"[x]"},
    "[[]x]": {"[x]"},
    "[x]": {"x"},
    "[*]": {"*"},
    "[?]": {"?"},
    "a[*]": {"a*"},
    "[]]": {"]"},
    "[": set(),
    "d*": {"d/e", "d/f.txt", "d/g/h"},
    "d/*": {"d/e", "d/f.txt", "d/g/h"},
    "*/*": {"d/e", "d/f.txt", "d/g/h"},
    "d/?": {"d/e"},
    ".*": {".hidden"},
    "-": {"-"},
    "a?b": {"a b"},
    "A": {"A"},
    "*B*": {"B.TXT"},
    "no*": set(),
    "**": set(_KEYS),
}


class Listing(StoreCase):
    """query, query_keys, glob and keys show what is there."""

    def test_glob(self) -> None:
        """glob: * any text, ? one character, [a-b] one of these, [!a] none of these; case
        counts."""
        store = self.fill({key: (b"", {}) for key in _KEYS})
        for pattern, expected in _PATTERNS.items():
            found = list(store.glob(pattern))
            self.assertEqual(sorted(found), sorted(expected), f"glob({pattern!r})")
        self.refused(TypeError, store.glob, 5)
        self.refused(TypeError, store.glob, None)

    def test_pages(self) -> None:
        """Listing: keys(prefix, start_after, limit) lists in code point order, page by page."""
        store = self.fill({key: (b"", {}) for key in _KEYS})
        everything = sorted(_KEYS)
        self.assertEqual(list(store.keys()), everything)
        for prefix in ("", "a", "d/", "no", "a.txt", "\u00e9", "[", "*"):
            expected = [key for key in everything if key.startswith(prefix)]
            self.assertEqual(list(store.keys(prefix)), expected, f"keys({prefix!r})")
            for size in (1, 2, 3, 7, len(everything), 100):
                pages: list[str] = []
                page = list(store.keys(prefix, limit=size))
                while page:
                    self.assertLessEqual(len(page), size)
                    pages += page
                    self.assertLessEqual(len(pages), len(expected), f"pages of {size} overlap")
                    page = list(store.keys(prefix, page[-1], size))
                self.assertEqual(pages, expected, f"all pages of {size} with prefix {prefix!r}")
            for after in ("\0", "a", "a\0", "d/", "d/f", "zzz", "\U0010ffff", "no", ""):
                behind = [key for key in expected if key > after]
                self.assertEqual(
                    list(store.keys(prefix, after)), behind, f"keys({prefix!r}, {after!r})"
                )
                self.assertEqual(list(store.keys(prefix, after, 2)), behind[:2])
        self.assertEqual(list(store.keys(limit=0)), [])
        self.refused(ValueError, store.keys, "", None, -1)
        for bad in ((None,), (b"a",), ("", 5), ("", None, "1"), ("", None, 1.5)):
            self.refused(TypeError, store.keys, *bad)

    def test_all_ways_to_list_agree(self) -> None:
        """Query: query, query_keys, glob, keys and get_metadata agree; each key appears exactly
        once."""
        store = self.fill({key: (b"", {"key": key}) for key in _KEYS})
        keys = sorted(_KEYS)
        self.assertEqual(sorted(store.query_keys()), keys)
        self.assertEqual(sorted(store.glob("*")), keys)
        self.assertEqual(list(store.keys()), keys)
        found = list(store.query())
        self.assertEqual(sorted(key for key, _ in found), keys)
        for key, metadata in found:
            self.assertEqual(metadata, store.get_metadata(key))
            self.assertEqual(metadata, store.get(key).metadata)
            expected = self.expected_metadata(key, b"", {"key": key})
            if expected is not None:
                self.assertEqual(metadata, expected)
            for name, value in metadata.items():
                self.assertIn(key, list(store.query_keys(**{name: value})))
                self.assertEqual(dict(store.query([name], **{name: value}))[key], {name: value})
        self.assertEqual(list(store.query_keys(no_such_name=1)), [])
        self.assertEqual(
            list(store.query(no_such_name=None)), [], "name=None matches a stored null only"
        )

    def test_the_mapping_shows_the_store(self) -> None:
        """Listing: len, in, iteration and the rest of a Mapping of bytes come from
        store.mapping()."""
        contents: dict[str, bytes] = {"a": b"1", "b": b"", "d/e": b"\0\xff"}
        mapping = self.fill({key: (data, {}) for key, data in contents.items()}).mapping()
        self.assertEqual(dict(mapping), contents)
        self.assertEqual(len(mapping), 3)
        self.assertEqual(sorted(mapping), sorted(contents))
        self.assertIn("a", mapping)
        for missing in ("no", 1, None, "", b"a"):
            self.assertNotIn(missing, mapping)
        self.assertEqual(mapping.get("no"), None)
        self.missing("no", mapping.__getitem__, "no")
        self.assertEqual(mapping, contents)
