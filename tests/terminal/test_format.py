from __future__ import annotations

import pytest

from encore.terminal._format import (
    Row,
    Style,
    Widths,
    count,
    duration,
    indentation,
    line,
    plain,
    summary,
)
from encore.terminal._meter import Meter
from encore.terminal._text import columns

ASCII = Style(unicode=False)
PLAIN = Style()


@pytest.mark.parametrize(
    ("seconds", "text", "exact"),
    [
        (0, "0 s", "0.0 s"),
        (0.44, "0 s", "0.4 s"),
        (9.94, "10 s", "9.9 s"),
        (9.96, "10 s", "10 s"),
        (59.4, "59 s", "59 s"),
        (59.6, "1:00", "1:00"),
        (3599, "59:59", "59:59"),
        (3600, "1:00:00", "1:00:00"),
        (86399, "23:59:59", "23:59:59"),
        (90000, "1d 01h", "1d 01h"),
        (1e300, "> 999d", "> 999d"),
    ],
)
def test_duration(seconds, text, exact):
    assert duration(seconds) == text
    assert duration(seconds, exact=True) == exact


@pytest.mark.parametrize(
    ("number", "total", "unit", "text"),
    [
        (0, None, "", "0"),
        (1234567, None, "", "1,234,567"),
        (2.0, None, "", "2"),
        (2.25, 8, "", "2.2/8"),
        (12, 40, "files", "12/40 files"),
        (10**13, None, "", "1e+13"),
        (0, None, "B", "0 B"),
        (999, 1000, "B", "1.0/1.0 KiB"),
        (512, 900, "B", "512/900 B"),
        (1536, None, "B", "1.5 KiB"),
        (1023 * 1024, None, "B", "1.0 MiB"),
        (123 * 2**20, 2**29, "B", "123/512 MiB"),
        (5 * 2**40, None, "B", "5.0 TiB"),
        (2**90, None, "B", "1.07e+09 EiB"),
        (2**200, None, "B", "1.39e+42 EiB"),
    ],
)
def test_count(number, total, unit, text):
    assert count(number, total, unit) == text


def row(done, total, seconds, label="Copying", unit="", state="running"):
    meter = Meter(0.0, total)
    meter.update(done, seconds)
    return Row(meter, seconds, label, unit, state)


@pytest.mark.parametrize(
    ("done", "seconds", "unit", "text"),
    [
        (0, 1, "", ""),
        (5, 0, "", ""),
        (5, 2, "", "2.5/s"),
        (199, 2, "", "99.5/s"),
        (12345, 1, "", "12,345/s"),
        (1, 4, "", "15.0/min"),
        (1, 360, "", "10.0/h"),
        (2**21, 2, "B", "1.0 MiB/s"),
        (1, 2, "B", "0 B/s"),
    ],
)
def test_rate_is_told_in_a_unit_above_one(done, seconds, unit, text):
    assert row(done, None, seconds, unit=unit).rate == text


@pytest.mark.parametrize(
    ("done", "total", "state", "percent", "amount"),
    [
        (0, 10, "running", "0%", "0/10"),
        (999, 1000, "running", "99%", "999/1,000"),
        (12, 10, "running", "100%", "12/10"),
        (0, 0, "running", "100%", "0/0"),
        (10, 10, "normal", "100%", "10"),
        (9, 10, "normal", "100%", "10"),
        (5, 10, "normal", "100%", "5/10"),
        (5, 10, "error", "50%", "5/10"),
        (5, None, "running", "", "5"),
        (5, None, "normal", "", "5"),
    ],
)
def test_percentage_and_count(done, total, state, percent, amount):
    shown = row(done, total, 1.0, state=state)
    assert (shown.percent, shown.amount) == (percent, amount)


def test_the_last_byte_is_not_made_up():
    assert row(99, 100, 1.0, unit="B", state="normal").amount == "99/100 B"


@pytest.mark.parametrize(
    ("done", "total", "seconds", "state", "time"),
    [
        (5, 10, 4, "running", "4 s left"),
        (99, 100, 1, "running", "<1 s left"),
        (49, 99, 0.99, "running", "1 s left"),
        (10, 10, 4, "running", "0 s left"),
        (0, 10, 4, "running", ""),
        (5, None, 65, "running", "1:05"),
        (5, 10, 4, "normal", "in 4.0 s"),
        (5, None, 4, "error", "in 4.0 s"),
    ],
)
def test_time(done, total, seconds, state, time):
    assert row(done, total, seconds, state=state).time == time


