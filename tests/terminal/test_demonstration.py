"""``python -m encore.terminal``: everything together, looked at as whole screens."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest

from encore.terminal.__main__ import Demonstration, main

DEADLINE = 30

SCREEN_80 = """\
A download in bytes, and a scan:
found a virtual disk (display.write)
3 files cannot be read (logging)
Downloading           ━━━━━━━━━━━━━  100%       24.0 MiB  16.0 MiB/s   in 1.5 s
Scanning directories  !                      6,510 files     4,340/s   in 1.5 s
WARNING: 3 files skipped

Operations in another, and a failure:
Publishing the site           ━━━──   66%            2/3       1.3/s   in 1.5 s
ERROR: not published
  Rendering pages             ━━━━━  100%             40      80.0/s   in 0.5 s
  Checking links              ✓                       80       160/s   in 0.5 s
  Uploading                   ━━━──   62%    5.0/8.0 MiB  11.1 MiB/s   in 0.4 s
  ERROR: connection reset by peer

More of them than there is room for:
Converting pictures           ━━━━━  100%          60/60      30.0/s   in 2.0 s
WARNING: 1 of 60 failed
  picture-21.png              ━━━──   60%          12/20      21.8/s   in 0.5 s
  ERROR: no such file
  picture-54.png              ━━━━━  100%             25      27.8/s   in 0.9 s
  picture-60.png              ━━━━━  100%             24      24.0/s   in 1.0 s
  … and 57 more done

A loop:
Counting                      ━━━━━  100%             40      80.0/s   in 0.5 s
"""

SCREEN_40 = """\
A download in bytes, and a scan:
found a virtual disk (display.write)
3 files cannot be read (logging)
Downloading      ━━━━━  100%   in 1.5 s
Scanning direc…  !             in 1.5 s
WARNING: 3 files skipped

Operations in another, and a failure:
Publishing the…  ━━━──   66%   in 1.5 s
ERROR: not published
  Rendering pa…  ━━━━━  100%   in 0.5 s
  Checking lin…  ✓ 80          in 0.5 s
  Uploading      ━━━──   62%   in 0.4 s
  ERROR: connection reset by peer

More of them than there is room for:
Converting pic…  ━━━━━  100%   in 2.0 s
WARNING: 1 of 60 failed
  picture-21.p…  ━━━──   60%   in 0.5 s
  ERROR: no such file
  picture-54.p…  ━━━━━  100%   in 0.9 s
  picture-60.p…  ━━━━━  100%   in 1.0 s
  … and 57 more done

A loop:
Counting         ━━━━━  100%   in 0.5 s
"""

CROWD_80 = """\
Converting pictures           ─────    0%           0/60
  picture-01.png              ━━───   47%          10/21      20.0/s  <1 s left
  picture-02.png              ━━━━╸   90%          20/22      38.1/s  <1 s left
  picture-03.png              ━━───   43%          10/23      19.0/s  <1 s left
