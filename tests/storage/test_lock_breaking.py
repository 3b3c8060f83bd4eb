"""Locks of those that were interrupted or killed at any step, and who breaks them."""

from __future__ import annotations

import errno
import os
from collections import Counter

import pytest

from encore.storage import file_lock
from encore.storage._lock_holders import BREAKING, RELEASING
from encore.storage._owner import host_name, this_process
from encore.storage.errors import StoreOSError
from encore.storage.file_lock import FileLock, LockError, SharedFileLock


def files(name):
    return sorted(os.listdir(os.path.dirname(name)))


def plant(name, *lines):
    with open(f"{name}.lock", "w") as file:
        file.write("\n".join(map(str, lines)))


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
def test_an_interrupt_leaves_no_lock_that_nobody_owns(
    name, fake_time, kind, how, plant_ours, dead_owner
):
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
        assert not fake_time.sleeps
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
    ("kind", "how", "both"),
    [
        (FileLock, "acquire", True),
        (SharedFileLock, "acquire", True),
        (FileLock, "break", False),
        pytest.param(FileLock, "break", True, marks=pytest.mark.slow),
        pytest.param(SharedFileLock, "break", True, marks=pytest.mark.slow),
    ],
)
def test_a_kill_at_any_step_leaves_a_lock_that_can_be_had(
    name, fake_time, kind, how, both, plant_ours, dead_owner
):
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
        assert not fake_time.sleeps
        return status != 0

    every_step(run, both=both)
    # Dead ones leave at most files that whoever breaks the lock next removes.
    plant_ours(name, dead_owner())
    with FileLock(name):
        pass
    assert files(name) == []


def test_two_breakers_break_one_lock_once(name, fake_time, plant_ours, dead_owner):
    """While one of them is at any step, the other one breaks the lock, and takes it."""
    owner = dead_owner()
    broke = Counter()

    def run(number, after):
        plant_ours(name, owner)
        first, second = FileLock(name, timeout=0.05), FileLock(name, timeout=0.001)

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
def test_a_breaker_never_removes_a_newer_lock(name, fake_time, planted, dead_pid):
    """While it is at any step, the owner releases the lock, and another one takes it."""
    passed, dead = Counter(), dead_pid()

    def run(number, after):
        holder, newer = FileLock(name), FileLock(name, timeout=0.001)
        if planted:
            plant(name, host_name(), dead, "root", 1, "LOCK")
        else:
            holder.acquire()
        breaker = FileLock(name, timeout=0.05, force_timeout=0 if planted else 1e-9)

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


def test_a_lock_that_was_about_to_be_broken_is_not_waited_for(name, fake_time, plant_ours):
    """Its owner has lost it, and who broke it was killed."""
    plant_ours(name, this_process(), BREAKING)
    with FileLock(name):
        assert not fake_time.sleeps
    plant_ours(name, this_process(), RELEASING)
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
def test_an_answer_that_nfs_has_lost(name, fake_time, monkeypatch, number):
    real = os.link

    def link(source, target):
        real(source, target)
        raise OSError(number, "lost")

    monkeypatch.setattr(file_lock.os, "link", link)
    lock = FileLock(name)
    assert lock.acquire()
    assert not fake_time.sleeps
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


def test_a_lock_that_may_not_be_broken_is_waited_for(
    name, fake_time, monkeypatch, plant_ours, dead_owner
):
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
