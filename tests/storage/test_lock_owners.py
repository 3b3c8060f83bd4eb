"""Who has a lock, whether it lives, and how it shows that."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from encore.storage import _heartbeat, _owner, file_lock
from encore.storage._heartbeat import Heartbeat
from encore.storage._lock_holders import BREAKING, RELEASING
from encore.storage._owner import Owner, host_name, process_has_died, this_process
from encore.storage.file_lock import FileLock

DEADLINE = 30.0
ELSEWHERE = "0123456789ab-0-1234-5678"


def files(name):
    return sorted(os.listdir(os.path.dirname(name)))


def plant(name, *lines):
    with open(f"{name}.lock", "w") as file:
        file.write("\n".join(map(str, lines)))


# Owners


def test_an_owner_is_read_as_it_was_written():
    me = this_process()
    for text in (str(me), f"{me}-n12", f"{me}-n12-"):
        assert Owner.parse(text) == me
    assert me.start > 0 or not os.path.exists("/proc/self/stat")
    assert me.has_died() is False
    for text in (
        "",
        "x",
        f"{me.place}-{me.machine}-12",
        f"{me.place}-{me.machine}-a-1",
        "12-0-1-1",
    ):
        assert Owner.parse(text) is None


def test_a_process_of_another_place_cannot_be_judged():
    assert Owner.parse(ELSEWHERE).has_died() is None
    me = this_process()
    assert Owner("0" * 12, me.machine, os.getpid(), me.start).has_died() is (
        None if me.machine == "0" else True
    )


@pytest.mark.parametrize("boot", ["6bb1c9f0-5f0e-4f6f-8d0e-3b7e4f2f9c11", ""])
def test_a_computer_that_got_another_name_is_the_same_until_it_boots(monkeypatch, boot):
    def place(host, boot):
        monkeypatch.setattr(_owner, "host_name", lambda: host)
        monkeypatch.setattr(_owner, "_text_of", lambda path: boot * path.endswith("boot_id"))
        return _owner._surroundings()[0]

    assert (place("a", boot) == place("b", boot)) is bool(boot)
    assert place("a", boot) != place("a", "another")


def test_a_process_id_that_is_used_again_is_another_process(dead_pid):
    me = this_process()
    assert process_has_died(me.pid, me.start) is False
    assert process_has_died(me.pid) is False
    if me.start:
        assert process_has_died(me.pid, me.start + 1) is True
    for pid in (dead_pid(), 0, -1, 10**30):
        assert process_has_died(pid) is True


def test_a_process_that_nobody_has_waited_for_is_dead():
    process = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert process_has_died(process.pid) is False
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert process_has_died(process.pid) is True
    finally:
        process.communicate()


@pytest.mark.parametrize("state", ["", RELEASING, BREAKING])
@pytest.mark.parametrize("content", [None, "data of its own"])
def test_a_dead_owner_is_found_at_once(name, fake_time, state, content, plant_ours, dead_owner):
    plant_ours(name, dead_owner(), state, content)
    lock = FileLock(name)
    assert not lock.locked()
    assert lock.get_data() is not None
    assert lock.acquire()
    assert not fake_time.sleeps
    assert lock.acquired()
    lock.release()
    assert files(name) == []
    plant_ours(name, dead_owner(), state, content)
    assert lock.wait() is True
    assert not fake_time.sleeps


def test_what_dead_ones_have_left_is_swept(name, fake_time, plant_ours, dead_owner):
    with open(f"{name}.lock.{dead_owner()}-n1", "w"):
        pass
    alive = f"{os.path.basename(name)}.lock.{this_process()}-n1"
    with open(os.path.join(os.path.dirname(name), alive), "w"):
        pass
    plant_ours(name, dead_owner())
    with FileLock(name):
        pass
    assert files(name) == [alive]


def test_the_process_id_of_the_owner_is_used_again(name, fake_time, plant_ours):
    me = this_process()
    if not me.start:
        pytest.skip("the system does not tell when processes started")
    plant_ours(name, Owner(me.place, me.machine, me.pid, me.start + 1))
    with FileLock(name):
        assert not fake_time.sleeps


@pytest.mark.parametrize("more", [[], ["more"]])
def test_a_dead_owner_in_the_format_of_old_is_found_at_once(name, fake_time, more, dead_pid):
    plant(name, host_name(), dead_pid(), "root", 140700786580048, "LOCK", *more)
    lock = FileLock(name)
    assert not lock.locked()
    with lock:
        assert not fake_time.sleeps
    assert files(name) == []


def test_a_dead_owner_in_lines_of_windows_is_found(name, fake_time, dead_pid):
    plant(name, *(f"{line}\r" for line in (host_name(), dead_pid(), "root", 1)), "LOCK\r")
    with FileLock(name):
        assert not fake_time.sleeps


@pytest.mark.parametrize(
    "lines",
    [
        (host_name(), os.getpid(), "root", 1, "LOCK"),
        ("elsewhere", 1, "root", 1, "LOCK"),
        (host_name(), "x", "root", 1, "LOCK"),
        ("",),
        ("data",),
    ],
)
def test_nobody_else_is_taken_for_dead(name, fake_time, lines):
    plant(name, *lines)
    lock = FileLock(name, timeout=30, poll_interval=1)
    assert lock.locked()
    assert lock.acquire() is False
    # As LockingFileSystemStore: only one that is known to live is waited for.
    lock.stale_timeout = 10.0
    lives = lines[:2] == (host_name(), os.getpid())
    assert lock.acquire() is not lives


def test_a_lock_elsewhere_is_broken_when_it_gives_no_sign_of_life(name, fake_time, plant_ours):
    plant_ours(name, ELSEWHERE)
    patient = FileLock(name, timeout=100, poll_interval=1)
    assert patient.acquire() is False
    lock = FileLock(name, timeout=20, stale_timeout=10.0, poll_interval=0.1)
    begun = fake_time.now
    assert lock.acquire()
    assert fake_time.now - begun == pytest.approx(10.0, abs=0.2)
    lock.release()


def test_a_lock_elsewhere_that_gives_signs_of_life_is_not_broken(name, fake_time, plant_ours):
    own = plant_ours(name, ELSEWHERE)
    # Clocks may differ as they like.
    stamps = iter([5, 10**9, 7, 8, 10**9 + 1, 3] * 10)
    begun = fake_time.now

    def give_sign():
        nonlocal begun
        if fake_time.now - begun > 8:
            begun = fake_time.now
            stamp = next(stamps)
            os.utime(own, (stamp, stamp))

    fake_time.while_asleep = give_sign
    lock = FileLock(name, timeout=100, poll_interval=1, stale_timeout=10.0)
    assert lock.acquire() is False
    fake_time.while_asleep = lambda: None
    # Silence counts on from one call to the next.
    lock.timeout = 4
    assert [lock.acquire() for _ in range(3)].count(True) == 1


def test_a_lock_here_is_never_taken_for_dead_by_its_silence(name, fake_time):
    with FileLock(name):
        assert FileLock(name, timeout=100, poll_interval=1, stale_timeout=1.0).acquire() is False


HOLDER = """
import os, sys
from encore.storage.file_lock import FileLock, SharedFileLock
{kind}({name!r}).acquire()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("kind", ["FileLock", "SharedFileLock"])
def test_the_lock_of_a_killed_process_is_free_at_once(name, fake_time, kind, child):
    process = child(HOLDER.format(kind=kind, name=name))
    try:
        assert process.stdout.readline() == b"held\n"
        lock = FileLock(name, timeout=1)
        assert lock.locked()
        assert lock.acquire() is False
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        fake_time.sleeps = []
        assert not lock.locked()
        with lock:
            assert not fake_time.sleeps
        assert files(name) == []
    finally:
        process.kill()
        process.communicate()


