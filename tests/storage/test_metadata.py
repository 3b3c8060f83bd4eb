"""What metadata is, when two of its values are equal, and how it is written."""

from __future__ import annotations

import enum
import itertools
import json
import math
from collections import OrderedDict, UserDict, defaultdict, namedtuple
from types import MappingProxyType

import pytest

from encore.storage._metadata import (
    MAX_DEPTH,
    check_criteria,
    check_names,
    copy_of,
    digest,
    dumps,
    equal,
    loads,
    matches,
    normalise,
)

Point = namedtuple("Point", "x y")


class Level(enum.IntEnum):
    HIGH = 3


class Text(str):
    __slots__ = ()

    def __str__(self):
        return "lie"


class Number(float):
    """As numpy's float64 is one."""

    def __float__(self):
        return 99.0

    def __repr__(self):
        return "np.float64(...)"


class Integer(int):
    def __int__(self):
        return 99

    def __index__(self):
        return 99


def nested(levels, kind):
    """Metadata with so many containers one in another, the outermost dict included."""
    value = {} if kind is dict else []
    for _ in range(levels - 2):
        value = {"a": value} if kind is dict else [value]
    return {"a": value} if levels > 1 else {}


def exact(value):
    """A value with its exact types."""
    if type(value) is dict:
        return ("dict", [(exact(name), exact(item)) for name, item in value.items()])
    if type(value) is list:
        return ("list", [exact(item) for item in value])
    return (type(value).__name__, value)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({}, {}),
        ({"": ""}, {"": ""}),
        ({"a": None, "b": True, "c": False}, {"a": None, "b": True, "c": False}),
        (
            {"a": 0, "b": -1, "c": 2**64, "d": -(2**200)},
            {"a": 0, "b": -1, "c": 2**64, "d": -(2**200)},
        ),
        ({"a": 0.0, "b": 1e308, "c": 5e-324}, {"a": 0.0, "b": 1e308, "c": 5e-324}),
        ({"a": (1, (2, [3]))}, {"a": [1, [2, [3]]]}),
        ({"a": Point(1, "y")}, {"a": [1, "y"]}),
        ({"a": Level.HIGH}, {"a": 3}),
        ({"a": OrderedDict(b=1)}, {"a": {"b": 1}}),
        (OrderedDict(b=1), {"b": 1}),
        (defaultdict(list, b=[1]), {"b": [1]}),
        ({"a": Text("b"), Text("c"): [Text("d")]}, {"a": "b", "c": ["d"]}),
        ({"a": Number(1.5), "b": [Number(2.5)]}, {"a": 1.5, "b": [2.5]}),
        ({"a": Integer(5), "b": [Integer(2**70)]}, {"a": 5, "b": [2**70]}),
        ({"é": "\U0001f40d", "\0": "\n"}, {"é": "\U0001f40d", "\0": "\n"}),
        (
            {"data": 1, "key": 2, "self": 3, "select": 4},
            {"data": 1, "key": 2, "self": 3, "select": 4},
        ),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_json_is_kept_in_plain_types(given, kept):
    assert exact(normalise(given)) == exact(kept)
    assert exact(loads(dumps(normalise(given)))) == exact(kept)


@pytest.mark.parametrize(
    "metadata", [None, [], (), "a", b"", 1, [("a", 1)], {1}, MappingProxyType({}), UserDict()]
)
def test_metadata_is_a_dict(metadata):
    with pytest.raises(TypeError, match="metadata is a dict"):
        normalise(metadata)


@pytest.mark.parametrize(
    "value",
    [
        b"x",
        bytearray(),
        {1},
        frozenset(),
        object(),
        1j,
        range(3),
        iter([]),
        ...,
        UserDict(),
        Exception,
    ],
)
def test_what_json_has_not_is_a_type_error_at_any_depth(value):
    for metadata in ({"a": value}, {"a": [value]}, {"a": {"b": ({"c": value},)}}):
        with pytest.raises(TypeError):
            normalise(metadata)


@pytest.mark.parametrize("name", [None, 1, True, b"a", (1,), 1.5, Level.HIGH])
def test_names_are_str_at_any_depth(name):
    for metadata in ({name: 1}, {"a": {name: 1}}, {"a": [{name: 1}]}):
        with pytest.raises(TypeError, match="names in metadata are str"):
            normalise(metadata)


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, -math.inf, Number("nan"), "\ud800", "a\udfff", 10**5000, -(10**5000)],
    ids=lambda value: repr(value)[:20] if not isinstance(value, int) else "huge",
)
def test_what_json_cannot_write_is_a_value_error_at_any_depth(value):
    for metadata in ({"a": value}, {"a": [1, value]}, {"a": {"b": [{"c": value}]}}):
        with pytest.raises(ValueError, match=r"JSON|UTF-8|digits"):
            normalise(metadata)


