"""Keys and metadata that have broken stores before."""

from __future__ import annotations

from typing import Any

_PUNCTUATION = [chr(code) for code in range(1, 128) if not chr(code).isalnum()]

ODD_KEYS: list[str] = [
    # NUL, newline, every control and punctuation character; alone, and where a path would notice
    "\0",
    "a\0b",
    "a\n",
    "\na",
    "a\r\nb",
    "\x7f",
    "\x80",
    "\x85",
    "\u2028",
    "\ufeff",
    "\ufffe",
    "\uffff",
    *_PUNCTUATION,
    *(f"a{character}b" for character in _PUNCTUATION),
    # paths
    "//",
    "/a",
    "a/",
    "/a/",
    "a//b",
    "..",
    "../x",
    "../../x",
    "./a",
    "a/../a",
    "a/.",
    "a/..",
    "/etc/passwd",
    "/tmp/x",
    "~/x",
    "C:",
    "C:\\x",
    "C:x",
    "\\\\host\\share",
    "a\\b",
    "..\\x",
    "file:///x",
    # one word in two forms, astral, combining, right to left
    "\u00e9",
    "e\u0301",
    "\u212b",
    "\u00c5",
    "A\u030a",
    "\ufb01",
    "fi",
    "\U0001f600",
    "\U0010ffff",
    "\u0301",
    "\u200b",
    "\u202e",
    "\u05d0",
    "\u0130",
    "\u0131",
    "\u00df",
    "ss",
    "\u1e9e",
    "\u03c3",
    "\u03c2",
    # case, Windows' reserved names, trailing dots and spaces
    "key",
    "Key",
    "KEY",
    "kEY",
    "con",
    "CON",
    "nul",
    "NUL.txt",
    "aux.data",
    "com1",
    "lpt9",
    "prn.",
    "x.",
    "x..",
    "x ",
    " x",
    "x  ",
    "x. ",
    " ",
    "  ",
    "\t",
    "...",
    # names of stores' own files, tables and columns
    ".FSStore",
    ".FSjournal",
    ".fsstore",
    "__log__.txt",
    "x.data",
    "x.metadata",
    "x.data.metadata",
    ".data",
    ".metadata",
    "data",
    "metadata",
    "store",
    "key.lock",
    "x.tmp",
    "x.lock",
    "sqlite_master",
    "rowid",
    "x-wal",
    "x-journal",
    "index.json",
    ".git",
    "__init__.py",
    "Thumbs.db",
    "lost+found",
    # leading characters, numbers, prefixes of one another, look-alikes
    ".a",
    "-a",
    "--help",
    "-",
    "_",
    "0",
    "00",
    "1",
    "1.0",
    "-1",
    "1e3",
    "null",
    "None",
    "true",
    "a",
    "ab",
    "abc",
    "a/b",
    "a/b/c",
    "a.b",
    "a.b.c",
    "%",
    "%%",
    "%2F",
    "%2f",
    "a%2Fb",
    "a%2fb",
    "a%252Fb",
    "%00",
    "%zz",
    "a+b",
    "&amp;",
    "a=b",
    "a?b=c",
    "a#b",
    "$HOME",
    "${x}",
    "`x`",
    "';--",
    '"',
    "*",
    "?",
    "[a]",
    "[",
    "]",
    "!a",
    "{a}",
]
ODD_KEYS = list(dict.fromkeys(ODD_KEYS))

#: In each group, keys that a careless store takes for one.
LOOK_ALIKES: list[tuple[str, ...]] = [
    (
        "look",
        "Look",
        "LOOK",
        "look ",
        " look",
        "look.",
        "./look",
        "/look",
        "look/",
        "look\n",
        "look\0",
        "look\\",
    ),
    ("\u00e9t\u00e9", "e\u0301te\u0301", "\u00c9t\u00e9", "ete"),
    (
        "d/look",
        "d//look",
        "d/./look",
        "d/x/../look",
        "d\\look",
        "d%2Flook",
        "d%2flook",
        "d%252Flook",
        "d:look",
    ),
    ("stra\u00dfe", "strasse", "STRASSE", "stra\u1e9ee"),
    ("\uff41", "a", "A"),
    ("1", "1.0", "01", "+1", "\u0661"),
]

