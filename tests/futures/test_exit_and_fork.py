"""What happens to executors when their process ends or forks, in processes of their own."""

from __future__ import annotations

import os

import pytest

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")

START = """
import os, sys, threading, warnings
warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
from encore.concurrent.futures import EnhancedThreadPoolExecutor, Serializer
def say(*words): os.write(1, (" ".join(map(str, words)) + "\\n").encode())
"""

# A job that goes on only after the main thread has ended.
BLOCKED = (
    START
    + """
started = threading.Event()
def job():
    started.set()
    threading.main_thread().join()
    say("job")
"""
)


def test_exit_waits_for_running_and_pending_work(child):
    program = (
        BLOCKED
        + """
pool = EnhancedThreadPoolExecutor(1, uninitializer=lambda: say("uninitializer"))
pool.submit(job)
pool.submit(say, "pending")
started.wait(30)
say("main")
"""
    )
    assert child(program) == (0, ["main", "job", "pending", "uninitializer"])


def test_exit_waits_for_the_work_of_an_executor_that_was_dropped(child):
    program = (
        BLOCKED
        + """
EnhancedThreadPoolExecutor(1).submit(job)
started.wait(30)
say("main")
"""
    )
    assert child(program) == (0, ["main", "job"])


def test_exit_does_not_wait_if_told_so(child):
    program = (
        START
        + """
started = threading.Event()
never = threading.Event()
def job():
    started.set()
    never.wait()
    say("job")
pool = EnhancedThreadPoolExecutor(2, uninitializer=lambda: say("out"), wait_at_exit=False)
pool.submit(job)
started.wait(30)
pool.submit(int).result(30)
say("main")
"""
    )
    assert child(program) == (0, ["main"])


@pytest.mark.parametrize("status", [0, 3])
def test_exit_is_not_held_up_by_idle_threads(child, status):
    program = (
        START
        + f"""
pool = EnhancedThreadPoolExecutor(3)
for _ in range(3):
    pool.submit(int).result(30)
sys.exit({status})
"""
    )
    assert child(program) == (status, [])


def test_exit_after_shutdown(child):
    program = (
        START
        + """
with EnhancedThreadPoolExecutor(2) as pool:
    pool.submit(say, "job")
say(len(pool._threads))
"""
    )
    assert child(program) == (0, ["job", "1"])


def test_work_submitted_while_the_interpreter_exits_is_refused(child):
    program = (
        BLOCKED
        + """
pool = EnhancedThreadPoolExecutor(1)
at_exit = threading.Event()
def late():
    started.set()
    closes.wait(30)
    try:
        pool.submit(say, "lost")
    except RuntimeError:
        say("refused")
closes = threading.Event()
close = pool._pool.close
def close_and_tell(**options):
    dropped = close(**options)
    closes.set()
    return dropped
pool._pool.close = close_and_tell
pool.submit(late)
started.wait(30)
"""
    )
    assert child(program) == (0, ["refused"])


@pytest.mark.parametrize("threads_started", [False, True])
def test_what_waits_in_a_scheduler_at_exit_fails_and_is_logged(child, threads_started):
    program = (
        BLOCKED
        + f"threads_started = {threads_started}"
        + """
import logging
logging.basicConfig(stream=sys.stdout, format="%(levelname)s:%(name)s")
logging.raiseExceptions = False
pool = EnhancedThreadPoolExecutor(1)
if threads_started:
    pool.submit(int).result(30)
serializer = Serializer(pool)
def late():
    started.set()
    closed.wait(30)
close = pool._pool.close
closed = threading.Event()
def close_and_tell(**options):
    close(**options)
    closed.set()
pool._pool.close = close_and_tell
serializer.submit(late)
future = serializer.submit(say, "lost")
future.add_done_callback(lambda future: say(type(future.exception()).__name__))
started.wait(30)
"""
    )
    status, words = child(program)
    assert status == 0
    assert words[0] == "RuntimeError"
    text = " ".join(words)
    assert text.count("ERROR:encore.concurrent.futures.abc_work_scheduler") == 2
    assert "lost" not in text


