import threading

import pytest

from encore.events import package_globals
from encore.events.api import EventManager, Heartbeat, HeartbeatEvent

DEADLINE = 30


class Clock:
    """A clock that only waiting moves on."""

    def __init__(self):
        self.now = 100.0
        self.waits = []

    def __call__(self):
        return self.now

    def wait(self, wake, timeout):
        self.waits.append(timeout)
        if not wake.is_set():
            self.now += timeout


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def heartbeat(manager, clock):
    return Heartbeat(0.5, manager, clock=clock, wait=clock.wait)


@pytest.fixture
def beats(manager):
    beats = []
    manager.connect(HeartbeatEvent, beats.append, priority=100)
    return beats


def stop_after(manager, heartbeat, frames):
    def stop(event):
        if event.frame >= frames - 1:
            heartbeat.state = "stopped"

    manager.connect(HeartbeatEvent, stop)


def test_beats_come_at_regular_intervals(manager, heartbeat, beats):
    stop_after(manager, heartbeat, 4)
    heartbeat.run()
    assert [(b.time, b.frame) for b in beats] == [(100, 0), (100.5, 1), (101, 2), (101.5, 3)]
    assert {(b.source, b.interval) for b in beats} == {(heartbeat, 0.5)}
    assert heartbeat.frame_count == 4
    assert heartbeat.state == "stopped"


def test_a_slow_listener_delays_beats_and_none_is_made_up_for(manager, heartbeat, beats, clock):
    def slow(event):
        clock.now += 2 if event.frame == 0 else 0.1

    manager.connect(HeartbeatEvent, slow)
    stop_after(manager, heartbeat, 4)
    heartbeat.run()
    assert [b.time for b in beats] == pytest.approx([100, 102, 102.5, 103])


def test_the_state_is_waiting_before_it_runs(heartbeat):
    assert heartbeat.state == "waiting"
    assert repr(heartbeat) == "<Heartbeat every 0.5 s: waiting, 0 frames>"


def test_a_paused_heartbeat_goes_on_when_it_is_told(manager, heartbeat, beats, clock):
    def wait(wake, timeout):
        if timeout is None:
            assert heartbeat.state == "paused"
            clock.now = 200
            heartbeat.state = "running"
        else:
            clock.wait(wake, timeout)

    def pause(event):
        if event.frame == 1:
            heartbeat.state = "paused"

    heartbeat._wait = wait
    manager.connect(HeartbeatEvent, pause)
    stop_after(manager, heartbeat, 4)
    heartbeat.run()
    assert [b.time for b in beats] == [100, 100.5, 200, 200.5]


def test_a_heartbeat_paused_before_it_runs_starts_paused(heartbeat, beats):
    def wait(wake, timeout):
        assert timeout is None
        heartbeat.state = "stopped"

    heartbeat._wait = wait
    heartbeat.state = "paused"
    heartbeat.run()
    assert beats == []


def test_a_stopped_heartbeat_can_run_again_and_counts_on(manager, heartbeat, beats):
    stop_after(manager, heartbeat, 2)
    heartbeat.run()
    heartbeat.run()
    assert [b.frame for b in beats] == [0, 1, 2]


def test_serve_beats_on_a_daemon_thread_until_it_is_stopped(manager):
    reached = threading.Event()
    threads = set()

    def listener(event):
        threads.add(threading.current_thread())
        if event.frame >= 2:
            reached.set()

    manager.connect(HeartbeatEvent, listener)
    heartbeat = Heartbeat(0.001, manager)
    thread = heartbeat.serve()
    assert thread.daemon
    assert reached.wait(DEADLINE)
    heartbeat.state = "stopped"
    thread.join(DEADLINE)
    assert not thread.is_alive()
    assert threads == {thread}


def test_stopping_does_not_wait_for_the_next_beat(manager):
    first = threading.Event()
    manager.connect(HeartbeatEvent, lambda event: first.set())
    heartbeat = Heartbeat(100 * DEADLINE, manager)
    thread = heartbeat.serve()
    assert first.wait(DEADLINE)
    heartbeat.state = "stopped"
    thread.join(DEADLINE)
    assert not thread.is_alive()


def test_a_stop_right_after_serve_counts(manager):
    heartbeat = Heartbeat(100 * DEADLINE, manager)
    thread = heartbeat.serve()
    heartbeat.state = "stopped"
    thread.join(DEADLINE)
    assert not thread.is_alive()
    assert heartbeat.state == "stopped"


def test_a_second_loop_takes_the_place_of_the_first(manager):
    first = threading.Event()
    manager.connect(HeartbeatEvent, lambda event: first.set())
    heartbeat = Heartbeat(100 * DEADLINE, manager)
    one = heartbeat.serve()
    assert first.wait(DEADLINE)
    two = heartbeat.serve()
    one.join(DEADLINE)
    assert not one.is_alive()
    assert heartbeat.state == "running"
    heartbeat.state = "stopped"
    two.join(DEADLINE)
    assert not two.is_alive()


def test_an_interrupt_stops_the_heartbeat(manager, heartbeat):
    def interrupt(event):
        raise KeyboardInterrupt

    manager.connect(HeartbeatEvent, interrupt)
    with pytest.raises(KeyboardInterrupt):
        heartbeat.run()
    assert heartbeat.state == "stopped"


def test_bad_arguments_are_value_errors(manager, heartbeat):
    for interval in (0, -1):
        with pytest.raises(ValueError, match="positive"):
            Heartbeat(interval, manager)
    with pytest.raises(ValueError, match="sleeping"):
        heartbeat.state = "sleeping"
    assert heartbeat.state == "waiting"


def test_the_default_manager_is_the_one_of_the_process(monkeypatch):
    shared = EventManager()
    monkeypatch.setattr(package_globals, "_event_manager", shared)
    heartbeat = Heartbeat()
    assert heartbeat.event_manager is shared
    assert heartbeat.interval == 1 / 50
