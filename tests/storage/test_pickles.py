"""Pickles of plain data are read, and nothing in them is run."""

from __future__ import annotations

import collections
import copyreg
import os
import pickle
import pickletools
import resource
import subprocess
import sys

import pytest

from encore.storage._pickles import load_plain

PLAIN = {
    "a_str": "test3",
    "unicode": "äöü😀",
    "an_int": 1,
    "big": 10**30,
    "negative": -5,
    "a_float": 2.5,
    "a_bool": True,
    "no": False,
    "none": None,
    "a_list": ["one", "two", ["three"]],
    "a_dict": {"one": {"two": 2}},
    "a_tuple": (1, 2, 3, 4, (), (1,), (1, 2), (1, 2, 3)),
    "empty": [{}, [], ""],
    "long": "x" * 70000,
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_of_every_protocol(protocol):
    assert load_plain(pickle.dumps(PLAIN, protocol)) == PLAIN
    assert load_plain(pickletools.optimize(pickle.dumps(PLAIN, protocol))) == PLAIN


def test_str_of_python_2():
    assert load_plain(b"\x80\x02}q\x00U\x01aq\x01U\x03b\xc3\xa4q\x02s.") == {"a": "bä"}
    assert load_plain(b"(dp0\nS'a'\np1\nI1\nsS'b'\np2\nI01\ns.") == {"a": 1, "b": True}
    assert load_plain(b"\x80\x02}q\x00U\x01aq\x01U\x01\xe4q\x02s.") == {"a": "ä"}
    assert load_plain(b"\x80\x02}q\x00U\x01aq\x01T\x02\x00\x00\x00bcs.") == {"a": "bc"}


class Runs:
    def __reduce__(self):
        return os.mkdir, ("ran",)


class RunsEx:
    def __reduce_ex__(self, protocol):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", [Runs, RunsEx])
def test_objects_are_refused_and_not_made(tmp_path, monkeypatch, kind, protocol):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="does not use"):
        load_plain(pickle.dumps({"a": kind()}, protocol))
    assert not os.path.exists("ran")
    # It bites: this is what the standard library does.
    pickle.loads(pickle.dumps({"a": kind()}, protocol))
    assert os.path.exists("ran")


@pytest.mark.parametrize(
    "pickled",
    [
        b"cos\nsystem\n(S'touch ran'\ntR.",
        b"(S'touch ran'\nios\nsystem\n.",
        b"(cos\nsystem\nS'touch ran'\no.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x09touch ran\x85R.",
        b"\x80\x02cbuiltins\nexec\nU\x04pass\x85R.",
        b"\x80\x02}\x81.",
        b"P1\n.",
        b"\x80\x02}Q.",
        b"\x80\x05\x97.",
        b"\x80\x02}b.",
    ],
)
def test_opcodes_that_run_something_are_refused(tmp_path, monkeypatch, pickled):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="does not use"):
        load_plain(pickled)
    assert os.listdir(tmp_path) == []


def test_registered_extensions_are_refused_even_when_they_are_cached():
    copyreg.add_extension("collections", "OrderedDict", 240)
    try:
        pickled = pickle.dumps(collections.OrderedDict, 2)
        assert b"\x82\xf0" in pickled
        for _ in range(2):
            with pytest.raises(ValueError, match="does not use EXT1"):
                load_plain(pickled)
            # This puts it into the cache, which needs no find_class().
            assert pickle.loads(pickled) is collections.OrderedDict
        for opcode in (b"\x83\xf0\x00", b"\x84\xf0\x00\x00\x00"):
            with pytest.raises(ValueError, match="does not use EXT"):
                load_plain(b"\x80\x02" + opcode + b".")
    finally:
        copyreg.remove_extension("collections", "OrderedDict", 240)


@pytest.mark.parametrize(
    "pickled",
    [
        b"",
        b"x",
        b"\x80",
        b"\x80\x02",
        b"\x80\x02}",
        b".",
        b"\x80\x63.",
        b"\x80\x02]}s.",
        b"\x80\x02h\x05.",
        b"\x80\x02e.",
        b"\x80\x02}(]K\x01u.",
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f}.",
        b"\x80\x02X\xff\xff\xff\x7fa.",
        b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fa.",
        b"I1x\n.",
        b"S'a\n.",
        b"0.",
        b"1.",
        b"2.",
        b"\x80\x02}U\x01a",
        b"\x80\x02(}l",
    ],
)
def test_nonsense_is_a_value_error(pickled):
    with pytest.raises(ValueError, match=r"."):
        load_plain(pickled)


def nested_references(depth, width):
    """A pickle of a list of references to a list of references to..."""
    body = b"\x80\x02]q\x00X\x01\x00\x00\x00xa"
    for level in range(1, depth):
        body += b"]q%c(" % level + b"h%c" % (level - 1) * width + b"e"
    return body + b"."


def many_texts():
    return b"\x80\x02X\x00\x00\x04\x00" + b"x" * 2**18 + b"q\x00](" + b"h\x00" * 10**4 + b"e."


def hidden_behind_a_key():
    return (
        nested_references(40, 20).replace(b"\x80\x02", b"\x80\x02}X\x01\x00\x00\x00a")[:-1] + b"s."
    )


@pytest.mark.parametrize(
    "pickled",
    [
        nested_references(12, 10),
        nested_references(200, 100),
        many_texts(),
        hidden_behind_a_key(),
        b"\x80\x02]q\x00h\x00a.",
        b"\x80\x02]r\xff\xff\xff\x0f.",
        b"\x80\x02]p99999999\n.",
        b"\x80\x02]p-1\n.",
    ],
)
def test_small_pickles_do_not_grow_large(pickled):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r"."):
        load_plain(pickled)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


def test_objects_that_are_named_a_few_times_are_fine():
    shared = ["x" * 100] * 50
    data = {str(number): shared for number in range(100)}
    assert load_plain(pickle.dumps(data, 2)) == data
    assert load_plain(nested_references(4, 10))[0][0][0] == ["x"]


def test_reading_many_does_not_import_what_they_name():
    code = (
        "import sys; from encore.storage._pickles import load_plain\n"
        "try: load_plain(b'cthis\\ns\\n.')\n"
        "except ValueError: print('this' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
