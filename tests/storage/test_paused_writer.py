"""A writer that stands still after any of its system calls, and a reader that looks then."""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading

import pytest

from encore.storage.filesystem_store import FileSystemStore, init_shared_store
from encore.storage.sqlite_store import SqliteStore
from encore.testing._history import contents, states_of
from encore.testing.power_cut import why_not

if reason := why_not():
    pytest.skip(reason, allow_module_level=True)

FAST = "/dev/shm" if os.path.isdir("/dev/shm") else None
DEADLINE = 60

CALLS = (
    "pwrite64,fsync,fdatasync,ftruncate,?unlink,unlinkat,?rename,renameat,renameat2,"
    "utimensat,linkat,?link,?mkdir,mkdirat"
)

CHILD = """
import pickle, sys
exec(sys.argv[1])
from encore.testing._history import go_through
go_through(pickle.load(sys.stdin.buffer))
"""


def sqlite(folder):
    return SqliteStore(f"{folder}/x.db")


def filesystem(folder):
    init_shared_store(folder)
    return FileSystemStore(folder)


def look_at_pauses(make, first, step, setup=""):
    """Pause at some of the calls of each kind, and look; return how often."""
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    pauses, process = 0, None
    with tempfile.TemporaryDirectory(dir=FAST) as folder:
        store = make(folder)
        states = states_of(store)
        reading, writing = os.pipe()
        command = ["strace", "-f", "-o", f"/proc/self/fd/{writing}", "-e", f"trace={CALLS},write"]
        command += ["-e", f"inject={CALLS}:signal=SIGSTOP:when={first}+{step}"]
        child = subprocess.Popen(
            [*command, sys.executable, "-c", CHILD, setup],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
            pass_fds=[writing],
        )
        os.close(writing)

        def stop():
            child.kill()
            if process is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            child.wait()

        watch = threading.Timer(DEADLINE, stop)
        watch.daemon = True
        watch.start()
        try:
            child.stdin.write(pickle.dumps(store))
            child.stdin.close()
            begun = ended = 0
            with open(reading, encoding="utf-8", errors="replace") as trace:
                for line in trace:
                    begun += 'write(1, "begin ' in line
                    ended += 'write(1, "end ' in line
                    paused = re.match(r"(\d+) +--- stopped by SIGSTOP ---", line)
                    if paused is None:
                        continue
                    process = int(paused[1])
                    try:
                        # Before that there may be no database.
                        if ended:
                            pauses += 1
                            if not store.is_connected():
                                store.connect()
                            expected = states[ended][: None if begun > ended else 1]
                            assert contents(store) in expected, f"after {ended} steps, {line}"
                    finally:
                        os.kill(process, signal.SIGCONT)
            assert child.wait() == 0
            process = None
            assert ended == len(states) - 1
        finally:
            watch.cancel()
            # What strace leaves when it ends stands still, and would never end.
            stop()
            store.disconnect()
    return pauses


# Another thread of a LockingFileSystemStore, which says that it lives, would go on.
STORES = [sqlite, filesystem]


@pytest.mark.parametrize("make", STORES)
def test_a_reader_sees_old_or_new_while_a_writer_stands_still(make):
    first = random.randint(1, 10)
    print(f"from call {first}")
    assert look_at_pauses(make, first, 10) > 5


@pytest.mark.slow
@pytest.mark.parametrize("make", STORES)
def test_a_reader_sees_old_or_new_at_every_call_of_a_writer(make):
    assert look_at_pauses(make, 1, 1) > 100


COPIED_INSTEAD_OF_RENAMED = """
import os
def rename(source, target):
    with open(source, "rb") as old, open(target, "wb") as new:
        data = old.read()
        os.write(new.fileno(), data[: len(data) // 2])
        os.fsync(new.fileno())
        os.write(new.fileno(), data[len(data) // 2 :])
    status = os.stat(source)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
    os.unlink(source)
os.rename = os.replace = rename
"""


def test_a_rename_that_is_not_atomic_is_found():
    with pytest.raises(AssertionError, match=r"after \d+ steps"):
        look_at_pauses(filesystem, 1, 1, COPIED_INSTEAD_OF_RENAMED)
