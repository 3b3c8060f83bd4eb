"""Connections are kept alive, one per thread, and never used when they may not be."""

import gc
import os
import socket
import threading

import pytest
from hostile_server import (
    HostileServer,
    answer,
    close,
    ok,
    read,
    reset,
    silence,
    tell,
    wait_for,
)
from http_clients import Clock, close_all, new_client

from encore.storage._http_connections import HTTPTransport
from encore.storage._http_errors import StaleConnectionError
from encore.storage.errors import StoreError, TemporaryError


@pytest.fixture(autouse=True)
def _close_clients():
    yield
    close_all()


def get(client, url, **options):
    return client.request("GET", url, **options).read()


def in_thread(function):
    """Call a function in a thread of its own; return what it returns."""
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join(10)
    return found[0]


def kept(client):
    """The connections that this thread has kept."""
    found = getattr(client._transport._local, "kept", None)
    return [] if found is None else list(found.connections.values())


def test_a_connection_is_used_again():
    with HostileServer([ok, ok, ok]) as server:
        client = new_client()
        assert [get(client, server.url) for _ in range(3)] == [b"1", b"2", b"3"]
        assert server.connections == 1


@pytest.mark.parametrize(
    "way", ["read", "in pieces", "closed", "finished", "exact", "into", "with"]
)
def test_a_body_that_is_over_gives_the_connection_back(way):
    body = b"x" * 40_000
    with HostileServer([read, answer(body), ok]) as server:
        client = new_client()
        response = client.request("GET", server.url)
        if way == "read":
            response.read()
        elif way == "in pieces":
            while response.read(1000):
                pass
        elif way == "exact":
            size = 0
            while size < len(body):
                size += len(response.read(len(body) - size))
        elif way == "into":
            buffer = bytearray(len(body))
            while response.readinto(buffer):
                pass
        elif way == "finished":
            response.finish()
        elif way == "with":
            with response:
                response.read()
        else:
            # Of what is missing nothing is awaited, and here it may not have come.
            response.close()
        get(client, server.url)
        assert server.connections == 1 or way == "closed"


def test_little_that_nobody_has_read_is_passed_over():
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    with HostileServer([read, answer(b"abc"), read, chunked, ok]) as server:
        client = new_client()
        client.request("GET", server.url).close()
        response = client.request("GET", server.url)
        assert response.read(3) == b"abc"
        response.close()
        assert get(client, server.url) == b"3"
        assert server.connections == 1


def test_much_that_nobody_has_read_is_not_awaited():
    with HostileServer(
        [read, answer(b"x" * 1000, Content_Length="1000000"), silence], [ok]
    ) as server:
        client = new_client()
        response = client.request("GET", server.url)
        connection = response._body._connection
        response.close()
        # Nothing was waited for.
        assert connection.deadline is None
        assert get(client, server.url) == b"2"


def test_an_open_body_keeps_its_connection_to_itself():
    told = threading.Event()
    script = [read, answer(b"abc", Content_Length="6"), wait_for(told), b"def", ok]
    with HostileServer(script, [ok, ok]) as server:
        client = new_client()
        body = client.request("GET", server.url)
        assert get(client, server.url) == b"2"
        assert get(client, server.url) == b"3"
        told.set()
        assert body.read() == b"abcdef"
        assert server.connections == 2
        # One of them is kept.
        assert len(kept(client)) == 1


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: Upgrade, CLOSE\r\n",
        b"HTTP/1.0 200 OK\r\n",
        b"HTTP/1.0 200 OK\r\nConnection: x\r\n",
    ],
)
def test_a_connection_that_the_server_does_not_keep_is_closed(head):
    with HostileServer([read, head + b"Content-Length: 1\r\n\r\nx", silence], [ok]) as server:
        client = new_client()
        assert get(client, server.url) == b"x"
        assert kept(client) == []
        assert get(client, server.url) == b"2"


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n",
        b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\n",
        b"HTTP/1.0 200 OK\r\nConnection: x, keep-alive\r\n",
    ],
)
def test_a_connection_that_the_server_keeps_is_kept(head):
    with HostileServer([read, head + b"Content-Length: 1\r\n\r\nx", ok]) as server:
        client = new_client()
        assert get(client, server.url) == b"x"
        assert get(client, server.url) == b"2"


