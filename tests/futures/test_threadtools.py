from __future__ import annotations

import inspect
import signal
import threading
import time

import pytest

from encore.concurrent.threadtools import CancellationToken, synchronized


def test_only_one_thread_at_a_time_is_inside(deadline):
    inside = threading.Event()
    leave = threading.Event()
    entered = []

    @synchronized
    def guarded(name):
        entered.append(name)
        inside.set()
        assert leave.wait(deadline)

    first = threading.Thread(target=guarded, args=("first",), daemon=True)
    first.start()
    assert inside.wait(deadline)
    tried = threading.Event()

    def second_try():
        tried.set()
        guarded("second")

    second = threading.Thread(target=second_try, daemon=True)
    second.start()
    assert tried.wait(deadline)
    assert entered == ["first"]
    leave.set()
    first.join(deadline)
    second.join(deadline)
    assert entered == ["first", "second"]


@pytest.mark.usefixtures("hasty_switching")
def test_no_increment_of_eight_threads_is_lost(deadline):
    count = 0

    @synchronized
    def increment():
        nonlocal count
        seen = count
        for _ in range(20):  # enough bytecode for other threads to come in
            pass
        count = seen + 1

    def many():
        for _ in range(500):
            increment()

    threads = [threading.Thread(target=many, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(deadline)
    assert count == 4000


def test_the_function_may_call_itself():
    @synchronized
    def factorial(n):
        return n * factorial(n - 1) if n else 1

    assert factorial(5) == 120


def test_every_function_has_a_lock_of_its_own(deadline):
    inside = threading.Event()
    leave = threading.Event()

    @synchronized
    def one():
        inside.set()
        assert leave.wait(deadline)

    @synchronized
    def other():
        return "free"

    thread = threading.Thread(target=one, daemon=True)
    thread.start()
    assert inside.wait(deadline)
    assert other() == "free"
    leave.set()
    thread.join(deadline)


def test_a_failure_frees_the_lock(deadline):
    @synchronized
    def fails(error=None):
        if error is not None:
            raise error

    failed = threading.Event()

    def fail():
        try:
            fails(ValueError())
        except ValueError:
            failed.set()

    thread = threading.Thread(target=fail, daemon=True)
    thread.start()
    thread.join(deadline)
    assert failed.is_set()
    assert fails() is None


def test_name_signature_and_result_stay():
    @synchronized
    def area(width, *, height=2):
        """Say how large."""
        return width * height

    assert area.__name__ == "area"
    assert area.__doc__ == "Say how large."
    assert str(inspect.signature(area)) == "(width, *, height=2)"
    assert area(3, height=4) == 12


def test_methods_can_be_guarded():
    class Counter:
        value = 0

        @synchronized
        def add(self, n):
            self.value += n
            return self.value

    assert Counter().add(3) == 3


# CancellationToken


def test_a_token_is_cancelled_once_and_for_all():
    token = CancellationToken()
    assert token.cancelled is False
    assert repr(token) == "<CancellationToken>"
    token.cancel()
    token.cancel()
    assert token.cancelled is True
    assert repr(token) == "<CancellationToken: cancelled>"
    assert token.wait()


@pytest.mark.parametrize("name", ["cancelled", "other"])
def test_a_token_can_be_cancelled_by_its_method_only(name):
    token = CancellationToken()
    with pytest.raises(AttributeError, match=name):
        setattr(token, name, True)
    assert not token.cancelled


@pytest.mark.parametrize("timeout", [0, -1, 0.001])
def test_a_wait_ends_with_its_timeout(timeout):
    token = CancellationToken()
    assert token.wait(timeout) is False
    token.cancel()
    assert token.wait(timeout) is True
    assert token.wait(float("inf")) is True


def asleep(token, count, deadline):
    """Start threads, and return when all of them are asleep in wait()."""
    woken = []

    def wait(timeout):
        woken.append(token.wait(timeout))

    threads = [
        threading.Thread(target=wait, args=(timeout,), daemon=True)
        for timeout in ([None, 10**20] * count)[:count]
    ]
    for thread in threads:
        thread.start()
    patience = time.monotonic() + deadline
    while len(token._sleepers) < count:
        assert time.monotonic() < patience
    return threads, woken


def test_cancelling_wakes_everybody_who_waits(deadline):
    token = CancellationToken()
    threads, woken = asleep(token, 5, deadline)
    token.cancel()
    for thread in threads:
        thread.join(deadline)
    assert woken == [True] * 5
    assert token._sleepers == []


def test_a_wait_that_is_over_leaves_nothing_behind():
    token = CancellationToken()
    token.wait(0)
    assert token._sleepers == []


@pytest.mark.usefixtures("hasty_switching")
def test_no_waiter_misses_the_cancel(deadline):
    for _ in range(50):
        token = CancellationToken()
        start = threading.Barrier(4)
        woken = []

        def wait(token=token, start=start, woken=woken):
            start.wait(deadline)
            woken.append(token.wait(deadline))

        threads = [threading.Thread(target=wait, daemon=True) for _ in range(3)]
        for thread in threads:
            thread.start()
        start.wait(deadline)
        token.cancel()
        for thread in threads:
            thread.join(deadline)
        assert woken == [True] * 3


def test_a_cancel_may_interrupt_every_line_of_wait_and_cancel(deadline, interrupted):
    """As a signal handler does, which runs between any two lines of the main thread."""

    def comes(method, number):
        token = CancellationToken()
        came = []

        def of_the_method(frame):
            return frame.f_code.co_name == method

        def run():
            call = getattr(token, method)
            came.append(interrupted(call, of_the_method, number, lambda frame: token.cancel()))

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        if method == "wait":
            while thread.is_alive() and not token._sleepers and not token.cancelled:
                pass
            token.cancel()  # for a line that is never reached
        thread.join(deadline)
        assert not thread.is_alive()
        assert token.cancelled
        return came[0]

    assert sum(comes("cancel", number) for number in range(1, 10)) >= 2
    assert sum(comes("wait", number) for number in range(1, 30)) >= 5


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timers")
def test_a_signal_handler_can_cancel_what_the_main_thread_waits_for(child):
    program = """
import signal
from encore.concurrent.threadtools import CancellationToken
token = CancellationToken()
signal.signal(signal.SIGALRM, lambda number, frame: token.cancel())
signal.setitimer(signal.ITIMER_REAL, 0.01)
print(token.wait(60))
"""
    assert child(program) == (0, ["True"])


def test_a_token_is_cheap_to_ask_and_to_import(child):
    program = """
import sys
before = set(sys.modules)
from encore.concurrent.threadtools import CancellationToken
print(type(CancellationToken.cancelled).__name__)
print(*{"threading", "logging", "concurrent.futures", "typing"} & (set(sys.modules) - before))
"""
    assert child(program) == (0, ["member_descriptor"])
