"""The display on a real terminal, whose other side is read and drawn."""

from __future__ import annotations

import subprocess
import sys

import pytest

from encore.terminal.api import ProgressDisplay


@pytest.mark.parametrize(
    ("columns", "running", "ended"),
    [
        (
            80,
            [
                "Copying        ━━━━━━━━━━╸──────────   50%   5.0/10.0 MiB  1.2 MiB/s   4 s left",
                "Indexing       ━━━━━────────────────   25%          10/40      3.8/s   8 s left",
                "Scanning 日本  ⠋                                   12,345    3,086/s        4 s",
            ],
            [
                "Indexing       ━━━━━────────────────   25%          10/40      2.5/s   in 4.0 s",
                "ERROR: disk full",
                "Scanning 日本  ✓                                   12,345    3,086/s   in 4.0 s",
                "Copying        ━━━━━━━━━━━━━━━━━━━━━  100%   5.0/10.0 MiB  1.2 MiB/s   in 4.0 s",
            ],
        ),
        (
            40,
            [
                "Copying        ━━━╸───   50%   4 s left",
                "Indexing       ━╸─────   25%   8 s left",
                "Scanning 日本  ⠋ 12,345             4 s",
            ],
            [
                "Indexing       ━╸─────   25%   in 4.0 s",
                "ERROR: disk full",
                "Scanning 日本  ✓ 12,345        in 4.0 s",
                "Copying        ━━━━━━━  100%   in 4.0 s",
            ],
        ),
    ],
)
def test_screens(manager, operation, clock, terminal, columns, running, ended):
    real = terminal(columns)
    display = ProgressDisplay(manager, stream=real.stream, clock=clock)
    copying = operation("Copying", 10 * 2**20, unit="B")
    indexing = operation("Indexing", 40, parent=None)
    scanning = operation("Scanning 日本", parent=None)
    for progress in (copying, indexing, scanning):
        progress.start()
    clock.now += 2
    indexing.step(step=10)
    scanning.step(step=12345)
    clock.now += 2
    copying.step(step=5 * 2**20)
    assert real.lines() == running
    indexing.end("disk full", "error")
    scanning.end()
    copying.end()
    assert real.lines() == ended
    assert not real.screen.wrapped
    assert (real.screen.row, real.screen.column) == (4, 0)
    assert display.writers == {}


def test_the_width_is_asked_at_each_repaint(manager, operation, clock, terminal):
    real = terminal(80)
    display = ProgressDisplay(manager, stream=real.stream, clock=clock)
    progress = operation("Copying", 10)
    progress.start()
    assert real.lines()[0].endswith("─    0%   0/10")
    real.size(30, 24)
    real.screen.resize(30)
    clock.now += 1
    progress.step(step=5)
    assert real.lines() == ["Copying  ━━━━━━━───────   50%"]
    real.size(60, 24)
    real.screen.resize(60)
    progress.end()
    assert real.lines() == ["Copying  ━━━━━━━━━━━━━━━  100%   5/10      5.0/s   in 1.0 s"]
    assert display.writers == {}
    assert not real.screen.wrapped


def test_a_terminal_of_another_encoding(manager, operation, clock, terminal):
    real = terminal(40, encoding="latin-1")
    display = ProgressDisplay(manager, stream=real.stream, clock=clock)
    with operation("für 日本", 10) as progress:
        clock.now += 1
        progress.step(step=5)
        other = operation("Scanning", 10, parent=None)
        other.start()
        assert real.lines() == [
            "für ??    [#####-----]   50%   1 s left",
            "Scanning  [----------]    0%",
        ]
        other.end()
    display.close()


PROGRAM = """
from encore.events.api import EventManager, ProgressManager
from encore.terminal.api import ProgressDisplay

manager = EventManager()
with ProgressDisplay(manager) as display:
    for n in range(20):
        with ProgressManager(manager, None, n, "x" * 500, 10) as progress:
            progress.step(step=5)
print("went on", flush=True)
"""


def test_a_program_whose_reader_went_away_ends_well():
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stderr.close()
    with process:
        assert process.stdout.read() == b"went on\n"
    assert process.returncode == 0
