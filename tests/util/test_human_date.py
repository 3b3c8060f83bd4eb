from __future__ import annotations

import os
import time
from datetime import datetime, timedelta, timezone

import pytest

from encore.util import human_date
from encore.util.human_date import convertToHumanReadable, makeEpochTime, makeFancyDatetime

NOW = datetime(2024, 7, 1, 12, 0, 0, 500_000, tzinfo=timezone.utc)


@pytest.fixture(autouse=True)
def stopped_clock(monkeypatch):
    class StoppedClock(datetime):
        @classmethod
        def now(cls, tz=None):
            return NOW.astimezone(tz)

    monkeypatch.setattr(human_date, "datetime", StoppedClock)


@pytest.fixture(params=["UTC0", "EST5EDT,M3.2.0,M11.1.0", "<+0545>-5:45"])
def local_zone(request, monkeypatch):
    if not hasattr(time, "tzset"):
        pytest.skip("the time zone cannot be set here")
    before = os.environ.get("TZ")
    os.environ["TZ"] = request.param
    time.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


@pytest.mark.parametrize(
    ("ago", "said"),
    [
        ({"seconds": 0}, "0 seconds ago."),
        ({"seconds": 1}, "1 second ago."),
        ({"seconds": 59, "milliseconds": 999}, "59 seconds ago."),
        ({"minutes": 1}, "1 minute ago."),
        ({"minutes": 5, "seconds": 30}, "5 minutes ago."),
        ({"hours": 1, "seconds": 59}, "1 hour ago."),
        ({"hours": 2, "minutes": 1}, "2 hours, 1 minute ago."),
        ({"hours": 23, "minutes": 59, "seconds": 59}, "23 hours, 59 minutes ago."),
        ({"days": 1}, "1 day ago."),
        ({"days": 2, "hours": 3, "minutes": 5}, "2 days, 3 hours ago."),
        ({"days": 3, "minutes": 20}, "3 days ago."),
        ({"days": 29, "hours": 23}, "29 days, 23 hours ago."),
        ({"days": 30}, "1 month ago."),
        ({"days": 31}, "1 month, 1 day ago."),
        ({"days": 60, "hours": 5}, "2 months ago."),
        ({"days": 364}, "12 months, 4 days ago."),
        ({"days": 365}, "1 year ago."),
        ({"days": 370}, "1 year ago."),
        ({"days": 395, "hours": 7}, "1 year, 1 month ago."),
        ({"days": 800}, "2 years, 2 months ago."),
        ({"minutes": -5}, "0 seconds ago."),
        ({"days": -400}, "0 seconds ago."),
    ],
)
def test_the_two_largest_units_are_said(ago, said):
    assert convertToHumanReadable(NOW - timedelta(**ago)) == said


@pytest.mark.usefixtures("local_zone")
def test_a_time_without_a_zone_is_local():
    local = (NOW - timedelta(hours=2, minutes=1)).astimezone().replace(tzinfo=None)
    assert convertToHumanReadable(local) == "2 hours, 1 minute ago."


@pytest.mark.usefixtures("local_zone")
def test_a_time_without_a_zone_can_be_in_utc():
    utc = (NOW - timedelta(hours=2, minutes=1)).replace(tzinfo=None)
    assert convertToHumanReadable(utc, utc=True) == "2 hours, 1 minute ago."
    assert convertToHumanReadable(utc, True) == "2 hours, 1 minute ago."


@pytest.mark.parametrize("utc", [False, True])
def test_a_time_with_a_zone_says_itself_what_it_is(utc):
    zone = timezone(timedelta(hours=-3))
    assert convertToHumanReadable((NOW - timedelta(days=1)).astimezone(zone), utc) == "1 day ago."


@pytest.mark.usefixtures("local_zone")
def test_the_seconds_since_the_epoch_of_a_local_time():
    dt = datetime(2001, 2, 3, 4, 5, 6, 999_999)
    seconds = makeEpochTime(dt)
    assert type(seconds) is int
    assert datetime.fromtimestamp(seconds) == dt.replace(microsecond=0)


@pytest.mark.parametrize(
    ("dt", "seconds"),
    [
        (datetime(1970, 1, 1, tzinfo=timezone.utc), 0),
        (datetime(1970, 1, 2, 0, 0, 0, 999_999, tzinfo=timezone.utc), 86400),
        (datetime(1969, 12, 31, 23, 59, 59, 500_000, tzinfo=timezone.utc), -1),
        (datetime(1970, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))), 0),
    ],
)
def test_the_seconds_since_the_epoch(dt, seconds):
    assert makeEpochTime(dt) == seconds


def test_a_fancy_datetime_has_words_and_seconds():
    dt = NOW - timedelta(days=2, hours=3)
    assert makeFancyDatetime(dt) == {
        "fancy_datetime": "2 days, 3 hours ago.",
        "seconds_since_epoch": makeEpochTime(dt),
    }
