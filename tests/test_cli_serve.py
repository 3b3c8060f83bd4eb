from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from certificates import Authority

import encore
from encore import __main__ as cli
from encore.storage import server as server_module
from encore.storage._http_server import Server
from encore.storage.dict_memory_store import DictMemoryStore
from encore.storage.opener import open_store

ROOT = Path(encore.__file__).resolve().parent.parent
DEADLINE = 60.0

needs_signals = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(capfd):
    """Run a command in this process: status, output, lines of messages."""

    def run(*arguments):
        capfd.readouterr()
        status = cli.main(arguments)
        out, err = capfd.readouterr()
        return status, out, err.splitlines()

    return run


@pytest.fixture
def given(monkeypatch):
    """What the command gives to serve(), which says that it is ready, and ends."""
    calls = []

    def serve(store, host, port, **options):
        calls.append({"store": store, "host": host, "port": port, **options})
        assert store.is_connected()
        options["ready"]("http://127.0.0.1:1/")
        return 0

    monkeypatch.setattr(server_module, "serve", serve)
    return calls


# Arguments


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "127.0.0.1", "localhost"])
def test_it_says_where_it_listens(run, given, host):
    _, out, _ = run("serve", "memory:", "--readonly", f"--host={host}")
    everywhere = (
        "" if host in ("127.0.0.1", "localhost") else ", and at all addresses of this computer"
    )
    assert out == f"Serving at http://127.0.0.1:1/{everywhere}\n"


def test_the_defaults_are_safe(run, given):
    assert run("serve", "memory:") == (0, "Serving at http://127.0.0.1:1/\n", [])
    [call] = given
    assert isinstance(call.pop("store"), DictMemoryStore)
    del call["ready"]
    assert call == {
        "host": "127.0.0.1",
        "port": 8080,
        "authenticate": None,
        "readonly": False,
        "static": False,
        "browse": False,
        "hosts": None,
        "max_connections": 100,
        "timeout": 30.0,
        "ssl_context": None,
    }


def test_every_argument_arrives(run, given, folder):
    Authority(folder).issue("server")
    certificate, key = str(folder / "server.pem"), str(folder / "server.key")
    assert user(run, "ali")[0] == 0
    status, _, err = run(
        *("serve", "sqlite::memory:", "--option", "durability=process", "--host", "0.0.0.0"),
        *("--port", "0", "--readonly", "--static", "--users", "users"),
        *("--certificate", certificate, "--key", key, "--max-connections", "7"),
        *("--timeout", "2.5", "--allow-host", "a", "--allow-host", "b", "--quiet"),
    )
    assert (status, err) == (0, [])
    [call] = given
    assert call.pop("store").info()["durable"] == "none"
    assert call.pop("authenticate")("ali", "sesame")
    assert isinstance(call.pop("ssl_context"), ssl.SSLContext)
    del call["ready"]
    assert call == {
        "host": "0.0.0.0",
        "port": 0,
        "readonly": True,
        "static": True,
        "browse": False,
        "hosts": ["a", "b"],
        "max_connections": 7,
        "timeout": 2.5,
    }


def test_pages_do_not_go_with_files(run, given):
    status, _, err = run("serve", "memory:", "--static", "--browse")
    assert status == 2
    assert "--browse does not go with --static" in err[-1]
    assert given == []


def user(run, name, password="sesame"):
    patch = pytest.MonkeyPatch()
    with open("password", "w+", encoding="utf-8") as file:
        file.write(password + "\n")
        file.seek(0)
        patch.setattr(sys, "stdin", file)
        # Its bytes are read.
        try:
            return run("user", "users", name)
        finally:
            patch.undo()


@pytest.mark.parametrize(
    ("arguments", "warned"),
    [
        ([], None),
        (["--host", "localhost"], None),
        (["--host", "::1"], None),
        (["--host", "0.0.0.0"], "anyone who reaches this server can write"),
        (["--host", ""], "anyone who reaches this server can write"),
        (["--host", "example.org", "--browse"], "anyone who reaches this server can write"),
        (["--host", "0.0.0.0", "--readonly"], None),
        (["--host", "0.0.0.0", "--static"], None),
        (["--host", "0.0.0.0", "--users", "users"], "passwords can be read on the way"),
        (["--host", "127.0.0.1", "--users", "users"], None),
    ],
)
def test_what_is_dangerous_is_told(run, given, arguments, warned):
    user(run, "ali")
    status, _, err = run("serve", "memory:", *arguments)
    assert status == 0
    if warned is None:
        assert err == []
    else:
        [line] = err
        assert line.startswith("python -m encore: warning: ")
        assert warned in line


def test_a_store_that_can_only_be_read_needs_no_warning(run, given):
    assert run("serve", "dir:.", "--host", "0.0.0.0")[2] == []
    assert run("serve", "readonly::memory:", "--host", "0.0.0.0")[2] == []


