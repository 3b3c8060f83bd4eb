"""The index of a StaticURLStore: what is one, what is found in it, how two of them differ."""

from __future__ import annotations

import json
import random

import pytest

from encore.storage._metadata import matches
from encore.storage._static_index import StaticIndex, differences, parse

METADATA = {
    "a": {"n": 1, "s": "x", "t": True, "l": [1], "none": None},
    "b": {"n": 1.0, "s": "x", "t": 1},
    "c": {"n": True, "s": "y", "t": 1.0, "l": [True]},
    "d": {"n": 2, "d": {"a": 1}},
    "e": {},
    "f": {"n": None, "none": 0},
}


def test_an_index_is_an_object_of_objects():
    assert parse(b'{"b": {"x": [1, {"y": null}]}, "a": {}}') == {
        "b": {"x": [1, {"y": None}]},
        "a": {},
    }
    assert parse(b"{}") == {}


def test_an_index_is_utf8_with_a_mark_or_without():
    text = '{"\u00e9/\U0001f600": {"n\u00e4me": "\u2028"}}'
    expected = {"\u00e9/\U0001f600": {"n\u00e4me": "\u2028"}}
    assert parse(text.encode()) == parse(text.encode("utf-8-sig")) == expected
    assert parse(json.dumps(expected).encode()) == expected


def test_metadata_may_be_deep():
    deep = "[" * 199 + "]" * 199
    assert list(parse(b'{"a": {"b": %b}}' % deep.encode())) == ["a"]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "Expecting value"),
        (b"nonsense", "Expecting value"),
        (b'{"a": {}', "Expecting"),
        (b'{"a": {}} {}', "Extra data"),
        (b"[]", "no JSON object"),
        (b"null", "no JSON object"),
        (b'"text"', "no JSON object"),
        (b'{"a": []}', "'a' is no JSON object but list"),
        (b'{"a": null}', "'a' is no JSON object"),
        (b'{"a": {}, "a": {}}', "'a' twice"),
        (b'{"a": {"b": 1, "b": 1}}', "'b' twice"),
        (b'{"a": {"b": [{"c": 1, "c": 2}]}}', "'c' twice"),
        (b'{"a": {"b": NaN}}', "NaN"),
        (b'{"a": {"b": [Infinity]}}', "Infinity"),
        (b'{"a": {"b": -Infinity}}', "Infinity"),
        (b'{"a": {"b": 1e999}}', "inf"),
        (b'{"a": {"b": "\\ud800"}}', "UTF-8"),
        (b'{"": {}}', "not empty"),
        (b'{"\\udfff": {}}', "UTF-8"),
        (b'{"%b": {}}' % (b"k" * 1025), "1024"),
        (b'{"\xff": {}}', "UTF-8"),
        (b'{"a": {}}'.decode().encode("utf-16"), "UTF-8"),
        (b'{"a": {"b": %b%b}}' % (b"[" * 200, b"]" * 200), "deep"),
        (b'{"a": {"b": %b%b}}' % (b"[" * 100_000, b"]" * 100_000), "deep"),
        (b"[" * 100_000, "deep"),
        (b'{"a": {"b": %b}}' % (b"9" * 100_000), "integer|digits"),
    ],
)  # fmt: skip
def test_what_is_no_index_is_a_value_error(data, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        parse(data)
    assert len(str(caught.value)) < 400


def test_everything_is_found_without_criteria():
    assert dict(StaticIndex(METADATA).find({})) == METADATA


@pytest.mark.parametrize(
    "criteria",
    [
        {"n": 1}, {"n": 1.0}, {"n": True}, {"n": None}, {"n": 2}, {"n": "1"}, {"t": True}, {"t": 1},
        {"none": None}, {"none": 0}, {"none": False}, {"missing": None}, {"l": [1]}, {"l": [1.0]},
        {"l": [True]}, {"d": {"a": 1}}, {"d": {"a": True}}, {"s": "x", "n": 1}, {"s": "x", "l": [1]},
        {"s": "x", "missing": 1}, {"s": "y", "n": 1}, {"l": [1], "d": {"a": 1}},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_found_does_not_depend_on_how_often_it_is_asked(criteria):
    index = StaticIndex(METADATA)
    expected = {key for key, metadata in METADATA.items() if matches(metadata, criteria)}
    for _ in range(4):
        found = list(index.find(criteria))
        assert {key for key, _ in found} == expected
        assert len(found) == len(expected)


def test_many_names_are_found_as_well():
    names = [f"name{number}" for number in range(100)]
    index = StaticIndex({name: {name: 1} for name in names})
    for _ in range(3):
        for name in names:
            assert [key for key, _ in index.find({name: 1})] == [name]
            assert list(index.find({name: True})) == []
    assert sum(column is not None for column in index._columns.values()) == 32


def test_pages_are_cut_out_of_the_sorted_keys():
    keys = ["b", "a", "a/b", "a\U0010ffff", "\u00e9", "ab", "\U0010ffff", "B", "a/"]
    index = StaticIndex({key: {} for key in keys})
    for prefix in ("", "a", "a/", "\U0010ffff", "no", "a\U0010ffff", "zzz"):
        for after in (None, "", "a", "a/", "aa", "\U0010ffff"):
            expected = sorted(
                key for key in keys if key.startswith(prefix) and (after is None or key > after)
            )
            for limit in (None, 0, 1, 2, 10**30):
                assert index.page(prefix, after, limit) == expected[:limit]


def test_differences():
    old = StaticIndex({"same": {"a": [1]}, "gone": {"b": 2}, "other": {"c": 1}, "kind": {"d": 1}})
    new = StaticIndex({"same": {"a": [1.0]}, "new": {}, "other": {"c": 2}, "kind": {"d": True}})
    assert list(differences(old, new)) == [
        ("delete", "gone", {"b": 2}),
        ("set", "new", {}),
        ("update", "other", {"c": 2}),
        ("update", "kind", {"d": True}),
    ]
    assert list(differences(old, old)) == []


def test_differences_lead_from_one_to_the_other():
    chance = random.Random(5)
    values = [0, 1, True, None, "x", [1], [True], {"a": 1}]

    def some():
        keys = chance.sample("abcdefgh", chance.randrange(9))
        return {
            key: {name: chance.choice(values) for name in chance.sample("xy", chance.randrange(3))}
            for key in keys
        }

    for _ in range(300):
        old, new = some(), some()
        state = dict(old)
        for action, key, metadata in differences(StaticIndex(old), StaticIndex(new)):
            assert (action == "set") == (key not in state)
            if action == "delete":
                assert state.pop(key) is metadata
            else:
                state[key] = metadata
        assert json.dumps(state, sort_keys=True) == json.dumps(new, sort_keys=True)
