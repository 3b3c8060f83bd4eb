"""Which file holds which key."""

from __future__ import annotations

import random
import string

import pytest

from encore.storage._filenames import MAX_NAME, decode, encode, is_digest, is_plain, may_be_old


@pytest.mark.parametrize(
    "key", ["a", "abc.txt", "-a", "_", "0", "a.b-c_d", "a" * MAX_NAME, "con1", "com", "auxiliary"]
)
def test_plain_keys_are_their_own_names(key):
    assert is_plain(key)
    assert encode(key) == key
    assert decode(key) == key
    assert not may_be_old(key)


@pytest.mark.parametrize(
    "key",
    [
        "A",
        "aB",
        ".a",
        ".",
        "..",
        "a.",
        "a b",
        "a/b",
        "/",
        "../x",
        "a\\b",
        "c:",
        "a\n",
        "a\0",
        "%41",
        "%%41",
        "%",
        "é",
        "e\u0301",
        "con",
        "con.txt",
        "nul",
        "com1",
        "lpt9.x",
        "a" * (MAX_NAME + 1),
        ".FSStore",
        "😀",
        "a" * 1024,
    ],
)
def test_other_keys_are_encoded(key):
    name = encode(key)
    assert name != key
    assert name.startswith("%%")
    assert name.isascii()
    assert name == name.lower()
    assert not name.endswith(".")
    assert len(name) <= MAX_NAME
    assert not is_plain(key)
    if is_digest(name):
        assert decode(name) is None
    else:
        assert decode(name) == key


def random_key(rng):
    alphabet = rng.choice(
        ["ab%.", "aAbB", string.printable, "aé\u0301\u212b\xc5", "%0123456789abcdefABCDEF", "a/.\0"]
    )
    key = "".join(rng.choice(alphabet) for _ in range(rng.choice([1, 2, 3, 8, 60, 200, 1024])))
    while len(key.encode()) > 1024:
        key = key[:-1]
    return key


def test_names_are_reversible_and_stay_apart_when_case_is_folded():
    rng = random.Random(8)
    keys = {random_key(rng) for _ in range(5000)}
    names = {}
    for key in keys:
        name = encode(key)
        assert len(name) <= MAX_NAME
        assert names.setdefault(name.casefold(), key) == key
        if is_digest(name):
            assert len(key.encode()) > 80
        else:
            assert decode(name) == key
    # Keys that differ in case only have been among them.
    assert len({key.casefold() for key in keys}) < len(keys)


@pytest.mark.parametrize(
    "name",
    [
        "%41",
        "%%4",
        "%%4g",
        "%%C3",
        "%%ff",
        "%%61%62",
        "%%41%2E",
        "%%41.",
        "A",
        "%%41B",
        "%%%41",
        "%%",
    ],
)
def test_look_alikes_are_not_decoded(name):
    assert decode(name) is None


def test_long_keys_have_names_of_their_own():
    one, other = "x/" * 400, "x/" * 400 + "y"
    assert is_digest(encode(one))
    assert is_digest(encode(other))
    assert encode(one) != encode(other)


def test_what_the_old_encore_may_have_named_a_file():
    for key in ("A", "a b", "%41", "é", "con", ".", "a."):
        assert may_be_old(key)
    for key in ("a", "a/b", "a\0", ".FSx", "é" * 200):
        assert not may_be_old(key)