@pytest.mark.parametrize(
    ("arguments", "status", "word"),
    [
        (["serve"], 2, "STORE"),
        (["serve", "nonsense"], 2, "memory:, sqlite:PATH"),
        (["serve", "sqlite:missing.db"], 1, "put and copy make what is missing"),
        (["serve", "fs:missing"], 1, "put and copy make what is missing"),
        (["serve", "memory:", "--option", "x=1"], 2, "no option 'x'"),
        (["serve", "memory:", "--port", "x"], 2, "invalid int value: 'x'"),
        (["serve", "memory:", "--port", "70000"], 2, "port is from 0 to 65535, not 70000"),
        (["serve", "memory:", "--port=-1"], 2, "port is from 0 to 65535, not -1"),
        (["serve", "memory:", "--max-connections", "0"], 2, "max_connections is from 1"),
        (["serve", "memory:", "--timeout", "0"], 2, "timeout is a number of seconds, not 0.0"),
        (["serve", "memory:", "--timeout", "nan"], 2, "timeout is a number of seconds, not nan"),
        (["serve", "memory:", "--key", "x"], 2, "--key goes with --certificate"),
        (["serve", "memory:", "--certificate", "no.pem"], 1, "No such file or directory: 'no.pem'"),
        (["serve", "memory:", "--certificate", "file"], 1, "no certificate with its key in 'file'"),
        (["serve", "memory:", "--users", "no"], 1, "No such file or directory"),
        (["serve", "memory:", "--users", "file"], 1, "line 1 of"),
        (["serve", "memory:", "--host", "192.0.2.1"], 1, "192.0.2.1:8080"),
    ],
)
def test_what_cannot_be_served_is_one_line(run, folder, arguments, status, word):
    (folder / "file").write_text("neither users nor a certificate\n")
    got, out, err = run(*arguments)
    assert (got, out) == (status, "")
    [line] = err
    assert line.startswith("python -m encore: ")
    assert word in line
    assert os.listdir(folder) == ["file"]


def test_a_port_that_is_taken_is_one_line(run):
    with Server(lambda environ, start: [], port=0) as server:
        status, out, err = run("serve", "memory:", "--port", str(server.port))
    assert (status, out) == (1, "")
    [line] = err
    assert "Address already in use" in line
    assert f"'127.0.0.1:{server.port}'" in line


def test_a_port_that_is_not_permitted_is_one_line(run, monkeypatch):
    class Socket(socket.socket):
        def bind(self, address):
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket, "socket", Socket)
    status, out, err = run("serve", "memory:", "--port", "80")
    assert (status, out) == (1, "")
    assert err == ["python -m encore: [Errno 13] Permission denied: '127.0.0.1:80'"]


def test_requests_that_were_cut_are_told(run, monkeypatch):
    monkeypatch.setattr(server_module, "serve", lambda *arguments, **options: 2)
    status, _, err = run("serve", "memory:")
    assert (status, err) == (1, ["python -m encore: requests that were cut: 2"])


def test_help_explains_every_argument(run):
    status, out, _ = run("serve", "--help")
    assert status == 0
    for name in ("host", "port", "readonly", "static", "browse", "users", "certificate", "key"):
        assert f"\n  --{name} " in out
    assert max(map(len, out.splitlines())) < 80


# In a process of its own


@contextmanager
def serving(*arguments):
    """A server in a process of its own: the process, and its port."""
    # At a terminal it is not ignored, wherever the tests run; the child inherits that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "encore", "serve", *arguments, "--port", "0"],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        line = process.stdout.readline()
        assert line.startswith("Serving at http"), process.stderr.read()
        yield process, int(line.rstrip("/\n").rpartition(":")[2])
    finally:
        process.kill()
        process.wait(DEADLINE)
        process.stdout.close()
        process.stderr.close()


def finish(process):
    out, err = process.communicate(timeout=DEADLINE)
    assert out == ""
    return process.returncode, err.splitlines()


def connected(port):
    return http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)


def wait_until_it_listens_no_more(port):
    try:
        while True:
            socket.create_connection(("127.0.0.1", port), timeout=DEADLINE).close()
    except ConnectionError:
        pass


def asked(connection, method, path, body=None):
    connection.request(method, path, body)
    answer = connection.getresponse()
    return answer.status, answer.read()


@needs_signals
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_serves_until_it_is_told_to_stop(folder, number):
    with open_store("fs:store", create=True):
        pass
    with serving("fs:store") as (process, port):
        connection = connected(port)
        status, answer = asked(connection, "PUT", "/keys/a%20key/data", b"some data")
        assert status in (200, 201)
        assert json.loads(answer)["created"]
        assert asked(connection, "GET", "/keys/a%20key/data") == (200, b"some data")
        assert asked(connection, "GET", "/keys/no/data")[0] == 404
        # It waits for a request: that does not hold the server.
        process.send_signal(number)
        status, err = finish(process)
        connection.close()
    assert status == 0
    requests = [line.split(" ", 2)[2] for line in err]
    assert len(requests) == 3
    assert "PUT /keys/a%20key/data" in requests[0]
    assert "GET /keys/no/data 404" in requests[2]
    assert all("127.0.0.1" in line for line in requests)
    with open_store("fs:store") as store:
        assert store.to_bytes("a key") == b"some data"


