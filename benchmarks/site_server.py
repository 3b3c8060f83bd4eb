"""A server that is measured, in a process of its own: run as a script by `serving`.

``site_server.py SERVER SIZE [PATH]``: all but http.server run the same application of this project,
on a store in memory, or with a SIZE on one with a value that large in files. http.server has
handlers as short as they can be.

It prints its port, and ends with its standard input.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from importlib import import_module
from io import BytesIO
from pathlib import Path
from shutil import copyfileobj
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.stores import MANY, MIB, pairs
from benchmarks.suite import scratch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

DATA = bytes(range(256)) * 16
THREADS = 16

#: Seconds that a connection may be idle: between two rounds there are all other rows.
PATIENCE = 3600


def store(size: int) -> Any:
    if size:
        from encore.storage.filesystem_store import FileSystemStore, init_shared_store

        path = str(scratch())
        init_shared_store(path)
        large: Any = FileSystemStore(path)
        large.connect()
        large.set("large", (Zeros(size), {}))
        return large
    from encore.storage.dict_memory_store import DictMemoryStore

    small: Any = DictMemoryStore()
    small.connect()
    found = pairs(MANY)
    small.multiset([key for key, _ in found], [(BytesIO(b"x"), m) for _, m in found])
    small.set("key", (BytesIO(DATA), found[7][1]))
    return small


class Zeros:
    def __init__(self, size: int) -> None:
        self.left = size

    def read(self, size: int = MIB) -> bytes:
        count = min(self.left, size if size >= 0 else self.left)
        self.left -= count
        return bytes(count)


def application(size: int) -> Any:
    from encore.storage.server import StoreApplication

    return StoreApplication(store(size))


def nothing(environ: dict[str, Any], start: Callable[..., object]) -> Iterable[bytes]:
    """An application that takes no time."""
    start("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(DATA)))])
    return [DATA]


def encore(listener: socket.socket, app: Any) -> None:
    from encore.storage._http_server import Server

    # It makes its own.
    listener.close()
    server = Server(app, port=0, timeout=PATIENCE)
    server.start()
    ready(server.port)
    threading.Event().wait()


def waitress(listener: socket.socket, app: Any) -> None:
    server = import_module("waitress").create_server(
        app, sockets=[listener], threads=THREADS, channel_timeout=PATIENCE
    )
    ready(listener.getsockname()[1])
    server.run()


def gunicorn(listener: socket.socket, app: Any) -> None:
    base: Any = import_module("gunicorn.app.base").BaseApplication
    settings = {
        "bind": f"fd://{listener.fileno()}",
        "worker_class": "gthread",
        "threads": THREADS,
        "keepalive": PATIENCE,
        "loglevel": "error",
        "control_socket_disable": True,
    }

    class Application(base):  # type: ignore[misc]
        def load_config(self) -> None:
            for name, value in settings.items():
                if name in self.cfg.settings:
                    self.cfg.set(name, value)

        def load(self) -> Any:
            return app

    listener.set_inheritable(True)
    ready(listener.getsockname()[1])
    Application().run()


def http_server(listener: socket.socket, size: int) -> None:
    import http.server
    import json

    found = {f"/data/{key}": b"x" for key, _ in pairs(MANY)}
    found["/index.json"] = json.dumps(dict(pairs(MANY))).encode()
    found["/nothing"] = found["/data/key"] = DATA
    file = scratch() / "large"
    with file.open("wb") as out:
        copyfileobj(Zeros(size), out)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Else it waits for the client after the headers.
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self.send_response(200)
            if self.path == "/data/large":
                self.send_header("Content-Length", str(size))
                self.end_headers()
                with file.open("rb") as source:
                    copyfileobj(source, self.wfile)
                return
            data = found[self.path]
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_PUT(self) -> None:
            found[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = listener
    ready(listener.getsockname()[1])
    server.serve_forever()


def ready(port: int) -> None:
    print(port, flush=True)


def end_with_input() -> None:
    """End this process, and those that it has started, when the one that started it has ended."""
    import signal

    os.read(0, 1)
    os.killpg(0, signal.SIGKILL)


def main(name: str, size: str, path: str = "") -> None:
    threading.Thread(target=end_with_input, daemon=True).start()
    if path:
        sys.path.insert(0, path)
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    if name == "http.server":
        http_server(listener, int(size) if size.isdecimal() else 0)
        return
    app = nothing if size == "nothing" else application(int(size))
    {"encore": encore, "waitress": waitress, "gunicorn": gunicorn}[name](listener, app)


if __name__ == "__main__":
    main(*sys.argv[1:])
