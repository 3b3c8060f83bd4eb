"""Locks that are files, exclusive and shared, between threads and processes."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import threading
from collections import Counter
from itertools import count

import pytest

from encore.storage import _lock_holders, _lock_sign
from encore.storage._lock_sign import Sign
from encore.storage._owner import host_name, this_process
from encore.storage.errors import StoreError, StoreOSError
from encore.storage.file_lock import FileLock, LockError, SharedFileLock

DEADLINE = 30.0
ELSEWHERE = "0123456789ab-0-1234-5678"


def files(name):
    return sorted(os.listdir(os.path.dirname(name)))


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


def test_with_raises_when_the_time_is_over(name, fake_time):
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
def test_waiting_ends_after_the_timeout(name, fake_time, patience):
    with FileLock(name):
        other = FileLock(name, timeout=patience, poll_interval=0.01)
        for wait in (other.acquire, other.wait):
            begun, fake_time.sleeps = fake_time.now, []
            assert wait() is False
            assert fake_time.now - begun == pytest.approx(patience)
            assert max(fake_time.sleeps) <= 0.01
            assert len(fake_time.sleeps) < patience / 0.01 + 10


def test_a_timeout_of_zero_waits_for_ever(name, fake_time):
    lock = FileLock(name)
    lock.acquire()

    def release_late():
        if fake_time.now > 103_000 and lock.acquired():
            lock.release()

    fake_time.while_asleep = release_late
    other = FileLock(name, poll_interval=1000.0)
    assert other.wait() is True
    assert lock.acquire()
    fake_time.now = 0.0
    assert other.acquire() is True
    assert fake_time.now > 103_000
    other.release()


def test_it_is_not_reentrant(name, fake_time):
    lock = FileLock(name, timeout=1, force_timeout=0.5)
    assert lock.acquire()
    assert lock.acquire() is False
    assert lock.acquired()
    lock.release()
    assert not lock.locked()


def test_force_timeout_breaks_a_lock_that_lives(name, fake_time):
    first, second = FileLock(name), FileLock(name, force_timeout=0.5, timeout=2)
    assert first.acquire()
    begun = fake_time.now
    assert second.acquire() is True
    assert fake_time.now - begun == pytest.approx(0.5, abs=0.02)
    assert (first.acquired(), second.acquired()) == (False, True)
    with pytest.raises(LockError, match="broken"):
        first.release()
    assert second.acquired()
    second.release()
    assert files(name) == []


def test_force_timeout_counts_for_each_holder_alone(name, fake_time):
    holders = [FileLock(name) for _ in range(5)]
    holders[0].acquire()
    begun = fake_time.now

    def pass_on():
        number = int((fake_time.now - begun) / 0.4)
        if 0 < number < len(holders) and holders[number - 1].acquired():
            holders[number - 1].release()
            holders[number].acquire()

    fake_time.while_asleep = pass_on
    late = FileLock(name, force_timeout=0.5, timeout=10)
    assert late.acquire()
    assert fake_time.now - begun == pytest.approx(4 * 0.4 + 0.5, abs=0.1)
    assert not holders[-1].acquired()
    late.release()


def test_a_timeout_before_the_force_timeout_breaks_nothing(name, fake_time):
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


def test_shared_holders_exclude_the_exclusive_one_and_the_other_way_round(name, fake_time):
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


def test_a_shared_lock_is_reentrant(name, fake_time):
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


def test_force_timeout_of_shared_locks(name, fake_time):
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


def test_an_empty_directory_is_no_lock(name, fake_time):
    os.mkdir(f"{name}.lock")
    lock = FileLock(name)
    assert not lock.locked()
    with lock:
        assert os.path.isfile(lock.full_path)
    os.mkdir(f"{name}.lock")
    with SharedFileLock(name):
        pass
    assert files(name) == []


def test_shared_holders_that_died(name, fake_time, dead_pid, dead_owner):
    os.mkdir(f"{name}.lock")
    for holder in (f"{host_name()}__{dead_pid()}__root__123.lock", f"{dead_owner()}-n1"):
        with open(f"{name}.lock/{holder}", "w"):
            pass
        lock = FileLock(name)
        assert not lock.locked()
        with lock:
            pass
        assert not fake_time.sleeps
        os.mkdir(f"{name}.lock")
    with open(f"{name}.lock/{host_name()}__{os.getpid()}__root__123.lock", "w"):
        pass
    assert lock.locked()


# Who waits for the exclusive lock


def test_shared_holders_that_come_and_go_let_an_exclusive_one_in(name, fake_time, monkeypatch):
    """Without a sign, somebody would have the shared lock at any time."""
    threads = count()
    monkeypatch.setattr(_lock_sign, "get_ident", lambda: next(threads))
    current = SharedFileLock(name)
    current.acquire()
    gave_way = []

    def pass_on():
        nonlocal current
        # The next one asks before the last one lets go.
        following = SharedFileLock(name)
        gave_way.append(following._gives_way(0.0, None))
        if not gave_way[-1]:
            following.acquire()
        if len(gave_way) > 5 or not gave_way[-1]:
            current.release()
            current = following

    fake_time.while_asleep = pass_on
    with FileLock(name, timeout=100):
        assert gave_way == [True] * 6
    assert files(name) == []


def test_who_shares_a_lock_and_asks_again_waits_for_nobody(name, fake_time):
    outer, inner = SharedFileLock(name), SharedFileLock(name)
    sign = Sign(f"{name}.lock")
    with outer:
        sign.put_up()
        # The same object, and another one of the same thread.
        with outer, inner:
            assert not fake_time.sleeps
        others = []

        def ask():
            with SharedFileLock(name):
                others.append(len(fake_time.sleeps))

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join(DEADLINE)
        assert others[0] > 0
    sign.take_down()
    assert files(name) == []


def test_nobody_gives_way_for_long(name, fake_time):
    """What somebody waits for who shares the lock may need it, too."""
    Sign(f"{name}.lock").put_up()
    begun = fake_time.now
    with SharedFileLock(name):
        assert fake_time.now - begun == pytest.approx(1.0, abs=0.05)
    # And others are not delayed by one who does not wait any more.
    assert files(name) == []
    Sign(f"{name}.lock").put_up()
    begun = fake_time.now
    with SharedFileLock(name, timeout=0.25):
        assert fake_time.now - begun == pytest.approx(0.25, abs=0.05)
    os.unlink(f"{name}.lock.wait")


@pytest.mark.parametrize("text", [None, ELSEWHERE, "anything"])
def test_a_sign_ends_with_its_owner(name, fake_time, dead_owner, text):
    os.symlink(str(dead_owner()) if text is None else text, f"{name}.lock.wait")
    begun = fake_time.now
    with SharedFileLock(name):
        assert fake_time.now - begun == pytest.approx(0.0 if text is None else 1.0, abs=0.05)
    assert files(name) == []


@pytest.mark.parametrize("how", ["timeout", "interrupt"])
def test_who_gives_up_takes_the_sign_down(name, fake_time, how):
    seen = []

    def look():
        seen.append(os.path.lexists(f"{name}.lock.wait"))
        if how == "interrupt" and len(seen) == 3:
            raise KeyboardInterrupt

    fake_time.while_asleep = look
    lock = FileLock(name, timeout=0.5)
    with SharedFileLock(name):
        if how == "timeout":
            assert lock.acquire() is False
            # Nor does one put it up who does not ask for the lock.
            assert all(seen)
            del seen[:]
            assert lock.wait() is False
            assert not any(seen)
        else:
            with pytest.raises(KeyboardInterrupt):
                lock.acquire()
    assert files(name) == []


def test_a_sign_that_was_removed_is_put_up_again(name, fake_time):
    seen = []

    def remove():
        seen.append(1)
        assert os.readlink(f"{name}.lock.wait") == str(this_process())
        os.unlink(f"{name}.lock.wait")

    fake_time.while_asleep = remove
    with SharedFileLock(name):
        assert FileLock(name, timeout=0.1).acquire() is False
    assert len(seen) > 5


def test_without_symbolic_links_nobody_gives_way(name, fake_time, monkeypatch):
    def symlink(text, path):
        raise PermissionError(errno.EPERM, "not here")

    monkeypatch.setattr(os, "symlink", symlink)
    with SharedFileLock(name):
        assert FileLock(name, timeout=0.1).acquire() is False
        fake_time.sleeps = []
        with SharedFileLock(name):
            assert not fake_time.sleeps


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


def test_processes_exclude_each_other(name, child):
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


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_does_not_hold_what_its_parent_holds(name, fake_time, in_a_fork):
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


def test_old_and_new_exclude_each_other(name, fake_time, old):
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
    fake_time.sleeps = []
    old.process.kill()
    os.waitid(os.P_PID, old.process.pid, os.WEXITED | os.WNOWAIT)
    with lock:
        assert not fake_time.sleeps
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


@pytest.mark.parametrize("kind", [FileLock, SharedFileLock])
def test_a_full_disk_keeps_nobody_from_a_lock(name, kind, fake_time, monkeypatch):
    def write(fd, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(_lock_holders, "write_all", write)
    with kind(name) as lock:
        assert lock.acquired()
        assert FileLock(name).locked()
        assert FileLock(name, timeout=1).acquire() is False
    assert files(name) == []
    # Its content is all that other data are for.
    with pytest.raises(StoreOSError):
        FileLock(name, data=b"hello").acquire()
    assert files(name) == []