"""


def run(terminal):
    assert main(["--fast"], terminal) == 0
    assert terminal.getvalue().count("\n") > 100
    return terminal


def check_every_frame(terminal):
    assert not terminal.screen.wrapped  # which nothing in it makes necessary
    for frame in terminal.frames:
        assert len(frame) <= terminal.screen.height
        assert all(len(line) < terminal.screen.columns for line in frame)
        assert frame[-1] == ""  # the line of the cursor


@pytest.mark.parametrize(
    ("columns", "lines", "screen"),
    [(80, 24, SCREEN_80), (80, 200, SCREEN_80), (80, 6, SCREEN_80), (40, 10, SCREEN_40)],
)
def test_what_stays_is_right_however_much_was_painted_over(fake_terminal, columns, lines, screen):
    terminal = run(fake_terminal(columns, lines))
    check_every_frame(terminal)
    assert terminal.lines == screen.splitlines()
    assert (terminal.screen.row, terminal.screen.column) == (len(terminal.lines), 0)


@pytest.mark.parametrize("columns", [1, 2, 5, 10, 20, 30, 57, 132])
def test_no_line_is_wider_than_the_terminal(fake_terminal, clock, columns, monkeypatch):
    def sleep(seconds):
        clock.now += seconds

    terminal = fake_terminal(columns, 10)
    demonstration = Demonstration(terminal, clock=clock, sleep=sleep)
    # Lines of the program's own are as long as they are.
    monkeypatch.setattr(demonstration.display, "write", len)
    demonstration.run()
    assert not terminal.screen.wrapped
    assert len(terminal.frames) > 20
    assert all(len(frame) <= 10 for frame in terminal.frames)


@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (40, 10)])
def test_the_crowd_is_summarised(fake_terminal, columns, lines):
    terminal = run(fake_terminal(columns, lines))
    crowds = [frame for frame in terminal.frames if any("… and" in line for line in frame)]
    full = next(frame for frame in crowds if "running" in "".join(frame))
    assert len(full) == lines
    if columns == 80:
        assert full[:4] == CROWD_80.splitlines()
        assert full[-2] == "… and 11 more: 10 running, 1 done"
    else:
        assert full[-2] == "… and 25 more: 24 running, 1 done"
    assert any("… and" in line and "1 failed" in line for frame in crowds for line in frame)


def test_colours(fake_terminal):
    assert run(fake_terminal()).screen.codes == {"0", "36", "90", "32", "33", "31"}


def test_no_color(fake_terminal, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = run(fake_terminal())
    check_every_frame(terminal)
    assert terminal.screen.codes == set()
    assert terminal.lines == SCREEN_80.splitlines()


def test_ascii(fake_terminal):
    terminal = fake_terminal()
    terminal.__class__ = type("Ascii", (type(terminal),), {"encoding": "ascii"})
    run(terminal)
    check_every_frame(terminal)
    assert terminal.getvalue().isascii()
    assert "?" not in terminal.getvalue()
    assert "  ... and 57 more done" in terminal.lines


def test_a_log_file(tmp_path):
    with open(tmp_path / "log", "w", encoding="utf-8") as file:
        assert main(["--fast"], file) == 0
    lines = (tmp_path / "log").read_text(encoding="utf-8").splitlines()
    assert "\x1b" not in "".join(lines)
    assert "\r" not in "".join(lines)
    # What is nested and soon over is told of by what it is nested in, unless it fails.
    assert lines == [
        "A download in bytes, and a scan:",
        "Downloading: started",
        "Scanning directories: started",
        "found a virtual disk (display.write)",
        "3 files cannot be read (logging)",
        "Downloading: 100% (24.0 MiB, 16.0 MiB/s, in 1.5 s), done",
        "Scanning directories: 6,510 files (4,340/s, in 1.5 s), WARNING: 3 files skipped",
        "",
        "Operations in another, and a failure:",
        "Publishing the site: started",
        "  Uploading: 62% (5.0/8.0 MiB, 11.1 MiB/s, in 0.4 s), ERROR: connection reset by peer",
        "Publishing the site: 66% (2/3, 1.3/s, in 1.5 s), ERROR: not published",
        "",
        "More of them than there is room for:",
        "Converting pictures: started",
        "  picture-21.png: 60% (12/20, 21.8/s, in 0.5 s), ERROR: no such file",
        "Converting pictures: 100% (60/60, 30.0/s, in 2.0 s), WARNING: 1 of 60 failed",
        "",
        "A loop:",
        "Counting: started",
        "Counting: 100% (40, 80.0/s, in 0.5 s), done",
    ]


def test_off(fake_terminal):
    terminal = fake_terminal()
    assert main(["--fast", "--mode", "off"], terminal) == 0
    assert [line for line in terminal.lines if line] == [
        "A download in bytes, and a scan:",
        "found a virtual disk (display.write)",
        "3 files cannot be read (logging)",
        "Operations in another, and a failure:",
        "More of them than there is room for:",
        "A loop:",
    ]


def test_an_interrupt_ends_it_quietly(fake_terminal, monkeypatch):
    terminal = fake_terminal()

    def sleep(demonstration):
        raise KeyboardInterrupt

    monkeypatch.setattr(Demonstration, "_publish", sleep)
    assert main(["--fast"], terminal) == 130
    assert terminal.lines[-1] == "Operations in another, and a failure:"


def test_repr():
    assert repr(Demonstration(io.StringIO())).startswith("<Demonstration with <ProgressDisplay")


# The command


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "encore.terminal", *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


def test_the_command_writes_to_standard_error():
    done = command("--fast")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.splitlines()[-1] == "Counting: 100% (40, 80.0/s, in 0.5 s), done"


def test_help_and_wrong_use():
    done = command("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "--mode {auto,bar,lines,off}" in done.stdout
    assert "--fast" in done.stdout
    for arguments in (["--mode", "bars"], ["--slow"], ["more"]):
        done = command(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("usage: python -m encore.terminal")
