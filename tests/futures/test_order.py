"""Which operations each kind of scheduler does, and in which order."""

from __future__ import annotations

import functools

import pytest

from encore.concurrent.futures import Asynchronizer, Serializer, SerializingAsynchronizer


@pytest.fixture
def ran():
    return []


def states(futures):
    return ["cancelled" if future.cancelled() else future.done() for future in futures]


def test_serializer_does_everything_in_order(manual, ran):
    scheduler = Serializer(manual)
    for n in range(5):
        scheduler.submit(ran.append, n)
        assert len(manual.jobs) == 1
    manual.do_all()
    assert ran == [0, 1, 2, 3, 4]


def test_asynchronizer_keeps_only_the_newest(manual, ran):
    scheduler = Asynchronizer(manual)
    futures = [scheduler.submit(ran.append, n) for n in range(5)]
    assert states(futures) == [False, "cancelled", "cancelled", "cancelled", False]
    manual.do_all()
    assert ran == [0, 4]
    assert states(futures) == [True, "cancelled", "cancelled", "cancelled", True]


def test_a_replaced_operation_wakes_those_who_wait_for_it(manual, ran):
    from concurrent.futures import wait

    scheduler = Asynchronizer(manual)
    futures = [scheduler.submit(ran.append, n) for n in range(3)]
    assert wait(futures, timeout=0).done == {futures[1]}


def test_replacing_what_its_submitter_cancelled_is_harmless(manual, ran):
    scheduler = Asynchronizer(manual)
    futures = [scheduler.submit(ran.append, n) for n in range(2)]
    assert futures[1].cancel()
    scheduler.submit(ran.append, 2)
    manual.do_all()
    assert ran == [0, 2]


def test_serializing_asynchronizer_keeps_the_newest_of_every_callable(manual, ran):
    def a(n):
        ran.append(("a", n))

    def b(n):
        ran.append(("b", n))

    scheduler = SerializingAsynchronizer(manual)
    submitted = [(a, 0), (a, 1), (b, 2), (a, 3), (b, 4), (ran.append, 5)]
    futures = [scheduler.submit(function, n) for function, n in submitted]
    assert states(futures) == [False, "cancelled", "cancelled", False, False, False]
    manual.do_all()
    assert ran == [("a", 0), ("a", 3), ("b", 4), 5]


def test_serializing_asynchronizer_puts_what_was_started_before_at_the_end(manual, ran):
    def a(n):
        ran.append(("a", n))

    def b(n):
        ran.append(("b", n))

    scheduler = SerializingAsynchronizer(manual)
    scheduler.submit(a, 0)
    scheduler.submit(b, 1)
    scheduler.submit(a, 2)
    manual.do_one()
    manual.do_one()
    scheduler.submit(b, 3)
    manual.do_all()
    assert ran == [("a", 0), ("b", 1), ("a", 2), ("b", 3)]


def test_bound_methods_of_one_object_are_one_callable(manual):
    class Document:
        def __init__(self):
            self.saved = []

        def save(self, n):
            self.saved.append(n)

    one, other = Document(), Document()
    scheduler = SerializingAsynchronizer(manual)
    for n in range(4):
        scheduler.submit(one.save, n)
        scheduler.submit(other.save, n)
    manual.do_all()
    assert one.saved == [0, 3]
    assert other.saved == [3]


def test_serializing_asynchronizer_takes_a_key(manual, ran):
    def save(name, *, text):
        ran.append((name, text))

    scheduler = SerializingAsynchronizer(manual, key=lambda operation, name, text: name)
    for n in range(3):
        for name in ("x", "y"):
            scheduler.submit(functools.partial(save), name, text=n)
    manual.do_all()
    assert ran == [("x", 0), ("y", 2), ("x", 2)]


def test_a_key_is_asked_for_without_a_lock(manual):
    import threading

    def key(operation, *args):
        thread = threading.Thread(target=scheduler.wait, args=(0,), daemon=True)
        thread.start()
        thread.join(60)
        held.append(thread.is_alive())

    held = []
    scheduler = SerializingAsynchronizer(manual, key=key)
    scheduler.submit(int)
    assert held == [False]


def test_an_unhashable_key_raises_to_the_submitter_and_changes_nothing(manual, ran):
    scheduler = SerializingAsynchronizer(manual, key=lambda operation, key: key)
    with pytest.raises(TypeError, match="unhashable"):
        scheduler.submit(ran.append, [])
    assert scheduler.wait(0)
    scheduler.submit(ran.append, 1)
    manual.do_all()
    assert ran == [1]
