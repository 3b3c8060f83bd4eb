"""Which strings are keys, and which of them a pattern or a page finds."""

from __future__ import annotations

import enum
import itertools
import random
import warnings

import pytest

from encore.storage._keys import (
    check_key,
    check_page,
    key_matcher,
    literal_prefix,
    prefix_end,
)


class Shouting(str):
    """A str that lies about itself wherever Python lets it."""

    __slots__ = ()

    def __str__(self):
        return "other"

    def __repr__(self):
        raise RuntimeError("no repr")

    def __hash__(self):
        return 7

    def __eq__(self, other):
        return False

    def encode(self, *args):
        return b""


class Colour(str, enum.Enum):
    RED = "red"


@pytest.mark.parametrize(
    "key",
    [
        "a", " ", "\0", "\n", ".", "..", "a/../b", "/", "//", "con", "nul.", "a ", "%2F", "\x7f",
        "é", "e\u0301", "\U0001f40d", "\ufffe", "\U0010ffff", "x" * 1024, "é" * 512, "\U0001f40d" * 256,
    ],
)  # fmt: skip
def test_any_text_of_at_most_1024_bytes_is_a_key(key):
    assert check_key(key) == key


@pytest.mark.parametrize(
    "key",
    ["", "x" * 1025, "é" * 512 + "x", "\U0001f40d" * 256 + "x", "\ud800", "a\udfffb", "x" * 10**6],
)
def test_other_text_is_a_value_error(key):
    with pytest.raises(ValueError, match="key"):
        check_key(key)


@pytest.mark.parametrize(
    "key",
    [
        None,
        0,
        1.5,
        True,
        b"a",
        bytearray(b"a"),
        ("a",),
        ["a"],
        {"a"},
        object(),
        str,
        10**5000,
        (10**5000,),
    ],
    ids=lambda key: type(key).__name__,
)
def test_what_is_no_text_is_a_type_error(key):
    with pytest.raises(TypeError, match="a key is a str, not"):
        check_key(key)


def test_the_message_about_a_huge_key_is_short():
    with pytest.raises(TypeError) as caught:
        check_key(b"x" * 10**6)
    assert len(str(caught.value)) < 200
    with pytest.raises(ValueError, match="1024") as caught:
        check_key("x" * 10**6)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(("key", "text"), [(Shouting("abc"), "abc"), (Colour.RED, "red")])
def test_a_subclass_of_str_becomes_a_plain_str(key, text):
    checked = check_key(key)
    assert type(checked) is str
    assert checked == text


# A second implementation of patterns, by definition and slow.
def found(pattern, key):
    if not pattern:
        return not key
    first, rest = pattern[0], pattern[1:]
    if first == "*":
        return any(found(rest, key[i:]) for i in range(len(key) + 1))
    if not key:
        return False
    if first == "?":
        return found(rest, key[1:])
    if first == "[":
        negated = rest[:1] == "!"
        end = rest.find("]", 2 if negated else 1)
        if end >= 0:
            members = rest[1 if negated else 0 : end]
            inside = False
            while members:
                if len(members) >= 3 and members[1] == "-":
                    inside = inside or members[0] <= key[0] <= members[2]
                    members = members[3:]
                else:
                    inside = inside or members[0] == key[0]
                    members = members[1:]
            return inside is not negated and found(rest[end + 1 :], key[1:])
    return first == key[0] and found(rest, key[1:])


def test_patterns_match_as_they_are_defined():
    keys = ["".join(each) for n in range(4) for each in itertools.product("ab-]", repeat=n)]
    patterns = ["".join(each) for n in range(4) for each in itertools.product("ab*?", repeat=n)]
    patterns += [
        "[a]",
        "[!a]",
        "[a-b]*",
        "[b-a]",
        "[]]",
        "[!]]",
        "[]-]",
        "[-a]",
        "[a-]",
        "[",
        "a[",
        "[a",
    ]
    for pattern in patterns:
        match = key_matcher(pattern)
        for key in keys:
            assert bool(match(key)) == found(pattern, key), (pattern, key)


def test_case_newlines_and_slashes_are_ordinary_characters():
    assert not key_matcher("A*")("abc")
    assert key_matcher("*")("a\nb/c\\d\0")
    assert key_matcher("a?b")("a\nb")
    assert not key_matcher("a")("a\n")
    assert key_matcher("*")("")
    assert key_matcher(r"a\*")("a\\b")


def test_no_pattern_breaks_or_warns():
    rng = random.Random(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3000):
            pattern = "".join(
                rng.choice("[]!^-&~|\\*?a#\ud800\n(){}.$") for _ in range(rng.randrange(8))
            )
            match = key_matcher(pattern)
            key = "".join(rng.choice("[]!^-a&") for _ in range(rng.randrange(6)))
            if match(key):
                assert key.startswith(literal_prefix(pattern)), pattern


@pytest.mark.parametrize(
    "pattern", [None, 1, b"*", ["*"], 10**5000], ids=lambda p: type(p).__name__
)
def test_a_pattern_is_a_str(pattern):
    with pytest.raises(TypeError, match="a pattern is a str"):
        key_matcher(pattern)


@pytest.mark.parametrize(
    ("pattern", "prefix"),
    [("", ""), ("abc", "abc"), ("a*b", "a"), ("a?b", "a"), ("a[b]", "a"), ("*", ""), ("a]", "a]")],
)
def test_literal_prefix(pattern, prefix):
    assert literal_prefix(pattern) == prefix


def test_prefix_end_is_behind_all_that_begin_with_the_prefix_and_before_the_rest():
    edges = ["a", "b", "\x7f", "\x80", "\ud7ff", "\ue000", "\uffff", "\U00010000", "\U0010ffff"]
    texts = ["".join(each) for n in range(4) for each in itertools.product(edges, repeat=n)]
    for prefix in texts[1:100]:
        end = prefix_end(prefix)
        for text in texts:
            expected = text.startswith(prefix)
            assert (text >= prefix and (end is None or text < end)) == expected, (prefix, text)
    assert prefix_end("") is None
    assert prefix_end("\U0010ffff" * 3) is None
    assert prefix_end("a\U0010ffff") == "b"


@pytest.mark.parametrize("arguments", [("", None, None), ("a", "b", 0), ("", "", 10**30)])
def test_arguments_of_a_page(arguments):
    check_page(*arguments)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((None, None, None), TypeError),
        ((b"a", None, None), TypeError),
        (("", 1, None), TypeError),
        (("", b"a", None), TypeError),
        (("", None, "1"), TypeError),
        (("", None, 1.0), TypeError),
        (("", None, True), TypeError),
        (("", None, -1), ValueError),
        (("", None, [10**5000]), TypeError),
    ],
)
def test_wrong_arguments_of_a_page(arguments, error):
    with pytest.raises(error):
        check_page(*arguments)


def test_a_very_negative_limit_is_a_value_error():
    with pytest.raises(ValueError, match=r"limit|digits"):
        check_page("", None, -(10**5000))