@pytest.mark.parametrize("metadata", [{"\ud800": 1}, {"a": {"\udfff": 1}}, {"a": [{"b\ud800": 1}]}])
def test_names_encode_to_utf_8(metadata):
    with pytest.raises(ValueError, match="UTF-8"):
        normalise(metadata)


@pytest.mark.parametrize("kind", [dict, list])
def test_depth(kind):
    for levels in (1, 2, 100, MAX_DEPTH):
        metadata = nested(levels, kind)
        assert equal(normalise(metadata), metadata)
        assert loads(dumps(normalise(metadata))) == metadata
        assert copy_of(metadata) == metadata
        assert digest(metadata)
    for levels in (MAX_DEPTH + 1, 10**5):
        with pytest.raises(ValueError, match="deep"):
            normalise(nested(levels, kind))
    assert MAX_DEPTH == 200


def test_depth_is_refused_also_where_the_stack_is_nearly_used_up():
    def deeper(frames):
        return deeper(frames - 1) if frames else normalise(nested(MAX_DEPTH, dict))

    # Whatever the interpreter's limit is: the metadata or a ValueError.
    for frames in range(0, 900, 50):
        try:
            result = deeper(frames)
        except ValueError:
            continue
        except RecursionError:
            break
        assert result == nested(MAX_DEPTH, dict)


def test_cycles_are_a_value_error():
    metadata = {}
    metadata["a"] = metadata
    with pytest.raises(ValueError, match="contains itself"):
        normalise(metadata)
    members = []
    members.append(members)
    with pytest.raises(ValueError, match="contains itself"):
        normalise({"a": members})
    one = {"b": []}
    one["b"].append(one)
    with pytest.raises(ValueError, match="contains itself"):
        normalise({"a": one})


def test_the_same_object_twice_is_no_cycle():
    shared = [1]
    kept = normalise({"a": shared, "b": shared})
    assert kept == {"a": [1], "b": [1]}
    assert kept["a"] is not kept["b"]


@pytest.mark.parametrize("copied", [normalise, copy_of])
def test_copies_are_deep(copied):
    given = {"a": {"b": [1, {"c": 2}]}, "d": [[3]]}
    kept = copied(given)
    given["a"]["b"][1]["c"] = given["d"][0][0] = "changed"
    given["e"] = 1
    assert kept == {"a": {"b": [1, {"c": 2}]}, "d": [[3]]}


def test_a_copy_of_planted_metadata_shares_no_container():
    planted = {"a": OrderedDict(b=[1]), "c": Point([1], 2), "d": defaultdict(list)}
    copy = copy_of(planted)
    planted["a"]["b"].append(2)
    planted["c"].x.append(2)
    planted["d"]["e"].append(1)
    assert copy == {"a": {"b": [1]}, "c": [[1], 2], "d": {}}
    assert {type(item) for item in copy.values()} == {dict, list}


def test_names_to_select():
    assert check_names(None) is None
    assert check_names([]) == []
    assert check_names(iter(("a", "b"))) == ["a", "b"]
    assert check_names({"a": 1}) == ["a"]
    assert [type(name) for name in check_names([Text("b")])] == [str]
    for select in ("abc", "", [1], [None], [b"a"], b"a", 5, ["a", 10**5000]):
        with pytest.raises(TypeError):
            check_names(select)


def test_selected_copies():
    assert copy_of({"a": 1, "b": [2]}, ["b", "c", "b"]) == {"b": [2]}
    assert copy_of({"a": 1}, []) == {}
    assert copy_of({"a": 1}, iter("a")) == {"a": 1}


EQUAL = [
    [0, 0.0, -0.0, False.__int__()],
    [1, 1.0, Level.HIGH - 2],
    [True],
    [False],
    [None],
    ["", Text("")],
    ["1"],
    [2**53, float(2**53)],
    [2**53 + 1],
    [10**308],
    [1e308],
    [[]],
    [{}],
    [[1], [1.0]],
    [[True]],
    [[1, 2], [1.0, 2]],
    [[2, 1]],
    [[[]]],
    [{"a": 1}, {"a": 1.0}],
    [{"a": True}],
    [{"a": None}],
    [{"a": 1, "b": [{"c": 0}]}, {"b": [{"c": 0.0}], "a": 1}],
    [{"a": 1, "b": [{"c": False}]}],
    ["é"],
    ["e\u0301"],
]