@needs_signals
@pytest.mark.parametrize("kind", ["sqlite:x.db", "fs:x"])
def test_what_is_going_on_is_finished_first(folder, kind):
    """An upload and a download that are half done when the server is told to stop."""
    size = 30_000_000
    with open_store(kind, create=True) as store:
        store.from_bytes("large", bytes(size))
    with serving(kind, "--quiet") as (process, port):
        download = connected(port)
        download.request("GET", "/keys/large/data")
        # More than the buffers of two sockets hold.
        answer = download.getresponse()
        first = answer.read(1000)
        upload = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)
        upload.sendall(
            b"PUT /keys/new/data HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n"
            b"Expect: 100-continue\r\n\r\n"
        )
        # The store reads already.
        assert upload.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        upload.sendall(b"12345")
        process.send_signal(signal.SIGTERM)
        wait_until_it_listens_no_more(port)
        assert process.poll() is None
        upload.sendall(b"67890")
        done = http.client.HTTPResponse(upload)
        done.begin()
        assert done.status in (200, 201)
        assert done.getheader("Connection") == "close"
        done.read()
        assert len(first) + len(answer.read()) == size
        assert finish(process) == (0, [])
        for each in (done, upload, answer, download):
            each.close()
    with open_store(kind) as store:
        assert store.to_bytes("new") == b"1234567890"


@needs_signals
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_cuts_what_is_going_on(folder, number):
    with open_store("sqlite:x.db", create=True) as store:
        store.from_bytes("key", b"old")
    with serving("sqlite:x.db", "--quiet") as (process, port):
        upload = half_an_upload(port)
        process.send_signal(number)
        wait_until_it_listens_no_more(port)
        process.send_signal(number)
        status, err = finish(process)
        upload.close()
    assert status == 1
    assert err[-1] == "python -m encore: requests that were cut: 1"
    assert not any("Traceback" in line for line in err)
    with open_store("sqlite:x.db") as store:
        assert store.to_bytes("key") == b"old"


def half_an_upload(port):
    upload = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)
    upload.sendall(
        b"PUT /keys/key/data HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n"
        b"Expect: 100-continue\r\n\r\n"
    )
    assert upload.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
    upload.sendall(b"12345")
    return upload


@needs_signals
@pytest.mark.parametrize("kind", ["sqlite:x.db", "fs:x"])
def test_a_server_that_is_killed_leaves_what_there_was(folder, kind):
    with open_store(kind, create=True) as store:
        store.from_bytes("key", b"old")
    with serving(kind) as (process, port):
        upload = half_an_upload(port)
        process.kill()
        process.wait(DEADLINE)
        upload.close()
    with open_store(kind) as store:
        assert store.to_bytes("key") == b"old"
        assert list(store.keys()) == ["key"]


@needs_signals
def test_serve_with_users_and_a_certificate(run, folder):
    user(run, "ali", "open sesame")
    authority = Authority(folder)
    authority.issue("server")
    certificate, key = str(folder / "server.pem"), str(folder / "server.key")
    arguments = ("--users", "users", "--certificate", certificate, "--key", key)
    with serving("memory:", *arguments) as (process, port):
        connection = http.client.HTTPSConnection(
            "localhost", port, timeout=DEADLINE, context=authority.trusting()
        )
        assert asked(connection, "GET", "/alive")[0] == 200
        assert asked(connection, "GET", "/about")[0] == 401
        # base64 of ali:open sesame
        login = {"Authorization": "Basic YWxpOm9wZW4gc2VzYW1l"}
        connection.request("PUT", "/keys/k/data", b"x", login)
        answer = connection.getresponse()
        assert answer.status in (200, 201)
        answer.read()
        connection.close()
        process.send_signal(signal.SIGTERM)
        status, err = finish(process)
    assert status == 0
    assert sum(" ali" in line for line in err) == 1
    assert not any("sesame" in line or "YWxp" in line for line in err)


@needs_signals
def test_serve_static_serves_nothing_else(folder):
    (folder / "tree").mkdir()
    (folder / "tree" / "a.txt").write_text("alpha")
    with serving("dir:tree", "--static", "--quiet") as (process, port):
        connection = connected(port)
        assert "a.txt" in json.loads(asked(connection, "GET", "/index.json")[1])
        assert asked(connection, "GET", "/data/a.txt") == (200, b"alpha")
        assert asked(connection, "GET", "/keys/a.txt/data")[0] == 404
        assert asked(connection, "PUT", "/data/a.txt", b"x")[0] == 405
        connection.close()
        process.send_signal(signal.SIGTERM)
        assert finish(process) == (0, [])
