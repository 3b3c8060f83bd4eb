from __future__ import annotations

import errno
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter

import pytest

from encore.storage import _heartbeat, _owner, file_lock
from encore.storage._heartbeat import Heartbeat
from encore.storage._owner import Owner, host_name, process_has_died, this_process
from encore.storage.errors import StoreError, StoreOSError
from encore.storage.file_lock import FileLock, LockError, SharedFileLock

FAST = "/dev/shm" if os.path.isdir("/dev/shm") else None
DEADLINE = 30.0
ELSEWHERE = "0123456789ab-0-1234-5678"


class FakeTime:
    """A clock that moves only when somebody sleeps."""

    def __init__(self):
        self.now = 1000.0
        self.sleeps = []
        self.while_asleep = lambda: None

    def clock(self):
        return self.now

    def sleep(self, seconds):
        assert seconds > 0
        self.sleeps.append(seconds)
        self.now += seconds
        assert len(self.sleeps) < 20_000, "it waits for ever"
        self.while_asleep()


@pytest.fixture
def time(monkeypatch):
    fake = FakeTime()
    monkeypatch.setattr(file_lock._Lock, "_clock", staticmethod(fake.clock))
    monkeypatch.setattr(file_lock._Lock, "_sleep", staticmethod(fake.sleep))
    return fake


@pytest.fixture
def name():
    with tempfile.TemporaryDirectory(dir=FAST) as folder:
        yield f"{folder}/name"


def files(name):
    return sorted(os.listdir(os.path.dirname(name)))


def plant(name, *lines):
    with open(f"{name}.lock", "w") as file:
        file.write("\n".join(map(str, lines)))


def plant_ours(name, owner, state="", content=None):
    """Put a lock there as another process has it."""
    own = f"{name}.lock.{owner}-n1"
    with open(own, "w") as file:
        lines = (host_name(), 1, "root", f"{owner}-n1", "LOCK")
        file.write("\n".join(map(str, lines)) if content is None else content)
    os.link(own, f"{name}.lock")
    os.rename(own, own + state)
    return own + state


def dead_pid():
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    return process.pid


def dead_owner():
    me = this_process()
    return Owner(me.place, me.machine, dead_pid(), me.start)


# What EnCore 0.8 has


def test_a_lock_is_held_released_and_seen_by_all(name):
    mine, other = FileLock(name), FileLock(name, timeout=0.001)
    assert (mine.locked(), mine.acquired(), mine.get_data(), mine.wait()) == (
        False,
        False,
        None,
        True,
    )
    assert mine.acquire() is True
    assert os.path.isfile(mine.full_path)
    assert (mine.locked(), mine.acquired(), other.locked(), other.acquired()) == (
        True,
        True,
        True,
        False,
    )
    assert other.acquire() is False
    assert other.wait() is False
    mine.release()
    assert files(name) == []
    assert other.wait() is True
    assert other.acquire() is True
    other.release()


def test_full_path_is_the_name_with_its_suffix(name, tmp_path):
    assert FileLock("a/b").full_path == "a/b.lock"
    assert FileLock("b", dir=tmp_path).full_path == str(tmp_path / "b.lock")
    assert FileLock("b", "c").full_path == os.path.join("c", "b.lock")
    assert FileLock(name, dir="elsewhere").full_path == f"{name}.lock"
    assert FileLock(tmp_path / "b").full_path == str(tmp_path / "b.lock")
    assert SharedFileLock("a/b").full_path == "a/b.lock"


@pytest.mark.parametrize("kind", [FileLock, SharedFileLock])
def test_arguments_have_the_order_of_old(kind, tmp_path):
    lock = kind("x", str(tmp_path), 0.02, 3, 4, 5)
    assert (lock.poll_interval, lock.timeout, lock.force_timeout, lock.uid) == (0.02, 3, 4, 5)
    lock.timeout = 1
    assert lock.acquire()
    lock.release()


