"""One line of text from what is known of an operation and a width: no stream, no clock."""

from __future__ import annotations

from ._text import columns, fit

__all__ = [
    "Row",
    "Style",
    "Widths",
    "count",
    "duration",
    "indentation",
    "line",
    "plain",
    "state_color",
    "summary",
]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from ._meter import Meter

_GAP = 2
_LABEL_MIN = 10
_BAR_MIN = 5
_INDENT = 2

_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")

_COLORS = {"running": "36", "stopped": "36", "normal": "32", "warning": "33"}
_FAILED = "31"


class Style:
    """The characters and colours that a stream can take.

    Parameters
    ----------
    unicode : bool
        Whether line-drawing characters can be shown; otherwise ASCII.
    color : bool
        Whether to use colours.
    """

    __slots__ = ("color", "ellipsis", "marks", "spinner", "unicode")

    def __init__(self, unicode: bool = True, color: bool = False) -> None:
        self.unicode = unicode
        self.color = color
        self.ellipsis = "…" if unicode else "~"
        self.spinner = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏" if unicode else "|/-\\"
        self.marks = "✓!✗" if unicode else "*!x"

    def paint(self, text: str, code: str) -> str:
        """The text in a colour, or as it is."""
        return f"\x1b[{code}m{text}\x1b[0m" if self.color and text else text


def duration(seconds: float, exact: bool = False) -> str:
    """A length of time for people: '3 s', '1:05', '2:03:04', '3d 04h'; exactly, '0.4 s'."""
    if exact and seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(min(seconds, 1e15))
    if whole < 60:
        return f"{whole} s"
    minutes, whole = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}:{whole:02}"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}:{minutes:02}:{whole:02}"
    days, hours = divmod(hours, 24)
    return f"{days}d {hours:02}h" if days < 1000 else "> 999d"


def _scale(number: float) -> int:
    """The power of 1024 in which a number of bytes has at most three digits before the point."""
    power = 0
    while number >= 999.5 and power < len(_BINARY) - 1:
        number /= 1024
        power += 1
    return power


def _scaled(number: float, power: int) -> str:
    if power == 0:
        return f"{number:.0f}"
    number /= 1024**power
    return (
        f"{number:.1f}" if number < 99.95 else f"{number:.0f}" if number < 1e6 else f"{number:.3g}"
    )


def _number(number: float) -> str:
    if number >= 1e12:
        return f"{number:.3g}"
    if isinstance(number, int) or number.is_integer():
        return f"{number:,.0f}"
    return f"{number:,.1f}"


def count(number: float, total: float | None = None, unit: str = "") -> str:
    """How much is done: '12/40', '12.3/23.6 MiB', '1,234 files'. The unit 'B' is bytes."""
    if unit == "B":
        power = _scale(number if total is None else max(number, total))
        done = _scaled(number, power)
        return (
            f"{done} {_BINARY[power]}"
            if total is None
            else f"{done}/{_scaled(total, power)} {_BINARY[power]}"
        )
    done = _number(number) if total is None else f"{_number(number)}/{_number(total)}"
    return f"{done} {unit}" if unit else done


def _rate(rate: float | None, unit: str) -> str:
    if not rate:
        return ""
    if unit == "B":
        return f"{count(rate, unit=unit)}/s"
    # In the unit of time that gives a number above one: 0.004 a second says nothing to anybody.
    name = "s"
    if rate < 0.995:
        name, rate = ("min", rate * 60) if rate * 60 >= 0.995 else ("h", rate * 3600)
    return f"{rate:.1f}/{name}" if rate < 99.95 else f"{_number(round(rate))}/{name}"


