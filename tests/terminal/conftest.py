"""A clock that is set by hand, and terminals that can be looked at."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import termios
import threading
import unicodedata

import pytest

from encore.events import package_globals
from encore.events.api import EventManager, ProgressManager

DEADLINE = 30


class Clock:
    def __init__(self):
        self.now = 1000.0
        self.reads = 0

    def __call__(self):
        self.reads += 1
        return self.now


class Line(list):
    """The cells of a line that have been used, and whether it goes on in the next one."""

    joined = False


class Emulation:
    """Draws what a terminal of this size would show, and refuses what it does not know."""

    def __init__(self, columns, lines=24):
        self.columns = columns
        self.height = lines
        self.rows = [Line()]
        self.top = self.row = self.column = 0
        self.wrapped = False
        self.codes = set()
        self.bells = 0

    def feed(self, text):
        for token in re.findall(r"\x1b\[[\d;]*[A-Za-z]|\x1b.?|[\s\S]", text):
            if token[0] == "\x1b":
                self._escape(token)
            elif token == "\r":
                self.column = 0
            elif token == "\n":
                self._down()
            elif token == "\b":
                self.column = max(0, self.column - 1)
            elif token == "\x07":
                self.bells += 1
            else:
                assert unicodedata.category(token) not in ("Cc", "Cf", "Cs"), repr(token)
                self._put(token)

    def _down(self):
        self.row += 1
        self.column = 0  # as the driver of the terminal makes it
        if self.row == len(self.rows):
            self.rows.append(Line())
        self.top = max(self.top, self.row - self.height + 1)

    def _put(self, char):
        if unicodedata.combining(char):
            return
        size = 2 if unicodedata.east_asian_width(char) in "WF" else 1
        if self.column + size > self.columns:
            self.wrapped = True
            self.rows[self.row].joined = True
            self._down()
        row = self.rows[self.row]
        row.extend(" " * (self.column + size - len(row)))
        row[self.column] = char
        if size == 2:
            row[self.column + 1] = ""
        self.column += size

    def _escape(self, token):
        kind, number = token[-1], token[2:-1]
        if kind == "A":
            self.row = max(self.top, self.row - int(number or 1))
        elif token == "\x1b[2K":
            self.rows[self.row] = Line()
            if self.row:
                self.rows[self.row - 1].joined = False
        elif kind == "K":
            # Behind a full line the cursor still is on its last character. What is cleared has been
            # used all the same, for tmux.
            row = self.rows[self.row]
            at = min(self.column, self.columns - 1)
            row[at:] = " " * (len(row) - at)
        elif kind == "J":
            if self.row == self.top and self.column == 0:
                # As tmux does: what is cleared as a whole is kept in the history.
                self.top = self.row = len(self.rows)
                self.rows.append(Line())
            del self.rows[self.row][self.column :]
            del self.rows[self.row + 1 :]
        elif kind == "m":
            self.codes.add(number)
        else:
            raise AssertionError(f"unknown escape sequence {token!r}")

    def resize(self, columns, lines=None):
        """As terminals do that join the lines they have broken, and break them again."""
        self.columns = columns
        self.height = lines or self.height
        whole, cursor = [], 0
        for number, row in enumerate(self.rows):
            if number and self.rows[number - 1].joined:
                whole[-1] += row
            else:
                whole.append(list(row))
            if number == self.row:
                cursor = len(whole) - 1
        self.rows = []
        for number, cells in enumerate(whole):
            if number == cursor:
                self.row = len(self.rows)
            parts = [Line(cells[i : i + columns]) for i in range(0, len(cells), columns)]
            for part in parts[:-1]:
                part.joined = True
            self.rows += parts or [Line()]
        self.top = max(0, self.row - self.height + 1)

    @property
    def lines(self):
        lines = ["".join(row).rstrip() for row in self.rows]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    @property
    def visible(self):
        """The lines on the screen, those that have scrolled away left out."""
        return ["".join(row).rstrip() for row in self.rows[self.top :]]


class FakeTerminal(io.StringIO):
    """A stream that says it is a terminal and draws what it gets."""

    encoding = "utf-8"

    def __init__(self, columns=80, lines=24):
        super().__init__()
        self.screen = Emulation(columns, lines)
        self.writes = 0
        self.frames = []

    def isatty(self):
        return True

    def write(self, text):
        self.writes += 1
        self.screen.feed(text)
        self.frames.append(self.screen.visible)
        return super().write(text)

    @property
    def lines(self):
        return self.screen.lines


class PseudoTerminal:
    """A real one; a thread reads its other side and draws what arrives there."""

    def __init__(self, columns, lines=24, encoding="utf-8"):
        self.master, slave = pty.openpty()
        self.screen = Emulation(columns, lines)
        self.stream = open(slave, "w", encoding=encoding)  # noqa: SIM115
        self.raw = ""
        self.size(columns, lines)
        self._arrived = threading.Condition()
        self._bells = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def size(self, columns, lines):
        size = struct.pack("HHHH", lines, columns, 0, 0)
        fcntl.ioctl(self.stream.fileno(), termios.TIOCSWINSZ, size)

    def _read(self):
        from codecs import getincrementaldecoder

        decoder = getincrementaldecoder(self.stream.encoding)()
        while True:
            try:
                data = os.read(self.master, 65536)
            except OSError:  # EIO: the other side is closed
                return
            with self._arrived:
                self.raw += decoder.decode(data)
                if self.raw.endswith("\x07"):
                    self._arrived.notify_all()

    def lines(self):
        """What is shown once all that was written has arrived."""
        self._bells += 1
        with self._arrived:
            os.write(self.stream.fileno(), b"\x07")
            assert self._arrived.wait_for(lambda: self.raw.count("\x07") == self._bells, DEADLINE)
            assert self.raw[-1] == "\x07"
            self.screen.feed(self.raw[self.raw.rfind("\x07", 0, -1) + 1 :])
        return self.screen.lines

    def close(self):
        self.stream.close()
        self._reader.join(DEADLINE)
        os.close(self.master)


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch):
    for name in ("NO_COLOR", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def manager():
    return EventManager()


@pytest.fixture
def process_manager(monkeypatch):
    manager = EventManager()
    monkeypatch.setattr(package_globals, "_event_manager", manager)
    return manager


@pytest.fixture
def operation(manager):
    """Makes an operation, which emits its events at the manager."""

    def make(message="Copying", steps=-1, operation_id=None, **attributes):
        return ProgressManager(manager, None, operation_id, message, steps, **attributes)

    return make


@pytest.fixture
def fake_terminal(monkeypatch):
    def make(columns=80, lines=24):
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("LINES", str(lines))
        return FakeTerminal(columns, lines)

    return make


@pytest.fixture
def terminal():
    made = []

    def make(*args, **kwargs):
        made.append(PseudoTerminal(*args, **kwargs))
        return made[-1]

    yield make
    for one in made:
        one.close()