def test_equality_of_json_values():
    for one, other in itertools.product(range(len(EQUAL)), repeat=2):
        for left, right in itertools.product(EQUAL[one], EQUAL[other]):
            assert equal(left, right) is (one == other), (left, right)


def test_a_tuple_is_a_list():
    assert equal((1, [2]), [1, (2,)])
    assert not equal((), {})


def test_matches():
    metadata = {"a": 1, "b": None, "c": [1]}
    assert matches(metadata, {})
    assert matches(metadata, {"a": 1.0, "b": None, "c": [1]})
    assert not matches(metadata, {"a": True})
    assert not matches(metadata, {"d": None})
    assert not matches(metadata, {"a": 1, "c": []})


def test_criteria():
    assert check_criteria(None, {}) == {}
    assert check_criteria({"select": (1,)}, {"a": 2}) == {"select": [1], "a": 2}
    assert check_criteria({"a": 1.0}, {"a": 1}) == {"a": 1.0}
    assert check_criteria({"a": True}, {"a": 1}) is None
    assert check_criteria(MappingProxyType({"a": 1}), {}) == {"a": 1}
    for where, error in [
        ([], TypeError),
        ("a", TypeError),
        ([("a", 1)], TypeError),
        (5, TypeError),
        ({1: 2}, TypeError),
        ({"a": b""}, TypeError),
        ({"a": math.nan}, ValueError),
        ({"\ud800": 1}, ValueError),
    ]:
        with pytest.raises(error):
            check_criteria(where, {})
    with pytest.raises(TypeError):
        check_criteria(None, {"a": {1}})


def test_criteria_do_not_alias():
    where = {"a": [1]}
    criteria = check_criteria(where, {})
    where["a"].append(2)
    assert criteria == {"a": [1]}


def test_json_is_ascii_and_compact():
    assert dumps({"é": [1, {"a": None}], "b": 1.5}) == '{"\\u00e9":[1,{"a":null}],"b":1.5}'
    with pytest.raises(ValueError, match="JSON"):
        dumps({"a": math.nan})


@pytest.mark.parametrize(
    "text", ["", "[]", "null", '"a"', "1", "{", '{"a":}', b"\xff\xfe\xff", "{} {}", "\0"]
)
def test_what_is_no_json_object_is_a_value_error(text):
    with pytest.raises(ValueError, match=r"JSON|Expect|Extra|decode"):
        loads(text)


def test_metadata_of_others_may_break_our_rules_but_not_us():
    assert loads(b'\n{"a": 1, "a": 2}') == {"a": 2}
    assert math.isnan(loads('{"a": NaN}')["a"])
    assert loads('{"a": "\\ud800"}') == {"a": "\ud800"}
    with pytest.raises(ValueError, match="deep"):
        loads('{"a":' * 10**5)
    with pytest.raises(ValueError, match="deep"):
        loads("[" * 10**5)
    deepest = '{"a":' + "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1) + "}"
    assert loads(deepest.encode()) == normalise(loads(deepest))
    for deep in ('{"a":' * 300 + "1" + "}" * 300, deepest.replace("[]", "[{}]")):
        with pytest.raises(ValueError, match="deep"):
            loads(deep)
        with pytest.raises(ValueError, match="deep"):
            loads(deep.encode())
    wide = {"a": [[]] * 300}
    assert loads(dumps(wide)) == wide
    with pytest.raises(ValueError, match="digits"):
        loads('{"a": ' + "9" * 5000 + "}")


def test_a_digest_tells_apart_what_differs_and_nothing_else():
    parts = [
        (),
        (1,),
        (1.0,),
        (True,),
        ("1",),
        (None,),
        (1, 2),
        ({},),
        ({"a": 1},),
        ({"a": True},),
        ({"a": [1]},),
        ({"a": {"b": 1}},),
    ]
    assert len({digest(*part) for part in parts}) == len(parts)
    assert digest({"a": 1, "b": {"c": 2, "d": 3}}) == digest({"b": {"d": 3, "c": 2}, "a": 1})
    assert digest(math.nan, b"x", {"\ud800": 1})
    assert json.dumps(digest(1)).isascii()