def test_the_file_has_the_five_lines_of_old(name):
    with FileLock(name) as lock:
        lines = lock.get_data().decode().split("\n")
    assert lines[:2] == [host_name(), str(os.getpid())]
    assert len(lines) == 5
    assert lines[4] == "LOCK"
    with FileLock(name, uid="me\nor you") as lock:
        assert lock.get_data().decode().split("\n")[3:] == ["me or you", "LOCK"]
    assert lock.get_data() is None


def test_data_are_the_content(name):
    lock = FileLock(name, None, 0.01, 0, 0, None, b"hello")
    with lock:
        assert lock.get_data() == FileLock(name).get_data() == b"hello"
        assert lock.acquired()
    with pytest.raises(TypeError, match="data is bytes, not str"):
        FileLock(name, data="hello")


def test_releasing_what_is_not_held_is_an_error(name):
    lock = FileLock(name)
    with pytest.raises(LockError, match="not held"):
        lock.release()
    with FileLock(name), pytest.raises(LockError, match="not held"):
        lock.release()
    with lock:
        pass
    with pytest.raises(LockError):
        lock.release()
    assert issubclass(LockError, StoreError)


def test_with_raises_when_the_time_is_over(name, time):
    with FileLock(name) as lock, pytest.raises(LockError, match="somebody else"):  # noqa: SIM117
        with FileLock(name, timeout=1):
            raise AssertionError
    assert lock.locked() is False
    assert files(name) == []


def test_with_releases_whatever_happens(name):
    with pytest.raises(ZeroDivisionError), FileLock(name):
        raise ZeroDivisionError
    assert files(name) == []


@pytest.mark.parametrize("patience", [0.5, 2])
def test_waiting_ends_after_the_timeout(name, time, patience):
    with FileLock(name):
        other = FileLock(name, timeout=patience, poll_interval=0.01)
        for wait in (other.acquire, other.wait):
            begun, time.sleeps = time.now, []
            assert wait() is False
            assert time.now - begun == pytest.approx(patience)
            assert max(time.sleeps) <= 0.01
            assert len(time.sleeps) < patience / 0.01 + 10


def test_a_timeout_of_zero_waits_for_ever(name, time):
    lock = FileLock(name)
    lock.acquire()

    def release_late():
        if time.now > 103_000 and lock.acquired():
            lock.release()

    time.while_asleep = release_late
    other = FileLock(name, poll_interval=1000.0)
    assert other.wait() is True
    assert lock.acquire()
    time.now = 0.0
    assert other.acquire() is True
    assert time.now > 103_000
    other.release()


def test_it_is_not_reentrant(name, time):
    lock = FileLock(name, timeout=1, force_timeout=0.5)
    assert lock.acquire()
    assert lock.acquire() is False
    assert lock.acquired()
    lock.release()
    assert not lock.locked()


def test_force_timeout_breaks_a_lock_that_lives(name, time):
    first, second = FileLock(name), FileLock(name, force_timeout=0.5, timeout=2)
    assert first.acquire()
    begun = time.now
    assert second.acquire() is True
    assert time.now - begun == pytest.approx(0.5, abs=0.02)
    assert (first.acquired(), second.acquired()) == (False, True)
    with pytest.raises(LockError, match="broken"):
        first.release()
    assert second.acquired()
    second.release()
    assert files(name) == []


def test_force_timeout_counts_for_each_holder_alone(name, time):
    holders = [FileLock(name) for _ in range(5)]
    holders[0].acquire()
    begun = time.now

    def pass_on():
        number = int((time.now - begun) / 0.4)
        if 0 < number < len(holders) and holders[number - 1].acquired():
            holders[number - 1].release()
            holders[number].acquire()

    time.while_asleep = pass_on
    late = FileLock(name, force_timeout=0.5, timeout=10)
    assert late.acquire()
    assert time.now - begun == pytest.approx(4 * 0.4 + 0.5, abs=0.1)
    assert not holders[-1].acquired()
    late.release()