BAD_KEYS: list[tuple[Any, type[Exception]]] = [
    (1, TypeError),
    (b"key", TypeError),
    (None, TypeError),
    (("key",), TypeError),
    (1.5, TypeError),
    ("", ValueError),
    ("\ud800", ValueError),
    ("a\udfff", ValueError),
    ("k" * 1025, ValueError),
    ("\u00e9" * 513, ValueError),
]


def long_keys(limit: int) -> list[str]:
    """Return keys of at most `limit` bytes in UTF-8, most of them just that long."""
    longest = [
        text * (limit // size) for text, size in (("\u00e9", 2), ("\U0001f600", 4), ("a.", 2))
    ]
    dots = ["/" * limit, "../" * (limit // 3), "%" * limit]
    ends = [letter * (limit - 1) + end for letter, end in ("ka", "Ka", "kb")]
    return ["k" * 255, "k" * 256, *ends, *longest, *dots]


def nested(depth: int) -> Any:
    """Return so many lists in one another."""
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


METADATA: list[dict[str, Any]] = [
    {},
    {
        "": "",
        "data": 1,
        "metadata": 2,
        "key": 3,
        "created": 4,
        "modified": 5,
        "select": 6,
        "self": 7,
        "where": 8,
    },
    {
        "a b": 1,
        "a.b": 2,
        "a'b": 3,
        'a"b': 4,
        "a\0b": 5,
        "$": 6,
        "%": 7,
        "\u00e9": 8,
        "e\u0301": 9,
        "A": 1,
        "a": 2,
    },
    {
        "str": "text",
        "empty": "",
        "nul": "a\0b",
        "unicode": "\u00e9\u2028\U0001f600",
        "lines": "a\r\nb\n",
    },
    {"zero": 0, "negative": -1, "big": 2**63, "bigger": 10**100, "-big": -(2**64)},
    {
        "float": 1.5,
        "whole": 1.0,
        "small": 5e-324,
        "large": 1.7976931348623157e308,
        "third": 1 / 3,
        "-0": -0.0,
    },
    {"true": True, "false": False, "none": None},
    {
        "list": [],
        "lists": [[], [1, [2.0, [True, [None, ["x"]]]]]],
        "dict": {},
        "mixed": [{"a": [{"b": None}]}],
    },
    {"deep": nested(95)},
    {
        "numbers as text": "1",
        "json as text": '{"a": 1}',
        "date": "2020-01-01",
        "sql": "'); drop table store; --",
    },
]

#: What is no metadata, and how it is refused.
CYCLE: dict[str, Any] = {}
CYCLE["self"] = CYCLE
BAD_METADATA: list[tuple[Any, type[Exception]]] = [
    (None, TypeError),
    ([], TypeError),
    ("text", TypeError),
    (1, TypeError),
    ([("a", 1)], TypeError),
    ({"a": b"bytes"}, TypeError),
    ({"a": {1, 2}}, TypeError),
    ({"a": object()}, TypeError),
    ({1: "a"}, TypeError),
    ({None: "a"}, TypeError),
    ({"a": {1: "b"}}, TypeError),
    ({"a": [{"b": 1j}]}, TypeError),
    ({"a": float("nan")}, ValueError),
    ({"a": [float("inf")]}, ValueError),
    ({"a": {"b": float("-inf")}}, ValueError),
    ({"a": "\ud800"}, ValueError),
    ({"\udfff": 1}, ValueError),
    (CYCLE, ValueError),
    ({"a": nested(100_000)}, ValueError),
]


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are the same, types included: 1, 1.0 and True are three values."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)
