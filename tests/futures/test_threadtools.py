from __future__ import annotations

import inspect
import sys
import threading

import pytest

from encore.concurrent.threadtools import synchronized


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


@pytest.fixture
def hasty_switching():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


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