def test_a_timeout_before_the_force_timeout_breaks_nothing(name, time):
    with FileLock(name):
        assert FileLock(name, force_timeout=2, timeout=1).acquire() is False
        assert FileLock(name, force_timeout=2, timeout=5).wait() is False


def test_force_break(name):
    lock, shared = FileLock(name), SharedFileLock(name)
    assert lock.force_break() is False
    lock.acquire()
    assert FileLock(name).force_break() is True
    assert not lock.acquired()
    with pytest.raises(LockError):
        lock.release()
    shared.acquire()
    assert lock.force_break() is True
    assert not shared.acquired()
    with pytest.raises(LockError):
        shared.release()
    lock.acquire()
    assert lock.force_break() is True
    assert files(name) == []


# Shared locks


def test_shared_holders_exclude_the_exclusive_one_and_the_other_way_round(name, time):
    one, two = SharedFileLock(name, timeout=1), SharedFileLock(name, timeout=1)
    lock = FileLock(name, timeout=1)
    assert one.acquire()
    assert os.path.exists(one.full_path)
    assert one.full_path == lock.full_path
    assert (one.locked(), one.acquired(), two.locked(), two.acquired(), lock.locked()) == (
        False,
        True,
        False,
        False,
        True,
    )
    assert lock.get_data() is None
    assert two.acquire()
    assert lock.acquire() is False
    assert lock.wait() is False
    one.release()
    assert lock.acquire() is False
    two.release()
    assert not os.path.exists(one.full_path)
    assert lock.acquire()
    assert one.locked()
    assert one.acquire() is False
    assert one.wait() is False
    lock.release()
    with one:
        assert one.acquired()
    assert files(name) == []


def test_a_shared_lock_is_reentrant(name, time):
    shared = SharedFileLock(name)
    assert shared.acquire()
    assert shared.acquire()
    shared.release()
    assert shared.acquired()
    assert FileLock(name).locked()
    shared.release()
    assert not FileLock(name).locked()
    with pytest.raises(LockError):
        shared.release()


def test_force_timeout_of_shared_locks(name, time):
    lock, shared = FileLock(name, force_timeout=1), SharedFileLock(name, force_timeout=1)
    lock.acquire()
    assert shared.acquire()
    assert not lock.acquired()
    other = FileLock(name, force_timeout=1)
    assert other.acquire()
    assert not shared.acquired()
    for each in (lock, shared):
        with pytest.raises(LockError):
            each.release()
    other.release()
    assert files(name) == []


def test_an_empty_directory_is_no_lock(name, time):
    os.mkdir(f"{name}.lock")
    lock = FileLock(name)
    assert not lock.locked()
    with lock:
        assert os.path.isfile(lock.full_path)
    os.mkdir(f"{name}.lock")
    with SharedFileLock(name):
        pass
    assert files(name) == []


def test_shared_holders_that_died(name, time):
    os.mkdir(f"{name}.lock")
    for holder in (f"{host_name()}__{dead_pid()}__root__123.lock", f"{dead_owner()}-n1"):
        with open(f"{name}.lock/{holder}", "w"):
            pass
        lock = FileLock(name)
        assert not lock.locked()
        with lock:
            pass
        assert not time.sleeps
        os.mkdir(f"{name}.lock")
    with open(f"{name}.lock/{host_name()}__{os.getpid()}__root__123.lock", "w"):
        pass
    assert lock.locked()


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


def test_a_process_id_that_is_used_again_is_another_process():
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


@pytest.mark.parametrize("state", ["", file_lock.RELEASING, file_lock.BREAKING])
@pytest.mark.parametrize("content", [None, "data of its own"])
def test_a_dead_owner_is_found_at_once(name, time, state, content):
    plant_ours(name, dead_owner(), state, content)
    lock = FileLock(name)
    assert not lock.locked()
    assert lock.get_data() is not None
    assert lock.acquire()
    assert not time.sleeps
    assert lock.acquired()
    lock.release()
    assert files(name) == []
    plant_ours(name, dead_owner(), state, content)
    assert lock.wait() is True
    assert not time.sleeps