def test_each_thread_has_a_connection_of_its_own():
    both = threading.Barrier(3)
    with HostileServer([ok, ok]) as server:
        client = new_client()

        def work():
            get(client, server.url)
            both.wait(10)
            get(client, server.url)
            both.wait(10)

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        both.wait(10)
        assert server.connections == 2
        both.wait(10)
        for thread in threads:
            thread.join(10)
        assert server.connections == 2
        assert len(server.requests) == 4


def test_the_connections_of_a_thread_are_closed_when_it_ends():
    gone = threading.Event()
    with HostileServer([ok, silence, tell(gone)]) as server:
        client = new_client()
        assert in_thread(lambda: get(client, server.url)) == b"1"
        assert gone.wait(10)
        assert not client._transport._kept


def test_a_body_may_be_read_in_another_thread():
    with HostileServer([read, answer(b"x" * 100_000), ok]) as server:
        client = new_client()
        response = client.request("GET", server.url)
        assert len(in_thread(response.read)) == 100_000
        response.close()


def test_a_response_that_is_dropped_closes_its_connection():
    gone = threading.Event()
    script = [read, answer(b"x" * 10, Content_Length="1000000"), silence, tell(gone)]
    with HostileServer(script) as server:
        response = new_client().request("GET", server.url)
        del response
        gc.collect()
        assert gone.wait(10)


def test_a_transport_that_is_dropped_closes_its_connections():
    gone = threading.Event()
    with HostileServer([ok, silence, tell(gone)]) as server:
        transport = HTTPTransport(clock=Clock())
        transport.send("GET", server.url, {}, None, 10.0).read()
        del transport
        gc.collect()
        assert gone.wait(10)


def test_connections_are_watched_where_there_is_no_poll(monkeypatch):
    monkeypatch.delattr("select.poll")
    with HostileServer([ok, ok, close], [ok]) as server:
        client = new_client()
        get(client, server.url)
        assert get(client, server.url) == b"2"
        [connection] = kept(client)
        assert connection.has_arrived(10)
        assert get(client, server.url) == b"3"


def test_addresses_may_be_of_ipv6():
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 here")
    with HostileServer([ok], listener=listener) as server:
        assert get(new_client(), f"http://[::1]:{server.port}/") == b"1"
        assert server.requests[0].headers["host"] == f"[::1]:{server.port}"


class Late(Clock):
    """A clock that is late when it has been looked at so many times."""

    def __init__(self, looks):
        super().__init__()
        self.looks = looks
        self.on_look = self.look

    def look(self):
        self.looks -= 1
        if self.looks == 0:
            self.now = 1000.0


@pytest.mark.parametrize("looks", range(1, 15))
def test_time_may_be_over_at_every_moment(looks):
    happened, text = None, "timed out"
    with HostileServer([ok]) as server:
        client = new_client(clock=Late(looks))
        try:
            assert client.request("POST", server.url, body=b"x", whole=True).read() == b"1"
        except TemporaryError as error:
            happened, text = error.happened, str(error)
    assert "timed out" in text
    if happened is False:
        assert server.requests == []
    else:
        assert happened is None
    # What was not sent has not happened.
    assert looks != 2 or happened is False


# Stale connections


def test_a_connection_that_was_closed_meanwhile_is_not_used():
    with HostileServer([ok, close], [ok]) as server:
        client = new_client()
        get(client, server.url)
        [connection] = kept(client)
        assert connection.has_arrived(10)
        # Even what may not be repeated: it was never sent.
        assert client.request("POST", server.url, body=b"x").read() == b"2"


@pytest.mark.parametrize("end", [close, reset])
def test_what_finds_a_stale_connection_is_sent_again_at_once(end):
    # The server closes it when the second request has come, as if it had been on its way.
    with HostileServer([ok, read, end], [ok]) as server:
        clock = Clock()
        client = new_client(attempts=1, clock=clock)
        get(client, server.url)
        assert get(client, server.url) == b"3"
        assert clock.sleeps == []


@pytest.mark.parametrize("body", [b"x", b"x" * 1_000_000])
def test_what_finds_a_stale_connection_is_not_sent_again_if_that_may_do_harm(body):
    with HostileServer([ok, read, reset], [ok]) as server:
        client = new_client(attempts=3)
        get(client, server.url)
        with pytest.raises(StaleConnectionError) as caught:
            client.request("POST", server.url, body=body)
        assert caught.value.happened is None
        assert len(server.requests) == 2