def indentation(depth: int, width: int) -> str:
    """What stands before the name of a nested operation, in a terminal of this width."""
    return " " * (_INDENT * min(depth, width // 12))


def summary(counts: Mapping[str, int], style: Style, width: int, others: bool = True) -> str:
    """What is told of operations that have no line: '… and 12 more: 3 failed, 9 running'.

    Parameters
    ----------
    counts : mapping
        How many are 'running', 'failed', 'warning' and 'done'.
    style : Style
        What can be shown.
    width : int
        How many columns there are; what matters less is left out.
    others : bool
        Whether any operation has a line.
    """
    told = [
        f"{counts[state]:,} {word}"
        for state, word in (
            ("failed", "failed"),
            ("warning", "with warnings"),
            ("running", "running"),
            ("done", "done"),
        )
        if counts.get(state)
    ]
    total = sum(counts.values())
    text = f"{total:,} operations"
    if others:
        text = f"{'…' if style.unicode else '...'} and {total:,} more"
    if len(told) == 1:
        if not counts.get("running"):
            text += f" {told[0].partition(' ')[2]}"
        return text
    while told and len(f"{text}: {', '.join(told)}") > width:
        told.pop()
    return f"{text}: {', '.join(told)}" if told else text


class Row:
    """What one line says of one operation, as texts that are put into columns by `line`.

    Parameters
    ----------
    meter : Meter
        The operation's count and times.
    now : float
        The time of the clock that the meter was made with.
    label : str
        What is done, clean.
    unit : str
        What is counted; 'B' for bytes.
    state : str
        'running', or the exit state of the operation; 'stopped' if it ended well before its last
        step.
    """

    __slots__ = ("amount", "elapsed", "fraction", "label", "rate", "state", "time", "widest")

    def __init__(
        self, meter: Meter, now: float, label: str, unit: str = "", state: str = "running"
    ) -> None:
        self.label = label
        self.state = state
        self.fraction = meter.fraction
        self.elapsed = elapsed = meter.elapsed(now)
        done, total = meter.count, meter.total
        if state == "normal" and total is not None:
            self.fraction = 1.0
            # `for i in range(n): progress(step=i)` never announces the last one.
            if unit != "B" and total - 1 <= done < total:
                done = total
        self.amount = count(done, None if done == total and state == "normal" else total, unit)
        self.widest = (
            count(total, total, unit) if total is not None and state == "running" else self.amount
        )
        if state == "running":
            self.rate = _rate(meter.rate(now), unit)
            left = meter.remaining(now)
            if total is None:
                self.time = duration(elapsed)
            else:
                # Never '0 s left' while something is.
                shown = "<1 s" if left and left < 1 else duration(left or 0)
                self.time = "" if left is None else f"{shown} left"
        else:
            self.rate = _rate(done / elapsed if elapsed > 0 else None, unit)
            self.time = f"in {duration(elapsed, exact=True)}"

    @property
    def percent(self) -> str:
        """'52%'; 100 only when it is complete. Empty without a total."""
        return "" if self.fraction is None else f"{int(self.fraction * 100)}%"


class Widths:
    """The widths of the columns that all rows share, to stand in line. They only grow."""

    __slots__ = ("_shares", "amount", "label", "percent", "rate", "time")

    def __init__(self) -> None:
        self.label = self.percent = self.amount = self.rate = self.time = 0
        self._shares: tuple[tuple[int, ...], dict[str, int]] = ((), {})

    def include(self, row: Row) -> None:
        """Make room for a row."""
        self.label = max(self.label, columns(row.label))
        self.amount = max(self.amount, columns(row.amount), columns(row.widest))
        # Room for what a bar does not know at first, and for numbers that become longer.
        usual = 9 if row.fraction is not None else 0
        self.rate = max(self.rate, len(row.rate), 9 if row.rate else usual)
        self.time = max(self.time, len(row.time), usual)
        if row.fraction is not None:
            self.percent = 4

    def shares(self, width: int) -> dict[str, int]:
        """How many of `width` columns each part gets; what does not fit is left out."""
        key = (width, self.label, self.percent, self.amount, self.rate, self.time)
        if key != self._shares[0]:  # the same for all rows of a repaint
            self._shares = key, self._share(width)
        return self._shares[1].copy()

    def _share(self, width: int) -> dict[str, int]:
        shares = {
            "percent": self.percent,
            "amount": self.amount,
            "rate": self.rate,
            "time": self.time,
        }
        bar_min, bar_max = 1, 1
        if self.percent:
            bar_min, bar_max = 10 if width >= 60 else 6, 40
        label = min(self.label, max(_LABEL_MIN, width // 4))

        def needed() -> int:
            return sum(share + _GAP for share in shares.values() if share)

        # The least important first: the count says less than the time left, but more than the time
        # passed.
        for part in ("rate", "amount", "time") if self.percent else ("rate", "time", "amount"):
            if label + _GAP + bar_min + needed() > width:
                shares[part] = 0
        bar = bar_min if label + _GAP + bar_min + needed() <= width else 0
        room = width - needed() - (bar + _GAP if bar else 0)
        # A short bar says as much as a long one, half a name less.
        if room < self.label and bar > _BAR_MIN:
            cut = min(self.label - room, bar - _BAR_MIN)
            bar, bar_max, room = bar - cut, bar - cut, room + cut
        if room < 3 and needed():  # nothing can be told of a name in two columns
            room = 0
        label = min(self.label, room)
        if bar:
            bar = min(bar_max, bar + room - label)
        return {"label": label, "bar": bar, **shares}


def state_color(state: str) -> str:
    """What an operation in this state is painted in."""
    return _COLORS.get(state, _FAILED)


def _bar(fraction: float, width: int, state: str, style: Style) -> str:
    if style.unicode:
        halves = int(fraction * width * 2)
        done = "━" * (halves // 2) + "╸" * (halves % 2)
        return style.paint(done, state_color(state)) + style.paint("─" * (width - len(done)), "90")
    inside = width - 2
    done = "#" * int(fraction * inside)
    return "[" + style.paint(done, state_color(state)) + "-" * (inside - len(done)) + "]"


def _sign(row: Row, style: Style) -> str:
    if row.state == "running":
        return style.spinner[int(row.elapsed * 10) % len(style.spinner)]
    return style.marks[{"normal": 0, "stopped": 0, "warning": 1}.get(row.state, 2)]


def line(row: Row, widths: Widths, width: int, style: Style) -> str:
    """The row in at most `width` columns, in the columns of `widths`."""
    shares = widths.shares(width)
    parts = []
    if shares["label"]:
        parts.append(fit(row.label, shares["label"], style.ellipsis))
    if shares["bar"] and row.fraction is not None:
        parts.append(_bar(row.fraction, shares["bar"], row.state, style))
    elif shares["bar"]:
        # A spinner has nothing but its count to tell; the bars of others leave room for it.
        room = shares["bar"] - 1 + (_GAP + shares["percent"] if shares["percent"] else 0)
        told = "" if shares["amount"] or columns(row.amount) >= room else f" {row.amount}"
        sign = style.paint(_sign(row, style), state_color(row.state))
        parts.append(sign + told + " " * (room - columns(told)))
        shares["percent"] = 0
    for name, text in (
        ("percent", row.percent),
        ("amount", row.amount),
        ("rate", row.rate),
        ("time", row.time),
    ):
        if shares[name]:
            parts.append(" " * (shares[name] - columns(text)) + text)
    text = (" " * _GAP).join(parts).rstrip()
    return (
        text
        if shares["label"] or shares["bar"]
        else fit(text.strip(), width, style.ellipsis).rstrip()
    )


def plain(row: Row, reason: str = "") -> str:
    """The row for a log: one line as long as it needs to be."""
    details = ", ".join(
        text for text in (row.amount if row.percent else "", row.rate, row.time) if text
    )
    text = f"{row.label}: " if row.label.strip() else row.label
    text += f"{row.percent or row.amount} ({details})"
    if row.state in ("normal", "stopped"):
        text += ", done" if row.state == "normal" else ", stopped"
    return f"{text}, {reason}" if reason else text