def test_what_dead_ones_have_left_is_swept(name, time):
    with open(f"{name}.lock.{dead_owner()}-n1", "w"):
        pass
    alive = f"{os.path.basename(name)}.lock.{this_process()}-n1"
    with open(os.path.join(os.path.dirname(name), alive), "w"):
        pass
    plant_ours(name, dead_owner())
    with FileLock(name):
        pass
    assert files(name) == [alive]


def test_the_process_id_of_the_owner_is_used_again(name, time):
    me = this_process()
    if not me.start:
        pytest.skip("the system does not tell when processes started")
    plant_ours(name, Owner(me.place, me.machine, me.pid, me.start + 1))
    with FileLock(name):
        assert not time.sleeps


@pytest.mark.parametrize("more", [[], ["more"]])
def test_a_dead_owner_in_the_format_of_old_is_found_at_once(name, time, more):
    plant(name, host_name(), dead_pid(), "root", 140700786580048, "LOCK", *more)
    lock = FileLock(name)
    assert not lock.locked()
    with lock:
        assert not time.sleeps
    assert files(name) == []


def test_a_dead_owner_in_lines_of_windows_is_found(name, time):
    plant(name, *(f"{line}\r" for line in (host_name(), dead_pid(), "root", 1)), "LOCK\r")
    with FileLock(name):
        assert not time.sleeps


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
def test_nobody_else_is_taken_for_dead(name, time, lines):
    plant(name, *lines)
    lock = FileLock(name, timeout=30, poll_interval=1)
    assert lock.locked()
    assert lock.acquire() is False
    # As LockingFileSystemStore: only one that is known to live is waited for.
    lock.stale_timeout = 10.0
    lives = lines[:2] == (host_name(), os.getpid())
    assert lock.acquire() is not lives


def test_a_lock_elsewhere_is_broken_when_it_gives_no_sign_of_life(name, time):
    plant_ours(name, ELSEWHERE)
    patient = FileLock(name, timeout=100, poll_interval=1)
    assert patient.acquire() is False
    lock = FileLock(name, timeout=20, stale_timeout=10.0, poll_interval=0.1)
    begun = time.now
    assert lock.acquire()
    assert time.now - begun == pytest.approx(10.0, abs=0.2)
    lock.release()


def test_a_lock_elsewhere_that_gives_signs_of_life_is_not_broken(name, time):
    own = plant_ours(name, ELSEWHERE)
    # Clocks may differ as they like.
    stamps = iter([5, 10**9, 7, 8, 10**9 + 1, 3] * 10)
    begun = time.now

    def give_sign():
        nonlocal begun
        if time.now - begun > 8:
            begun = time.now
            stamp = next(stamps)
            os.utime(own, (stamp, stamp))

    time.while_asleep = give_sign
    lock = FileLock(name, timeout=100, poll_interval=1, stale_timeout=10.0)
    assert lock.acquire() is False
    time.while_asleep = lambda: None
    # Silence counts on from one call to the next.
    lock.timeout = 4
    assert [lock.acquire() for _ in range(3)].count(True) == 1


def test_a_lock_here_is_never_taken_for_dead_by_its_silence(name, time):
    with FileLock(name):
        assert FileLock(name, timeout=100, poll_interval=1, stale_timeout=1.0).acquire() is False


HOLDER = """
import os, sys
from encore.storage.file_lock import FileLock, SharedFileLock
{kind}({name!r}).acquire()
print("held", flush=True)
sys.stdin.read()
"""


def child(code):
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [os.getcwd(), *sys.path]))},
    )


@pytest.mark.parametrize("kind", ["FileLock", "SharedFileLock"])
def test_the_lock_of_a_killed_process_is_free_at_once(name, time, kind):
    process = child(HOLDER.format(kind=kind, name=name))
    try:
        assert process.stdout.readline() == b"held\n"
        lock = FileLock(name, timeout=1)
        assert lock.locked()
        assert lock.acquire() is False
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        time.sleeps = []
        assert not lock.locked()
        with lock:
            assert not time.sleeps
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


