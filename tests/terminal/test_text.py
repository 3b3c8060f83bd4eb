from __future__ import annotations

import pytest

from encore.terminal._text import clean, columns, fit, painted_columns, printable, wrap


class Evil:
    def __str__(self):
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("Copying", "Copying"),
        (42, "42"),
        (None, "None"),
        (b"x", "b'x'"),
        (Evil(), "<Evil>"),
        ("a\nb\t c\r\n", "a b c"),
        ("\x1b[31mred\x07", "?[31mred?"),
        ("\x9b2J", "?2J"),
        ("\x00", "?"),
        ("file \udcff", "file ?"),
        ("\u202egnp.exe", "gnp.exe"),
        ("a\u200bb\u2028c\u3000d", "ab c d"),
        ("naïve 日本", "naïve 日本"),
        ("x" * 5000, "x" * 2000),
    ],
)
def test_clean_text_cannot_harm_a_line(message, text):
    assert clean(message) == text


@pytest.mark.parametrize(
    ("text", "width"),
    [
        ("", 0),
        ("abc", 3),
        ("日本", 4),
        ("e\u0301", 1),
        ("\uff46", 2),
        ("❤\ufe0f", 2),
        ("😀\ufe0f", 2),
        ("\ufe0f", 0),
        ("…", 1),
    ],
)
def test_columns(text, width):
    assert columns(text) == width


@pytest.mark.parametrize(
    ("text", "width", "fitted"),
    [
        ("abc", 5, "abc  "),
        ("abc", 3, "abc"),
        ("abcd", 3, "ab…"),
        ("abcd", 1, "…"),
        ("abcd", 0, ""),
        ("日本語", 5, "日本…"),
        ("日本語", 4, "日… "),
        ("日本", 1, "…"),
        ("e\u0301e\u0301e\u0301", 2, "e\u0301…"),
    ],
)
def test_fit_is_exact(text, width, fitted):
    assert fit(text, width) == fitted
    assert columns(fitted) == width


@pytest.mark.parametrize(
    ("text", "width", "indent", "lines"),
    [
        ("", 10, 0, []),
        ("short", 10, 2, ["short"]),
        ("one two three", 7, 0, ["one two", "three"]),
        ("one two three", 8, 2, ["one two", "  three"]),
        ("abcdefghij", 4, 0, ["abcd", "efgh", "ij"]),
        ("abcdefghij", 5, 1, ["abcde", " fghi", " j"]),
        ("a bcdefgh", 4, 0, ["a bc", "defg", "h"]),
        ("abc defghijkl m", 4, 1, ["abc", " def", " ghi", " jkl", " m"]),
        ("日本語", 3, 0, ["日", "本", "語"]),
        ("日本語", 1, 2, []),
        ("a日b", 1, 0, ["a", "b"]),
        ("abc", 0, 2, []),
        ("abc", -1, 2, []),
    ],
)
def test_wrap(text, width, indent, lines):
    assert wrap(text, width, indent) == lines


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", [""]),
        ("a", ["a"]),
        ("a\n", ["a"]),
        ("a\n\nb\r\nc", ["a", "", "b", "c"]),
        ("a\tb", ["a       b"]),
        ("  two  spaces", ["  two  spaces"]),
        ("x" * 5000, ["x" * 5000]),
        ("\x1b[31mred\x1b[0m", ["\x1b[31mred\x1b[0m"]),
        ("\x1b[38;5;1mred", ["\x1b[38;5;1mred\x1b[0m"]),
        ("\x1b[2Ja\x1b[m", ["?[2Ja\x1b[m"]),
        ("\x1b[", ["?["]),
        ("\x1b]0;title\x07\x9b2J\rb", ["?]0;title??2J", "b"]),
        ("\udcff", ["?"]),
        ("日本 👨\u200d👩", ["日本 👨\u200d👩"]),
    ],
)
def test_printable_text_keeps_its_colours_and_nothing_else(text, lines):
    assert printable(text) == lines


def test_colours_take_no_columns():
    assert painted_columns("\x1b[31mred\x1b[0m 日\x1b[1;4mm\x1b[m") == 7
    assert painted_columns("plain m") == 7
