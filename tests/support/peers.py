"""Programs of others that tests run: servers on a port of their own, and clients.

Each is skipped where it is not installed, with a reason that says so.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import encore

# Nothing takes that long; it is what a test waits for that fails.
DEADLINE = 60.0

PACKAGE = Path(encore.__file__).resolve().parent
SUPPORT = Path(__file__).resolve().parent


def program(name):
    """Return the path of a program; where there is none, the test is skipped."""
    # Debian does not show servers to everybody.
    path = shutil.which(name) or shutil.which(name, path="/usr/local/sbin:/usr/sbin:/sbin")
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def wait_until(condition, what, deadline=DEADLINE):
    """Wait until a function returns something true, and return that."""
    end = time.monotonic() + deadline
    while not (found := condition()):
        assert time.monotonic() < end, f"waited {deadline:.0f} s until {what}"
        time.sleep(0.005)
    return found


def listener():
    """Return a socket that listens at a free port of this computer, for a server to inherit."""
    sock = socket.socket()
    try:
        sock.bind(("127.0.0.1", 0))
        sock.listen(128)
    except BaseException:
        sock.close()
        raise
    return sock


@contextlib.contextmanager
def started(command, sockets, folder, path="/", **environment):
    """Run a server that inherits sockets which listen, until the end of the block.

    Parameters
    ----------
    command : list of str
    sockets : list of socket.socket
        Closed here.
    folder : Path
        Where it runs, and leaves what it prints.
    path : str
        What it answers when it is ready, whatever the status.
    **environment
        For the process; it can import encore, and tests/support.
    """
    ports = [sock.getsockname()[1] for sock in sockets]
    python = os.pathsep.join([str(PACKAGE.parent), str(SUPPORT)])
    output = folder / "output.txt"
    try:
        with output.open("wb") as file:
            process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env={**os.environ, "PYTHONPATH": python, **environment},
                pass_fds=[sock.fileno() for sock in sockets],
                start_new_session=True,
            )
    finally:
        # When it ends, a connection is refused, and does not wait for nobody.
        for sock in sockets:
            sock.close()
    try:
        for port in ports:
            wait_until(
                lambda port=port: _is_ready(process, output, port, path), f"{command[0]} answers"
            )
        yield process
    finally:
        # It has nothing to put in order, and may have children.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _is_ready(process, output, port, path):
    if process.poll() is not None:
        text = output.read_text("utf-8", "replace")
        pytest.fail(f"{process.args[0]} ended with {process.returncode}:\n{text}")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    try:
        connection.request("GET", path)
        connection.getresponse().read()
    except (ConnectionError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True


# Its memory

has_memory = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="/proc tells how much memory a process has had"
)


def family(pid):
    """Return a process and those that it has started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in family(int(child)))]


def most_memory(pid):
    """Return how many bytes of memory the largest of a family of processes has had at most."""
    return max(
        int(line.split()[1]) * 1024
        for each in family(pid)
        for line in Path(f"/proc/{each}/status").read_text().splitlines()
        if line.startswith("VmHWM:")
    )


# WSGI servers

_GUNICORN = [
    *("--workers=2", "--threads=8", "--worker-class=gthread", "--log-level=warning"),
    "peer_application:application",
]


@contextlib.contextmanager
def wsgi_server(name, folder, store):
    """Run a store under a WSGI server of that name; give its process and its URL.

    Parameters
    ----------
    name : {'gunicorn', 'waitress'}
    folder : Path
    store : str
        As open_store() takes it.
    """
    pytest.importorskip(name, reason=f"{name} is not installed")
    sock = listener()
    fd, port = sock.fileno(), sock.getsockname()[1]
    if name == "gunicorn":
        command = [sys.executable, "-m", "gunicorn", f"--bind=fd://{fd}", *_GUNICORN]
    else:
        command = [sys.executable, str(SUPPORT / "peer_application.py"), str(fd)]
    # gunicorn has a file at home.
    with started(command, [sock], folder, "/alive", STORE=store, HOME=str(folder)) as process:
        yield process, f"http://127.0.0.1:{port}/"


# nginx

_NGINX = """
daemon off;
{user}
pid {folder}/nginx.pid;
error_log {folder}/error.log;
worker_rlimit_nofile 512;
events {{ worker_connections 256; }}
http {{
    log_format told '$request_method $request_uri $status $connection "$http_range" '
                    '"$http_if_none_match" "$sent_http_content_encoding" "$remote_user"';
    access_log {folder}/access.log told;
    client_body_temp_path {folder}/temp;
    proxy_temp_path {folder}/temp;
    fastcgi_temp_path {folder}/temp;
    uwsgi_temp_path {folder}/temp;
    scgi_temp_path {folder}/temp;
    default_type application/octet-stream;
    types {{ application/json json; }}
    {servers}
}}
"""


class Nginx:
    """nginx with a configuration of its own, started by ``with``.

    Parameters
    ----------
    folder : Path
    servers : list of str
        What stands in a ``server {...}`` each, without ``listen``.

    Attributes
    ----------
    urls : list of str
        Of the servers.
    """

    def __init__(self, folder, *servers):
        self.folder = folder
        self.command = [program("nginx"), "-e", str(folder / "error.log"), "-p", str(folder)]
        self.command += ["-c", str(folder / "nginx.conf")]
        self.servers = servers

    def __enter__(self):
        (self.folder / "temp").mkdir()
        sockets = [listener() for _ in self.servers]
        ports = [sock.getsockname()[1] for sock in sockets]
        servers = "".join(
            f"server {{ listen 127.0.0.1:{port}; {text} }}\n"
            for port, text in zip(ports, self.servers, strict=True)
        )
        config = _NGINX.format(folder=self.folder, servers=servers, user=_as_we_are())
        (self.folder / "nginx.conf").write_text(config)
        self.urls = [f"http://127.0.0.1:{port}/" for port in ports]
        # As a new nginx takes over from an old one.
        inherited = "".join(f"{sock.fileno()};" for sock in sockets)
        self._running = started(self.command, sockets, self.folder, NGINX=inherited)
        self._running.__enter__()
        return self

    def __exit__(self, *exc_info):
        return self._running.__exit__(*exc_info)

    def log(self, text, number=1):
        """Return what the log has of requests with this text, as lists of words; wait for this number.

        A line is written after the answer.
        """
        path = self.folder / "access.log"

        def find():
            lines = [line.split() for line in path.read_text().splitlines() if text in line]
            return lines if len(lines) >= number else None

        return wait_until(find, f"nginx has logged {text}")


def _as_we_are():
    """Return a line that lets nginx read what root may read; others it leaves as they are."""
    if os.geteuid() != 0:
        return ""
    import grp

    return f"user root {grp.getgrgid(os.getegid()).gr_name};"