def test_importing_and_making_executors_starts_no_thread(child):
    program = (
        START
        + """
pool = EnhancedThreadPoolExecutor(1)
Serializer(pool)
say(threading.active_count())
"""
    )
    assert child(program) == (0, ["1"])


@needs_fork
def test_an_executor_works_in_a_forked_child(child):
    program = (
        START
        + """
pool = EnhancedThreadPoolExecutor(1)
go = threading.Event()
started = threading.Event()
def job():
    started.set()
    go.wait(30)
running = pool.submit(job)
pending = pool.submit(say, "pending")
started.wait(30)
pid = os.fork()
if not pid:
    say("child", pool.submit(int, "7").result(30))
    pool.shutdown()
    os._exit(0)
say("status", os.waitpid(pid, 0)[1])
go.set()
pool.shutdown()
"""
    )
    assert child(program) == (0, ["child", "7", "status", "0", "pending"])


@needs_fork
def test_a_forked_child_can_exit_while_the_parent_works(child):
    program = (
        START
        + """
pool = EnhancedThreadPoolExecutor(1)
go = threading.Event()
started = threading.Event()
def job():
    started.set()
    go.wait(30)
    say("job")
pool.submit(job)
started.wait(30)
pid = os.fork()
if not pid:
    sys.exit(5)  # runs the exit functions, as os._exit would not
say(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
go.set()
"""
    )
    assert child(program) == (0, ["5", "job"])


@needs_fork
def test_a_child_forked_by_a_job_ends_where_the_job_returns(child):
    program = (
        START
        + """
pool = EnhancedThreadPoolExecutor(1, uninitializer=lambda: say("uninitializer"))
serializer = Serializer(pool, callback=lambda future: say("callback"))
go = threading.Event()
def job(fails):
    go.wait(30)
    pid = os.fork()
    if pid:
        say("status", os.waitpid(pid, 0)[1])
    elif fails:
        sys.exit("a failure in the child")
serializer.submit(job, False)
serializer.submit(job, True)
serializer.submit(say, "next")
go.set()
serializer.wait()
pool.shutdown()
"""
    )
    expected = ["status", "0", "callback", "status", "0", "callback", "next", "callback"]
    assert child(program) == (0, [*expected, "uninitializer"])


@needs_fork
@pytest.mark.parametrize("kind", ["Serializer(pool)", "DelayedAsynchronizer(pool, 0.001)"])
def test_a_scheduler_that_was_busy_works_in_a_forked_child(child, kind):
    program = (
        START
        + f"""
from encore.concurrent.futures import DelayedAsynchronizer
pool = EnhancedThreadPoolExecutor(1)
scheduler = {kind}
go = threading.Event()
started = threading.Event()
scheduler.submit(lambda: (started.set(), go.wait(30)))
pending = scheduler.submit(say, "pending")
started.wait(30)
with scheduler._lock:  # as another thread may hold it
    pid = os.fork()
    if not pid:
        work = lambda: (scheduler.submit(say, "child"), scheduler.wait(30))
        child = threading.Thread(target=work)
        child.start()
        child.join()
        os._exit(0)
say("status", os.waitpid(pid, 0)[1])
go.set()
scheduler.wait()
"""
    )
    assert child(program) == (0, ["child", "status", "0", "pending"])


@needs_fork
@pytest.mark.parametrize("before", [False, True])
def test_the_end_of_a_process_of_multiprocessing_waits_for_the_work(child, before):
    program = (
        BLOCKED
        + f"before = {before}"
        + """
import atexit, multiprocessing.util
pool = EnhancedThreadPoolExecutor(1)
if before:
    pool.submit(int).result(30)
def main(results):
    def work():
        go.wait(30)
        results.put("put")
        say("work")
    go = threading.Event()
    pool.submit(work)
    # What such a process runs at its end, before and after Python 3.13.
    multiprocessing.util.Finalize(None, go.set, exitpriority=200)
    atexit.register(go.set)
context = multiprocessing.get_context("fork")
results = context.Queue()
process = context.Process(target=main, args=[results])
process.start()
process.join()
say(process.exitcode, results.get(timeout=30))
"""
    )
    assert child(program) == (0, ["work", "0", "put"])