def shown(one, width, style=PLAIN, *others):
    widths = Widths()
    for included in (one, *others):
        widths.include(included)
    return line(one, widths, width, style)


SIZE = 24 * 2**20
BAR = row(SIZE * 0.52, SIZE, 4.0, "Copying library", "B")
SPINNER = row(1234, None, 4.0, "Scanning")


@pytest.mark.parametrize(
    ("width", "text"),
    [
        (
            119,
            "Copying library  ━━━━━━━━━━━━━━━━━━━━╸───────────────────   52%  12.5/24.0 MiB"
            "  3.1 MiB/s   4 s left",
        ),
        (79, "Copying library  ━━━━━━━━━╸─────────   52%  12.5/24.0 MiB  3.1 MiB/s   4 s left"),
        (59, "Copying library  ━━━━━─────   52%  12.5/24.0 MiB   4 s left"),
        (49, "Copying library  ━━━━━━━╸───────   52%   4 s left"),
        (39, "Copying library  ━━╸──   52%   4 s left"),
        (37, "Copying libr…  ━━╸──   52%   4 s left"),
        (29, "Copying library  ━━━───   52%"),
        (19, "Copying libr…   52%"),
        (12, "Copyi…   52%"),
        (8, "52%"),
        (3, "52%"),
        (2, "5…"),
        (1, "…"),
    ],
)
def test_a_bar_keeps_what_matters_most(width, text):
    assert shown(BAR, width) == text


@pytest.mark.parametrize(
    ("width", "text"),
    [
        (79, "Scanning  ⠋  1,234      308/s  4 s"),
        (29, "Scanning  ⠋  1,234  4 s"),
        (19, "Scanning  ⠋  1,234"),
        (12, "Scanning  ⠋"),
        (6, "Scann…"),
        (1, "…"),
    ],
)
def test_a_spinner_keeps_what_matters_most(width, text):
    assert shown(SPINNER, width) == text


@pytest.mark.parametrize("style", [PLAIN, ASCII], ids=["unicode", "ascii"])
@pytest.mark.parametrize("label", ["", "x", "日本語のファイル", "x" * 500])
def test_no_line_is_wider_than_asked(style, label):
    for one in (row(5, 10, 1.0, label), row(5, None, 1.0, label), row(5, 10, 1.0, label, "B", "x")):
        for width in range(1, 130):
            for others in ((), (BAR,), (SPINNER,), (BAR, SPINNER)):
                assert columns(shown(one, width, style, *others)) <= width


def test_ascii():
    assert shown(BAR, 49, ASCII) == "Copying library  [######-------]   52%   4 s left"
    assert shown(SPINNER, 29, ASCII) == "Scanning  |  1,234  4 s"
    assert shown(BAR, 39, ASCII).startswith("Copying library  [#--]")
    for one in (BAR, SPINNER):
        assert all(shown(one, width, ASCII).isascii() for width in range(1, 130))


def test_rows_stand_in_columns():
    other = row(7, 1200, 1.0, "Indexing")
    bar, index, spin = (shown(one, 79, PLAIN, BAR, other, SPINNER) for one in (BAR, other, SPINNER))
    assert bar.index("━") == index.index("─") == spin.index("⠋")
    assert bar.index("%") == index.index("%")
    assert bar.index("MiB/s") + 5 == index.index("7.0/s") + 5 == spin.index("308/s") + 5
    assert len(bar) == len(index) == len(spin)


def test_a_spinner_among_bars_tells_its_count_where_they_have_their_bar():
    assert shown(SPINNER, 39, PLAIN, BAR) == "Scanning         ⠋ 1,234            4 s"
    many = row(10**15, None, 4.0, "Scanning")
    huge = row(10**11, None, 4.0, "Scanning")
    assert shown(many, 39, PLAIN, BAR).split() == ["Scanning", "⠋", "1e+15", "4", "s"]
    assert shown(huge, 39, PLAIN, BAR).split() == ["Scanning", "⠋", "4", "s"]