# Threads, processes, forks


@pytest.mark.parametrize("shared_object", [True, False])
def test_threads_exclude_each_other(name, shared_object):
    lock = FileLock(name, poll_interval=0.001)
    inside, most, errors = Counter(), Counter(), []

    def work():
        own = lock if shared_object else FileLock(name, poll_interval=0.001)
        try:
            for _ in range(10):
                own.acquire()
                inside["now"] += 1
                most["inside"] = max(most["inside"], inside["now"])
                most["turns"] += 1
                inside["now"] -= 1
                own.release()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert not errors
    assert most == {"inside": 1, "turns": 80}
    assert files(name) == []


@pytest.mark.parametrize("kind", [FileLock, SharedFileLock])
def test_a_hold_is_released_once(name, kind, monkeypatch):
    lock = kind(name)
    lock.acquire()
    if kind is SharedFileLock:
        lock.acquire()
    real = kind._give_up
    errors = []

    def give_up(self, path):
        # Another thread releases the lock in the middle.
        monkeypatch.setattr(kind, "_give_up", real)
        try:
            lock.release()
        except LockError as error:
            errors.append(error)
        return real(self, path)

    monkeypatch.setattr(kind, "_give_up", give_up)
    lock.release()
    assert not lock._held
    assert files(name) == []
    assert [str(error) for error in errors] == (
        [] if kind is SharedFileLock else [f"{lock!r} is not held by this object"]
    )


ADDER = """
import sys
from encore.storage.file_lock import FileLock, SharedFileLock
lock, shared = FileLock({name!r}, poll_interval=0.002), SharedFileLock({name!r}, poll_interval=0.002)
print("ready", flush=True)
sys.stdin.readline()
for turn in range({turns}):
    with lock:
        with open({path!r}) as file:
            number = int(file.read())
        with open({path!r}, "w") as file:
            file.write(str(number + 1))
    with shared, open({path!r}) as file:
        assert int(file.read()) > number
"""


