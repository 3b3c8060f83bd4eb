from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest

from encore.terminal._meter import Meter, as_number


class Evil:
    def __float__(self):
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (0, 0),
        (7, 7),
        (2.5, 2.5),
        (Decimal("2.5"), 2.5),
        (Fraction(1, 4), 0.25),
        (-1, None),
        (-0.5, None),
        (None, None),
        (True, None),
        (float("nan"), None),
        (float("inf"), None),
        (10**400, None),
        ("10", None),
        (b"10", None),
        ([1], None),
        (1j, None),
        (Evil(), None),
    ],
)
def test_what_is_a_count(value, number):
    assert as_number(value) == number


def test_a_new_meter_knows_nothing():
    meter = Meter(5.0, 10)
    assert meter.fraction == 0
    assert meter.elapsed(5.0) == 0
    assert meter.average(5.0) is meter.rate(5.0) is meter.remaining(5.0) is None


def test_steady_progress():
    meter = Meter(100.0, 40)
    for second in range(1, 11):
        meter.update(2 * second, 100.0 + second)
    assert meter.fraction == 0.5
    assert meter.elapsed(110.0) == 10
    assert meter.average(110.0) == 2
    assert meter.rate(110.0) == pytest.approx(2)
    assert meter.remaining(110.0) == pytest.approx(10)


def test_the_rate_notices_a_change_before_the_average_does():
    meter = Meter(0.0, 10_000)
    for second in range(1, 61):
        meter.update(10 * second, second)
    for second in range(61, 81):
        meter.update(600 + 100 * (second - 60), second)
    assert meter.average(80) == pytest.approx(2600 / 80)
    assert 60 < meter.rate(80) < 100


def test_waiting_longer_than_ever_slows_the_rate_down():
    meter = Meter(0.0, 100)
    for count in range(1, 11):
        meter.update(count * 5, count * 2.0)  # five every two seconds
    assert meter.rate(20.0) == pytest.approx(2.5)
    assert meter.rate(21.9) == pytest.approx((50 / 21.9 + 2.5) / 2)  # as usual
    waited = [meter.rate(20.0 + passed) for passed in (2, 5, 10, 20, 60)]
    assert waited == sorted(waited, reverse=True)
    assert waited[3] < 0.75
    assert meter.remaining(80.0) > 50 / (50 / 80)
    meter.update(55, 80.0)
    assert meter.rate(80.0) < 0.5


def test_one_count_in_no_time_makes_no_rate():
    meter = Meter(0.0, 100)
    meter.update(1, 1e-9)
    for tenth in range(1, 11):
        meter.update(1 + tenth, tenth / 10)
    assert meter.rate(1.0) == pytest.approx(11, rel=0.1)


def test_counts_at_the_same_instant_are_kept():
    meter = Meter(0.0, 10)
    meter.update(3, 0.0)
    meter.update(5, 0.0)
    assert meter.count == 5
    assert meter.rate(0.0) is None
    meter.update(6, 2.0)
    assert meter.rate(2.0) == pytest.approx(3)


def test_beginning_again_forgets_the_rate():
    meter = Meter(0.0, 10)
    meter.update(8, 1.0)
    meter.update(2, 2.0)
    assert meter.rate(2.0) == meter.average(2.0) == 1
    meter.update(4, 3.0)
    assert meter.rate(3.0) == pytest.approx((4 / 3 + 2) / 2)


def test_a_clock_that_goes_back_does_no_harm():
    meter = Meter(10.0, 10)
    meter.update(5, 3.0)
    assert meter.elapsed(3.0) == 0
    assert meter.rate(3.0) is None
    assert meter.remaining(3.0) is None


@pytest.mark.parametrize(
    ("total", "count", "fraction", "remaining"),
    [(None, 5, None, None), (0, 0, 1.0, 0.0), (4, 9, 1.0, 0.0), (8, 2, 0.25, 3.0)],
)
def test_fraction_and_time_left(total, count, fraction, remaining):
    meter = Meter(0.0, total)
    meter.update(count, 1.0)
    assert meter.fraction == fraction
    assert meter.remaining(1.0) == (None if remaining is None else pytest.approx(remaining))


def test_repr():
    assert repr(Meter(0, 3)) == "Meter(count=0, total=3)"