@pytest.mark.parametrize(
    ("state", "sign", "ascii_sign"),
    [("normal", "✓", "*"), ("warning", "!", "!"), ("error", "✗", "x"), ("odd", "✗", "x")],
)
def test_the_end_of_a_spinner_is_marked(state, sign, ascii_sign):
    one = row(5, None, 4.0, state=state)
    assert shown(one, 79) == f"Copying  {sign}  5      1.2/s  in 4.0 s"
    assert shown(one, 79, ASCII) == f"Copying  {ascii_sign}  5      1.2/s  in 4.0 s"


@pytest.mark.parametrize(
    ("state", "code"),
    [("running", "36"), ("normal", "32"), ("warning", "33"), ("error", "31"), ("exception", "31")],
)
def test_colours(state, code):
    for one in (row(5, 10, 4.0, state=state), row(5, None, 4.0, state=state)):
        for unicode in (True, False):
            colored = shown(one, 79, Style(unicode, color=True))
            bare = shown(one, 79, Style(unicode))
            assert f"\x1b[{code}m" in colored
            assert colored.endswith(bare[-5:])
            for part in (code, "90", "0"):
                colored = colored.replace(f"\x1b[{part}m", "")
            assert colored == bare


def test_the_spinner_turns_with_time():
    signs = {shown(row(1, None, tenth / 10), 79)[9] for tenth in range(10)}
    assert signs == set(PLAIN.spinner)


@pytest.mark.parametrize(
    ("one", "reason", "text"),
    [
        (BAR, "", "Copying library: 52% (12.5/24.0 MiB, 3.1 MiB/s, 4 s left)"),
        (SPINNER, "", "Scanning: 1,234 (308/s, 4 s)"),
        (row(0, 10, 0.0, ""), "", "0% (0/10)"),
        (row(4, 10, 2.0, state="normal"), "", "Copying: 100% (4/10, 2.0/s, in 2.0 s), done"),
        (
            row(4, 10, 2.0, state="error"),
            "ERROR: disk full",
            "Copying: 40% (4/10, 2.0/s, in 2.0 s), ERROR: disk full",
        ),
    ],
)
def test_plain_line(one, reason, text):
    assert plain(one, reason) == text


@pytest.mark.parametrize(
    ("depth", "width", "columns"),
    [(0, 80, 0), (1, 80, 2), (3, 80, 6), (50, 80, 12), (2, 40, 4), (9, 40, 6), (5, 10, 0)],
)
def test_indentation_leaves_room_for_the_rest(depth, width, columns):
    assert indentation(depth, width) == " " * columns


@pytest.mark.parametrize(
    ("counts", "width", "text"),
    [
        ({"running": 12}, 80, "… and 12 more"),
        ({"done": 1234}, 80, "… and 1,234 more done"),
        ({"failed": 2}, 80, "… and 2 more failed"),
        ({"warning": 1}, 80, "… and 1 more with warnings"),
        ({"running": 9, "failed": 3}, 80, "… and 12 more: 3 failed, 9 running"),
        (
            {"done": 4, "running": 3, "warning": 2, "failed": 1},
            80,
            "… and 10 more: 1 failed, 2 with warnings, 3 running, 4 done",
        ),
        ({"done": 52, "running": 24, "failed": 1}, 36, "… and 77 more: 1 failed, 24 running"),
        ({"done": 52, "running": 24, "failed": 1}, 34, "… and 77 more: 1 failed"),
        ({"done": 52, "running": 24, "failed": 1}, 20, "… and 77 more"),
        ({"done": 0, "running": 3}, 80, "… and 3 more"),
    ],
)
def test_summary_tells_what_matters_most(counts, width, text):
    assert summary(counts, PLAIN, width) == text


def test_summary_without_any_line_above_and_without_unicode():
    assert summary({"running": 2, "failed": 1}, ASCII, 80) == "... and 3 more: 1 failed, 2 running"
    counts = {"running": 2, "failed": 1}
    assert summary(counts, PLAIN, 80, others=False) == "3 operations: 1 failed, 2 running"


def test_what_was_left_early_is_not_complete():
    stopped = row(9, 10, 1, state="stopped")
    assert (stopped.percent, stopped.amount, stopped.time) == ("90%", "9/10", "in 1.0 s")
    assert plain(stopped) == "Copying: 90% (9/10, 9.0/s, in 1.0 s), stopped"
    spinner = row(9, None, 1, state="stopped")
    widths = Widths()
    widths.include(spinner)
    assert "✓" in line(spinner, widths, 60, PLAIN)
