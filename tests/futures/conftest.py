from __future__ import annotations

import concurrent.futures
import subprocess
import sys
from collections import deque

import pytest

from encore.concurrent.futures.enhanced_thread_pool_executor import EnhancedThreadPoolExecutor


class ManualExecutor(concurrent.futures.Executor):
    """Keeps what is submitted until the test has it done."""

    def __init__(self):
        self.jobs = deque()

    def submit(self, fn, /, *args, **kwargs):
        future = concurrent.futures.Future()
        self.jobs.append((future, fn, args, kwargs))
        return future

    def do_one(self):
        future, fn, args, kwargs = self.jobs.popleft()
        if future.set_running_or_notify_cancel():
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)
        del future  # an exception's traceback holds this frame, and the future the exception

    def do_all(self):
        while self.jobs:
            self.do_one()


@pytest.fixture
def manual():
    return ManualExecutor()


@pytest.fixture
def deadline():
    """Seconds that no wait in these tests comes near to."""
    return 60


@pytest.fixture
def hasty_switching():
    """Have threads take over from each other at almost every opportunity."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.fixture
def make_pool(deadline):
    pools = []

    def make(*args, cls=EnhancedThreadPoolExecutor, **kwargs):
        pool = cls(*args, **kwargs)
        pools.append(pool)
        return pool

    yield make
    for pool in pools:
        pool.shutdown(wait=False)
    for pool in pools:
        for thread in pool._threads:
            thread.join(deadline)
            assert not thread.is_alive()


@pytest.fixture
def child(deadline):
    """Run a program in an interpreter of its own; return its exit status and what it wrote."""

    def run(program):
        done = subprocess.run(
            [sys.executable, "-c", program],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=deadline,
            check=False,
        )
        assert done.stderr == ""
        return done.returncode, done.stdout.split()

    return run