def test_a_new_connection_that_breaks_is_not_stale():
    with HostileServer([read, reset], [ok]) as server:
        with pytest.raises(TemporaryError) as caught:
            get(new_client(attempts=1), server.url)
        assert not isinstance(caught.value, StaleConnectionError)
        assert len(server.requests) == 1


def test_an_answer_that_has_begun_is_not_stale():
    with HostileServer([ok, read, b"HTTP/1.1 2", close], [ok]) as server:
        client = new_client(attempts=1)
        get(client, server.url)
        with pytest.raises(TemporaryError):
            get(client, server.url)


def test_silence_is_not_stale():
    with HostileServer([ok, silence]) as server:
        client = new_client(attempts=1, timeout=0.05)
        get(client, server.url)
        with pytest.raises(TemporaryError, match="timed out") as caught:
            get(client, server.url)
        assert not isinstance(caught.value, StaleConnectionError)


def test_a_connection_that_was_idle_for_long_is_not_used():
    with HostileServer([ok, silence], [ok, ok]) as server:
        clock = Clock()
        client = new_client(clock=clock)
        get(client, server.url)
        clock.now += 61
        get(client, server.url)
        clock.now += 59
        get(client, server.url)
        assert server.connections == 2


def test_there_are_not_too_many_idle_connections():
    servers = [HostileServer([ok, ok]) for _ in range(10)]
    client = new_client()
    for server in servers:
        with server:
            get(client, server.url)
            assert len(kept(client)) <= 8
    client.close()
    assert kept(client) == []


# Closing


def test_close_closes_what_is_idle_in_every_thread():
    gone, idle, done = threading.Event(), threading.Event(), threading.Event()
    with HostileServer([ok, silence, tell(gone)], [ok]) as server:
        client = new_client()

        def work():
            get(client, server.url)
            idle.set()
            done.wait(10)

        thread = threading.Thread(target=work)
        thread.start()
        assert idle.wait(10)
        client.close()
        assert gone.wait(10)
        done.set()
        thread.join(10)


def test_a_client_may_be_used_after_close():
    with HostileServer([ok, silence], [ok, ok]) as server:
        client = new_client()
        get(client, server.url)
        client.close()
        assert get(client, server.url) == b"2"
        assert get(client, server.url) == b"3"


def test_what_is_in_use_is_closed_when_it_is_no_more():
    gone = threading.Event()
    with HostileServer([read, answer(b"x" * 100_000), silence, tell(gone)]) as server:
        client = new_client()
        response = client.request("GET", server.url)
        client.close()
        assert len(response.read()) == 100_000
        assert gone.wait(10)
        assert kept(client) == []


# Interruptions


class InterruptError(BaseException):
    pass


def test_what_is_interrupted_leaves_no_half_used_connection(monkeypatch):
    with HostileServer([ok, read, silence], [ok]) as server:
        client = new_client()
        get(client, server.url)
        [connection] = kept(client)

        def interrupt():
            raise InterruptError

        monkeypatch.setattr(connection, "head", interrupt)
        with pytest.raises(InterruptError):
            get(client, server.url)
        get(client, server.url)
        assert server.connections == 2


# Forks


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_has_connections_of_its_own(in_a_fork):
    with HostileServer([ok, ok], [ok]) as server:
        client = new_client()
        assert get(client, server.url) == b"1"
        assert in_a_fork(lambda: get(client, server.url)) == "b'2'"
        assert get(client, server.url) == b"3"
        assert server.connections == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_does_not_read_what_its_parent_reads(in_a_fork):
    with HostileServer([read, answer(b"x" * 100_000)], [ok]) as server:
        client = new_client()
        response = client.request("GET", server.url)
        buffered = len(response.read(10))

        def steal(way):
            try:
                while way():
                    pass
            except StoreError as error:
                return "another process" in str(error)

        assert in_a_fork(lambda: steal(lambda: response.read(1000))) == "True"
        assert in_a_fork(lambda: steal(lambda: response.readinto(bytearray(1000)))) == "True"
        assert in_a_fork(lambda: (response.close(), get(client, server.url))[1]) == "b'2'"
        assert len(response.read()) == 100_000 - buffered


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_what_a_child_closes_is_not_closed_for_its_parent(in_a_fork):
    with HostileServer([ok, ok], [ok]) as server:
        client = new_client()
        get(client, server.url)
        assert in_a_fork(client.close) == "None"
        assert get(client, server.url) == b"2"
        assert server.connections == 1