def test_processes_exclude_each_other(name):
    path, turns = f"{name}.count", 15
    with open(path, "w") as file:
        file.write("0")
    processes = [child(ADDER.format(name=name, path=path, turns=turns)) for _ in range(4)]
    for process in processes:
        assert process.stdout.readline() == b"ready\n"
    for process in processes:
        process.stdin.write(b"go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    with open(path) as file:
        assert file.read() == str(len(processes) * turns)
    assert files(name) == ["name.count"]


def in_a_fork(function):
    """Return what a function returns in a child that was forked off."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, repr(function()).encode())
        except BaseException as error:
            os.write(write, repr(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    with open(read) as stream:
        answer = stream.read()
    os.waitpid(pid, 0)
    return answer


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_does_not_hold_what_its_parent_holds(name, time):
    lock, shared = FileLock(name, timeout=1), SharedFileLock(f"{name}2", timeout=1)

    def look():
        said = [lock.acquired(), lock.locked(), lock.acquire(), shared.acquired()]
        for each in (lock, shared):
            with pytest.raises(LockError):
                each.release()
        with shared:
            return said

    with lock, shared:
        assert in_a_fork(look) == "[False, True, False, False]"
        assert lock.acquired()
        assert shared.acquired()
    assert files(name) == []
    assert in_a_fork(lambda: (lock.acquire(), lock.acquired())) == "(True, True)"
    # The child has ended with it.
    assert lock.acquire()
    lock.release()


# Every step


class Interrupted(BaseException):
    pass


CALLS = ("open", "write", "close", "link", "rename", "unlink", "mkdir", "rmdir", "lstat", "listdir")


class Steps:
    """Does something before or after the n-th system call."""

    def __init__(self, monkeypatch, action, number, after):
        self.action, self.number, self.after = action, number, after
        self.count = 0
        self.done = False
        for call in CALLS:
            monkeypatch.setattr(file_lock.os, call, self.wrapped(getattr(os, call)))

    def wrapped(self, call):
        def run(*args, **kwargs):
            if self.done:
                return call(*args, **kwargs)
            mine = self.count = self.count + 1
            if mine == self.number and not self.after:
                self.done = True
                self.action()
            try:
                return call(*args, **kwargs)
            finally:
                if mine == self.number and self.after:
                    self.done = True
                    self.action()

        return run


def interrupt():
    raise Interrupted


def every_step(function, *, both=True):
    """Call function(number, after) for each step; it returns whether there was such a step."""
    # After one step is before the next, but for errors.
    for after in (False, True) if both else (False,):
        number = 1
        while function(number, after):
            number += 1
            assert number < 200
        assert number > 2


@pytest.mark.parametrize("kind", [FileLock, SharedFileLock])
@pytest.mark.parametrize("how", ["acquire", "release", "with", "break"])
def test_an_interrupt_leaves_no_lock_that_nobody_owns(name, time, kind, how):
    owner = dead_owner()

    def run(number, after):
        lock = kind(name)
        if how == "release":
            lock.acquire()
        if how == "break":
            plant_ours(name, owner)
        with pytest.MonkeyPatch.context() as patch:
            steps = Steps(patch, interrupt, number, after)
            try:
                if how == "with":
                    with lock:
                        steps.done = True
                else:
                    lock.release() if how == "release" else lock.acquire()
            except Interrupted:
                steps.done = True
                assert not lock.acquired()
            else:
                steps.done = True
                # It may have been swallowed where nothing needs to be done.
                if lock.acquired():
                    lock.release()
        # Nobody has it, and nobody has to wait.
        with FileLock(name):
            pass
        assert not time.sleeps
        # Only what was about to be removed anyway, and whoever breaks the lock next removes.
        assert how == "break" or files(name) == []
        return steps.count >= number

    every_step(run)
    plant_ours(name, owner)
    with FileLock(name):
        pass
    assert files(name) == []


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize(
    ("kind", "how"),
    [
        (FileLock, "acquire"),
        (SharedFileLock, "acquire"),
        (FileLock, "break"),
        pytest.param(SharedFileLock, "break", marks=pytest.mark.slow),
    ],
)
def test_a_kill_at_any_step_leaves_a_lock_that_can_be_had(name, time, kind, how):
    owner = dead_owner()

    def die():
        os._exit(9)

    def run(number, after):
        if how == "break":
            plant_ours(name, owner)
        pid = os.fork()
        if pid == 0:
            try:
                Steps(pytest.MonkeyPatch(), die, number, after)
                lock = kind(name)
                lock.acquire()
                lock.release()
            finally:
                os._exit(0)
        _, status = os.waitpid(pid, 0)
        with FileLock(name):
            pass
        assert not time.sleeps
        return status != 0

    every_step(run)
    # Dead ones leave at most files that whoever breaks the lock next removes.
    plant_ours(name, dead_owner())
    with FileLock(name):
        pass
    assert files(name) == []


def test_two_breakers_break_one_lock_once(name, time):
    """While one of them is at any step, the other one breaks the lock, and takes it."""
    owner = dead_owner()
    broke = Counter()

    def run(number, after):
        plant_ours(name, owner)
        first, second = FileLock(name, timeout=1), FileLock(name, timeout=0.001)

        def other():
            broke[second.acquire()] += 1

        with pytest.MonkeyPatch.context() as patch:
            steps = Steps(patch, other, number, after)
            got = first.acquire()
        # Never both, and never none: whoever comes late waits.
        assert [got, first.acquired()] == [not second.acquired()] * 2
        (first if got else second).release()
        return steps.count >= number

    every_step(run, both=False)
    assert broke[True] > 2
    assert broke[False] > 2
    assert files(name) == []


@pytest.mark.parametrize("planted", [True, False])
def test_a_breaker_never_removes_a_newer_lock(name, time, planted):
    """While it is at any step, the owner releases the lock, and another one takes it."""
    passed = Counter()

    def run(number, after):
        holder, newer = FileLock(name), FileLock(name, timeout=0.001)
        if planted:
            plant(name, host_name(), dead_pid(), "root", 1, "LOCK")
        else:
            holder.acquire()
        breaker = FileLock(name, timeout=1, force_timeout=0 if planted else 1e-9)

        def pass_on():
            breaker.force_timeout = 0
            try:
                if not planted:
                    holder.release()
            except LockError:
                pass
            passed[newer.acquire()] += 1

        with pytest.MonkeyPatch.context() as patch:
            steps = Steps(patch, pass_on, number, after)
            got = breaker.acquire()
        assert [got, breaker.acquired()] == [not newer.acquired()] * 2
        (breaker if got else newer).release()
        return steps.count >= number

    every_step(run, both=False)
    assert passed[True] > 2
    assert files(name) == []


def test_a_lock_that_has_changed_hands_is_not_broken(name):
    """Not even by force, if it was another one that was to be broken."""
    plant(name, host_name(), os.getpid(), "root", 1, "LOCK")
    breaker = FileLock(name)
    (old,) = breaker._holders()
    os.unlink(breaker.full_path)
    assert breaker._break(old, True) is False
    with FileLock(name) as newer:
        assert breaker._break(old, True) is False
        assert newer.acquired()
        (present,) = breaker._holders()
    with FileLock(name) as newer:
        assert breaker._break(present, True) is False
        assert newer.acquired()


def test_a_lock_that_was_about_to_be_broken_is_not_waited_for(name, time):
    """Its owner has lost it, and who broke it was killed."""
    plant_ours(name, this_process(), file_lock.BREAKING)
    with FileLock(name):
        assert not time.sleeps
    plant_ours(name, this_process(), file_lock.RELEASING)
    assert FileLock(name, timeout=1, force_timeout=0.5).acquire() is False


def test_a_lock_that_old_broke_is_not_removed_again(name):
    """EnCore 0.8 removes the file by its name."""
    lock = FileLock(name)
    lock.acquire()
    os.unlink(lock.full_path)
    assert not lock.acquired()
    plant(name, "elsewhere", 1, "root", 1, "LOCK")
    assert not lock.acquired()
    with pytest.raises(LockError, match="broken"):
        lock.release()
    assert files(name) == ["name.lock"]


@pytest.mark.parametrize("number", [errno.EEXIST, errno.EIO])
def test_an_answer_that_nfs_has_lost(name, time, monkeypatch, number):
    real = os.link

    def link(source, target):
        real(source, target)
        raise OSError(number, "lost")

    monkeypatch.setattr(file_lock.os, "link", link)
    lock = FileLock(name)
    assert lock.acquire()
    assert not time.sleeps
    lock.release()
    assert files(name) == []


def test_what_the_system_refuses_leaves_nothing(name, monkeypatch):
    def link(source, target):
        raise PermissionError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(file_lock.os, "link", link)
    lock = FileLock(name)
    for acquire in (lock.acquire, lock.__enter__):
        with pytest.raises(StoreOSError) as caught:
            acquire()
        assert caught.value.errno == errno.EPERM
    assert files(name) == []
    with pytest.raises(StoreOSError) as caught:
        FileLock(f"{name}/missing/x").acquire()
    assert caught.value.errno == errno.ENOENT


@pytest.mark.parametrize("kind", [FileLock, SharedFileLock])
def test_a_release_that_the_system_refuses_can_be_tried_again(name, kind, monkeypatch):
    lock = kind(name)
    lock.acquire()

    def unlink(path):
        raise PermissionError(errno.EPERM, "not now")

    with monkeypatch.context() as patch:
        patch.setattr(file_lock.os, "unlink", unlink)
        with pytest.raises(StoreOSError):
            lock.release()
    lock.release()
    assert not lock.locked()
    assert files(name) == []
    with pytest.raises(LockError):
        lock.release()


def test_a_lock_that_may_not_be_broken_is_waited_for(name, time, monkeypatch):
    plant_ours(name, dead_owner())

    def rename(source, target):
        raise PermissionError(errno.EPERM, "it is another user's")

    with monkeypatch.context() as patch:
        patch.setattr(file_lock.FileLock, "_break_alone", lambda *args: rename(*args[:2]))
        lock = FileLock(name, timeout=1)
        assert lock.acquire() is False
        with pytest.raises(LockError, match="cannot be broken"):
            lock.force_break()
    with lock:
        pass


# EnCore 0.8 itself

OLD = """
import sys
from encore.storage.file_lock import FileLock, SharedFileLock
assert not hasattr(SharedFileLock, "wait")
arguments = {{"name": {name!r}, "timeout": 0.05}}
locks = {{"exclusive": FileLock(**arguments), "shared": SharedFileLock(**arguments)}}
for line in sys.stdin:
    kind, method = line.split()
    print(getattr(locks[kind], method)(), flush=True)
"""


@pytest.fixture
def old(name, start_08):
    """A function that calls a method of a lock of EnCore 0.8."""
    process = start_08(
        OLD.format(name=name), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def call(kind, method):
        process.stdin.write(f"{kind} {method}\n")
        process.stdin.flush()
        return process.stdout.readline().strip()

    call.process = process
    yield call
    process.kill()
    process.communicate()


def test_old_and_new_exclude_each_other(name, time, old):
    lock, shared = FileLock(name, timeout=1), SharedFileLock(name, timeout=1)
    with lock:
        assert old("exclusive", "locked") == "True"
        assert old("exclusive", "acquire") == old("shared", "acquire") == "False"
    with shared:
        assert old("exclusive", "acquire") == "False"
        assert old("shared", "acquire") == "True"
    assert lock.locked()
    assert lock.acquire() is False
    assert shared.acquire()
    assert old("shared", "release") == "None"
    assert old("exclusive", "acquire") == "False"
    shared.release()
    assert old("exclusive", "acquire") == "True"
    assert (lock.locked(), lock.acquire(), shared.locked(), shared.acquire()) == (
        True,
        False,
        True,
        False,
    )
    time.sleeps = []
    old.process.kill()
    os.waitid(os.P_PID, old.process.pid, os.WEXITED | os.WNOWAIT)
    with lock:
        assert not time.sleeps
    assert files(name) == []


def test_old_breaks_a_lock(name, old):
    lock = FileLock(name)
    lock.acquire()
    assert old("exclusive", "force_break") == "True"
    assert not lock.acquired()
    assert old("exclusive", "acquire") == "True"
    with pytest.raises(LockError, match="broken"):
        lock.release()
    assert old("exclusive", "acquired") == "True"
    assert FileLock(name).force_break()
    assert old("exclusive", "acquired") == "False"


# Odds and ends


def test_a_relative_name_survives_chdir(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lock = FileLock("x")
    os.mkdir("sub")
    with lock:
        monkeypatch.chdir("sub")
        assert lock.acquired()
        assert FileLock(str(tmp_path / "x")).locked()
    assert os.listdir(tmp_path) == ["sub"]


def test_a_name_must_be_that_of_a_file():
    for bad in ("", "a/"):
        with pytest.raises(ValueError, match="the name of a lock"):
            FileLock(bad)


@pytest.mark.parametrize("kind", [FileLock, SharedFileLock])
def test_a_copy_does_not_hold_the_lock(name, kind):
    with kind(name, timeout=2) as lock:
        copy = pickle.loads(pickle.dumps(lock))
        assert not copy.acquired()
        assert (copy.full_path, copy.timeout) == (lock.full_path, 2)
    assert repr(copy) == repr(lock) == f"{kind.__name__}({name + '.lock'!r})"


def test_a_user_without_a_name(name, monkeypatch):
    import getpass

    def getuser():
        raise KeyError("uid not found")

    monkeypatch.setattr(getpass, "getuser", getuser)
    with FileLock(name) as lock:
        assert lock.get_data().decode().split("\n")[2] == str(os.getuid())
