from __future__ import annotations

import io
import os

import pytest

from encore.terminal._stream import Stream
from encore.terminal.api import write_static


class Bare:
    """The least that can be written to."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text


class Terminal(Bare):
    encoding = "utf-8"

    def isatty(self):
        return True


class Hostile(Bare):
    """Has everything, and nothing works."""

    def isatty(self):
        raise RuntimeError("isatty")

    def fileno(self):
        raise RuntimeError("fileno")

    @property
    def encoding(self):
        raise RuntimeError("encoding")


class Broken(Bare):
    def __init__(self, error):
        super().__init__()
        self.error = error
        self.calls = 0

    def write(self, text):
        self.calls += 1
        raise self.error


@pytest.mark.parametrize("kind", [Bare, Hostile])
def test_a_stream_needs_nothing_but_write(kind):
    target = kind()
    stream = Stream(target)
    assert not stream.terminal
    assert not stream.style.color
    assert stream.style.unicode
    assert stream.size() == (80, 24)
    stream.write("é\n")
    assert target.text == "é\n"


@pytest.mark.parametrize(
    ("environ", "terminal", "color", "unicode"),
    [
        ({}, True, True, True),
        ({"TERM": "xterm"}, True, True, True),
        ({"TERM": "dumb"}, False, False, True),
        ({"TERM": "linux"}, True, True, False),
        ({"NO_COLOR": "1"}, True, False, True),
        ({"NO_COLOR": "0"}, True, False, True),
        ({"NO_COLOR": ""}, True, True, True),
    ],
)
def test_what_a_terminal_can_do(environ, terminal, color, unicode):
    stream = Stream(Terminal(), environ)
    assert (stream.terminal, stream.style.color, stream.style.unicode) == (terminal, color, unicode)


@pytest.mark.parametrize(
    ("encoding", "unicode", "written"),
    [
        ("utf-8", True, "é日?"),
        ("UTF-16", True, "é日?"),
        ("ascii", False, "???"),
        ("latin-1", False, "é??"),
        ("cp437", False, "é??"),
        ("no such encoding", False, "???"),
        (None, True, "é日?"),
        (8, True, "é日?"),
    ],
)
def test_characters_are_those_the_encoding_takes(encoding, unicode, written):
    target = Terminal()
    target.encoding = encoding
    stream = Stream(target, {})
    assert stream.style.unicode is unicode
    stream.write("é日\udcff")
    assert target.text == written


def test_backslashes_of_the_error_handler_do_not_widen_a_line():
    raw = io.BytesIO()
    target = io.TextIOWrapper(raw, encoding="ascii", errors="backslashreplace")
    Stream(target, {}).write("日本")
    assert raw.getvalue() == b"??"


def test_a_stream_that_takes_less_than_it_says_gets_ascii():
    class Liar(Terminal):
        def write(self, text):
            text.encode("ascii")
            super().write(text)

    target = Liar()
    stream = Stream(target, {})
    assert stream.style.unicode
    stream.write("━日")
    stream.write("é")
    assert target.text == "???"
    assert not stream.style.unicode
    assert stream.style.color
    assert not stream.broken


@pytest.mark.parametrize(
    "error",
    [
        BrokenPipeError(),
        OSError(28, "disk full"),
        ValueError("I/O operation on closed file"),
        RuntimeError("of somebody's own"),
        AttributeError("write"),
    ],
)
def test_a_stream_that_fails_is_left_alone(error):
    target = Broken(error)
    stream = Stream(target)
    stream.write("a")
    stream.write("b")
    assert target.calls == 1
    assert stream.broken


def test_a_stream_that_is_full_for_now_is_tried_again():
    target = Broken(BlockingIOError())
    stream = Stream(target)
    stream.write("a")
    stream.write("b")
    assert target.calls == 2


def test_interrupts_pass_through():
    with pytest.raises(KeyboardInterrupt):
        Stream(Broken(KeyboardInterrupt())).write("a")


def test_a_stream_that_cannot_even_write_or_flush():
    stream = Stream(object())
    stream.write("a")
    assert stream.broken

    class NoFlush(Bare):
        def flush(self):
            raise BrokenPipeError

    stream = Stream(NoFlush())
    stream.write("a")
    assert stream.broken


def test_closed_files_and_no_stream_at_all():
    closed = io.StringIO()
    closed.close()
    for target in (closed, None):
        stream = Stream(target)
        stream.write("a")
        assert stream.broken
        assert not stream.terminal
        assert stream.size() == (80, 24)


@pytest.mark.parametrize(
    ("environ", "size"),
    [
        ({}, (80, 24)),
        ({"COLUMNS": "100", "LINES": "7"}, (100, 7)),
        ({"COLUMNS": "many", "LINES": ""}, (80, 24)),
        ({"COLUMNS": "0", "LINES": "-3"}, (80, 24)),
    ],
)
def test_size_without_a_descriptor_comes_from_the_environment(environ, size):
    assert Stream(Terminal(), environ).size() == size


def test_size_of_a_real_terminal_is_asked_each_time(terminal):
    real = terminal(80, 24)
    stream = Stream(real.stream, {"COLUMNS": "500"})
    assert stream.terminal
    assert stream.size() == (80, 24)
    real.size(33, 9)
    assert stream.size() == (33, 9)
    real.size(0, 0)
    assert stream.size() == (500, 24)


def test_a_descriptor_that_is_no_terminal(tmp_path):
    with open(tmp_path / "log", "w") as file:
        stream = Stream(file, {})
        assert not stream.terminal
        assert stream.size() == (80, 24)


def test_the_environment_is_that_of_the_process(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    assert not Stream(Terminal()).style.color
    assert repr(Stream(None)) == "Stream(None)"


def test_write_static_returns_to_where_it_was(capsys):
    write_static("50 %")
    assert capsys.readouterr() == ("50 %\b\b\b\b", "")


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("", ""),
        ("日x", "日x\b\b\b"),
        ("a\nb\x1b[2J", "a b?[2J" + "\b" * 7),
        ("y" * 100, "y" * 100 + "\b" * 100),
    ],
)
def test_write_static_counts_columns(text, written):
    stream = io.StringIO()
    write_static(text, stream)
    assert stream.getvalue() == written


def test_write_static_stays_in_its_line(terminal):
    real = terminal(20)
    write_static("z" * 30, real.stream)
    write_static("what is covered", real.stream)
    real.stream.write("now")
    real.stream.flush()
    assert real.lines() == ["nowt is coveredzzz…"]
    assert not real.screen.wrapped


def test_write_static_survives_a_broken_stream():
    write_static("x", Broken(BrokenPipeError()))
    read, write = os.pipe()
    os.close(read)
    file = io.TextIOWrapper(io.FileIO(write, "w"), write_through=True)
    write_static("x", file)
    file.close()
