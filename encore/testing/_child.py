"""What the conformance kit does in other processes.

The parent writes a pickled job to standard input; after that, lines go both ways.
"""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class Child:
    """Another process that works on a store.

    Parameters
    ----------
    store : store
        Pickled, so that the child has a handle of its own on the same data.
    job : str
        The name of a function in this module.
    *args
        What it is called with, after the store.
    patience : float, in seconds
        How long to wait for an answer.
    """

    def __init__(self, store: Any, job: str, *args: Any, patience: float) -> None:
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        self.patience = patience
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from encore.testing._child import main; main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
        assert self.process.stdin is not None
        pickle.dump((job, args), self.process.stdin)
        pickle.dump(store, self.process.stdin)
        self.process.stdin.flush()

    def __repr__(self) -> str:
        return f"<child process {self.process.pid}>"

    def tell(self, line: str = "go") -> None:
        """Write a line to the child."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        """Return the next line of the child, '' if it has ended; it is killed if it takes too
        long."""
        assert self.process.stdout is not None
        watch = threading.Timer(self.patience, self.process.kill)
        watch.daemon = True
        watch.start()
        try:
            return self.process.stdout.readline().decode().rstrip("\n")
        finally:
            watch.cancel()
            watch.join()

    def kill(self) -> list[str]:
        """End the child as ``kill -9`` does; return the lines that had not been heard."""
        self.process.kill()
        assert self.process.stdout is not None
        if self.process.stdout.closed:
            return []
        rest = self.process.stdout.read().decode()
        self.close()
        # What comes after the last line end was cut off.
        return rest.split("\n")[:-1]

    def end(self) -> int:
        """Wait for the child's end and return its exit status; it is killed if it takes too
        long."""
        try:
            self.process.wait(self.patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
        return self.close()

    def close(self) -> int:
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                pass
        return self.process.wait()


def main() -> None:
    """Do one job, in the child."""
    job, args = pickle.load(sys.stdin.buffer)
    store = pickle.load(sys.stdin.buffer)
    store.connect()
    function: Callable[..., object] = globals()[job]
    function(store, *args)


def _say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def _wait() -> None:
    sys.stdin.buffer.readline()


def pair(serial: int) -> tuple[bytes, dict[str, Any]]:
    """Return data and metadata that belong together."""
    size = (10, 3000, 200_000)[serial % 3] if serial % 5 else 0
    metadata = {"serial": serial, "text": "x" * (serial % 4 * 500)}
    return (b"%d " % serial) * (size // 8), metadata


def write_pairs(store: Any, start: int, together: bool) -> None:
    """Write for ever; say what was written, after it was."""
    serial = start
    while True:
        serial += 1
        for key in ("one", "other"):
            data, metadata = pair(serial)
            store.set(key, (io.BytesIO(data), metadata))
            _say(key, serial)
        if together:
            with store.transaction("two keys"):
                for key in ("left", "right"):
                    data, metadata = pair(serial)
                    store.set(key, (io.BytesIO(data), metadata))
            _say("left", serial)
        if store.exists("flicker"):
            store.delete("flicker")
        else:
            data, metadata = pair(serial)
            store.set("flicker", (io.BytesIO(data), metadata))


def hold(store: Any) -> None:
    """Be in the middle of a transaction until killed."""
    with store.transaction("held"):
        store.from_bytes("held", b"never committed")
        _say("held")
        _wait()


def create(store: Any, key: str, name: str) -> None:
    """Create a key, if nobody was faster."""
    from encore.storage.errors import PreconditionError

    _say("ready")
    _wait()
    try:
        store.set(key, (io.BytesIO(name.encode()), {"winner": name}), if_none_match="*")
    except PreconditionError:
        _say("lost")
    else:
        _say("won")
    store.disconnect()


def increment(store: Any, key: str, times: int, how: str) -> None:
    """Add to a number, by transactions or by compare-and-set."""
    from encore.storage.errors import PreconditionError

    _say("ready")
    _wait()
    done = 0
    while done < times:
        if how == "transaction":
            with store.transaction("increment"):
                store.from_bytes(key, b"%d" % (int(store.to_bytes(key)) + 1))
        else:
            value = store.get(key)
            data = b"%d" % (int(value.data.read()) + 1)
            try:
                store.set_data(key, io.BytesIO(data), if_match=value.etag)
            except PreconditionError:
                continue
        done += 1
    _say("done")
    store.disconnect()


def fill(store: Any, prefix: str, count: int) -> None:
    """Write keys of one's own and a key of all."""
    _say("ready")
    _wait()
    for number in range(count):
        store.set(f"{prefix}{number}", (io.BytesIO(prefix.encode()), {"from": prefix}))
        store.set("shared", (io.BytesIO(prefix.encode() * 1000), {"from": prefix}))
    _say("done")
    store.disconnect()


def forget(store: Any) -> None:
    """Use the store and end without disconnecting it."""
    store.set("forgotten", (io.BytesIO(b"data"), {"kept": True}))
    _say("done")
