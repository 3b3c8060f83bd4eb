"""What the tests of several stores, and those of the locks, share."""

import os
import subprocess
import sys
import tempfile

import pytest

FAST = "/dev/shm" if os.path.isdir("/dev/shm") else None

PROBE = """
from encore.storage import file_lock, filesystem_store, locking_filesystem_store, sqlite_store
print(sqlite_store.__file__)
"""


@pytest.fixture(scope="session")
def start_08(tmp_path_factory):
    """A function that starts a script with EnCore 0.8 and returns the process.

    The environment variable ``ENCORE08`` names the directory that it is installed in, as by
    ``pip install --no-deps --target $ENCORE08 encore==0.8.0``.
    """
    where = os.environ.get("ENCORE08")
    if not where:
        pytest.skip("ENCORE08 does not say where EnCore 0.8 is installed")
    where = os.path.abspath(where)
    if not os.path.isdir(f"{where}/encore"):
        pytest.skip(f"EnCore 0.8 is not installed in {where}")
    # Of its own: the current directory comes before PYTHONPATH, and ours may be in it.
    folder = tmp_path_factory.mktemp("encore08")

    def start(script, *arguments, **options):
        return subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", script, *map(str, arguments)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": where},
            **options,
        )

    probe = start(PROBE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    found, error = probe.communicate(timeout=60)
    if probe.returncode:
        pytest.skip(f"EnCore 0.8 does not run with this Python: {error.strip().splitlines()[-1]}")
    assert found.startswith(where)
    return start


@pytest.fixture
def in_a_fork():
    """A function that returns what another one returns in a child that is forked off, as text."""

    def run(function):
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

    return run


@pytest.fixture
def child():
    """A function that starts a process of this encore, with pipes."""

    def start(code, *arguments):
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        return subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )

    return start


# LockingFileSystemStore


@pytest.fixture
def shared_folder():
    """A directory for LockingFileSystemStores."""
    from encore.storage.filesystem_store import init_shared_store

    with tempfile.TemporaryDirectory(dir=FAST) as folder:
        init_shared_store(folder)
        yield folder


@pytest.fixture
def new_handle(shared_folder):
    """A function that makes connected handles, which look at the log only when they are told to."""
    from encore.events.event_manager import EventManager
    from encore.storage.locking_filesystem_store import LockingFileSystemStore

    handles = []

    def new(**arguments):
        defaults = {
            "durability": "process",
            "remote_event_poll_interval": 0,
            "event_manager": EventManager(),
        }
        handle = LockingFileSystemStore(shared_folder, **{**defaults, **arguments})
        handle.connect()
        handles.append(handle)
        return handle

    yield new
    for handle in handles:
        handle.disconnect()


@pytest.fixture
def recorded():
    """A function that returns a list which gets all changes that a store tells."""
    from encore.storage.events import StoreModificationEvent

    def record(store):
        found = []

        def listener(event):
            assert event.source is store
            found.append(
                (type(event).__name__, event.key, event.metadata, getattr(event, "remote", False))
            )

        store.event_manager.connect(StoreModificationEvent, listener)
        return found

    return record


# Locks


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
def fake_time(monkeypatch):
    """The clock that locks go by."""
    from encore.storage._lock_breaking import BreakableLock

    fake = FakeTime()
    monkeypatch.setattr(BreakableLock, "_clock", staticmethod(fake.clock))
    monkeypatch.setattr(BreakableLock, "_sleep", staticmethod(fake.sleep))
    return fake


@pytest.fixture
def name():
    """The name of a lock, in a directory of its own."""
    with tempfile.TemporaryDirectory(dir=FAST) as folder:
        yield f"{folder}/name"


@pytest.fixture
def plant_ours():
    """A function that makes a lock as another process has it, and returns the path of its owner's file."""
    from encore.storage._owner import host_name

    def plant(name, owner, state="", content=None):
        own = f"{name}.lock.{owner}-n1"
        with open(own, "w") as file:
            lines = (host_name(), 1, "root", f"{owner}-n1", "LOCK")
            file.write("\n".join(map(str, lines)) if content is None else content)
        os.link(own, f"{name}.lock")
        os.rename(own, own + state)
        return own + state

    return plant


@pytest.fixture
def dead_pid():
    """A function that returns the number of a process that has ended."""

    def end():
        process = subprocess.Popen([sys.executable, "-S", "-c", ""])
        process.wait()
        return process.pid

    return end


@pytest.fixture
def dead_owner(dead_pid):
    """A function that returns a process that has ended, as the owner of a lock."""
    from encore.storage._owner import Owner, this_process

    def end():
        me = this_process()
        return Owner(me.place, me.machine, dead_pid(), me.start)

    return end