# Signs of life


def test_a_heartbeat_touches_what_is_due(tmp_path):
    beat = Heartbeat()
    beat._start = lambda: None
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_text("")
        os.utime(path, (1, 1))
    beat.add(str(paths[0]), 10.0)
    beat.add(str(paths[1]), 100.0)
    beat.add(str(tmp_path / "missing"), 10.0)
    due = beat.beat(0.0)
    assert [path.stat().st_mtime for path in paths] == [1, 1]
    due += 1.0
    assert beat.beat(due) == due + 10.0
    assert paths[0].stat().st_mtime != 1
    assert paths[1].stat().st_mtime == 1
    beat.discard(str(paths[0]))
    beat.discard(str(tmp_path / "missing"))
    os.utime(paths[0], (1, 1))
    assert beat.beat(due + 200) == due + 300
    assert [path.stat().st_mtime == 1 for path in paths] == [True, False]
    beat.discard(str(paths[1]))
    assert beat.beat(due + 1000) is None


def test_a_held_lock_gives_signs_of_life_from_a_thread(name, monkeypatch):
    touched = threading.Event()
    beat = Heartbeat()
    monkeypatch.setattr(file_lock, "heartbeat", beat)
    monkeypatch.setattr(file_lock.heartbeat, "add", lambda path: Heartbeat.add(beat, path, 0.001))
    real = os.utime
    monkeypatch.setattr(_heartbeat.os, "utime", lambda path: (real(path), touched.set()))
    with FileLock(name, stale_timeout=10.0) as lock:
        assert touched.wait(DEADLINE)
        assert lock.acquired()
        thread = beat._thread
        assert thread.daemon
    thread.join(DEADLINE)
    assert not thread.is_alive()
    assert beat._thread is None
    with FileLock(name):
        assert beat._thread is None


def test_what_is_added_is_not_forgotten_while_the_thread_ends(tmp_path):
    beat = Heartbeat()
    path = str(tmp_path / "a")
    for _ in range(200):
        beat.add(path, 60.0)
        beat.discard(path)
    beat.add(path, 60.0)
    assert beat._thread is not None
    assert beat._thread.is_alive()
    beat.discard(path, wait=True)
    assert beat._thread is None
