"""HTTPS: who is trusted, and what TLS adds to what can go wrong."""

import pickle
import ssl
import threading

import pytest
from certificates import Certificate
from hostile_server import (
    HostileServer,
    answer,
    close,
    forever,
    ok,
    read,
    reset,
    silence,
    start_tls,
)
from http_clients import close_all, new_client

from encore.storage._http_connections import HTTPTransport
from encore.storage.errors import StoreError, TemporaryError
from encore.storage.retry_policy import is_temporary


@pytest.fixture(autouse=True)
def _close_clients():
    yield
    close_all()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return Certificate(tmp_path_factory.mktemp("tls") / "good", "DNS:localhost,IP:127.0.0.1")


@pytest.fixture(scope="module")
def tls(certificate):
    """A step that begins with TLS."""
    return start_tls(certificate.for_server())


@pytest.fixture
def client(certificate):
    return new_client(ssl_context=certificate.for_client())


def secure(server, host="127.0.0.1"):
    return f"https://{host}:{server.port}/"


def get(client, url, **options):
    return client.request("GET", url, **options).read()


def test_https_is_http_and_connections_are_kept(tls, client):
    with HostileServer([tls, ok, ok, ok]) as server:
        assert [get(client, secure(server)) for _ in range(3)] == [b"1", b"2", b"3"]
        assert server.connections == 1
        assert server.requests[0].headers["host"] == f"127.0.0.1:{server.port}"


def test_large_bodies_go_both_ways(tls, client):
    data = bytes(range(256)) * 8000
    with HostileServer([tls, read, answer(data), ok]) as server:
        assert get(client, secure(server)) == data
        client._transport._continue_wait = 0.0
        client.request("PUT", secure(server), body=data)
        assert server.requests[1].body == data
        assert server.connections == 1


def test_small_reads_leave_nothing_behind(tls, client):
    """What TLS has decrypted is in no socket any more."""
    with HostileServer([tls, read, answer(b"x" * 20_000), ok]) as server:
        response = client.request("GET", secure(server))
        buffer = bytearray(7)
        size = 0
        while count := response.readinto(buffer):
            size += count
        assert size == 20_000
        assert get(client, secure(server)) == b"2"
        assert server.connections == 1


def test_an_unknown_certificate_is_refused(tls):
    with HostileServer([tls, ok]) as server:
        with pytest.raises(StoreError, match="certificate is refused") as caught:
            get(new_client(attempts=3), secure(server))
        assert not is_temporary(caught.value)
        assert caught.value.happened is False
        assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
        assert server.connections == 1
        assert server.requests == []


@pytest.mark.parametrize(
    ("names", "dates", "why"),
    [
        ("DNS:localhost,IP:127.0.0.1", ("20200101000000Z", "20200102000000Z"), "expired"),
        ("DNS:localhost,IP:127.0.0.1", ("20980101000000Z", "20990101000000Z"), "not yet valid"),
        ("DNS:example.org", (), "127.0.0.1"),
    ],
    ids=["expired", "too early", "wrong host"],
)
def test_a_certificate_that_does_not_hold_is_refused(tmp_path, names, dates, why):
    bad = Certificate(tmp_path, names, *dates)
    with HostileServer([start_tls(bad.for_server()), ok]) as server:
        with pytest.raises(StoreError, match=f"refused: .*{why}"):
            get(new_client(ssl_context=bad.for_client()), secure(server))
        assert server.requests == []


def test_a_certificate_may_be_for_the_name(tls, client):
    with HostileServer([tls, ok]) as server:
        assert get(client, secure(server, "localhost")) == b"1"


@pytest.mark.parametrize("data", [b"HTTP/1.1 400 Bad\r\n\r\n", b"\x00" * 100])
def test_a_server_without_tls_is_an_error(client, data):
    with HostileServer([data, silence]) as server, pytest.raises(StoreError) as caught:
        get(client, secure(server))
    assert caught.value.happened is False


@pytest.mark.parametrize("end", [close, reset])
def test_a_handshake_that_is_cut_off_is_temporary(client, end):
    with HostileServer([end]) as server, pytest.raises(TemporaryError) as caught:
        get(client, secure(server))
    assert caught.value.happened is False


def test_a_handshake_in_silence_is_an_error_in_time(certificate):
    with HostileServer([silence]) as server, pytest.raises(TemporaryError, match="timed out"):
        get(new_client(ssl_context=certificate.for_client(), timeout=0.1), secure(server))


def test_a_server_that_wants_tls_is_an_error_for_http(tls):
    with HostileServer([tls, ok]) as server, pytest.raises(StoreError):
        get(new_client(), server.url)


def cut_off(peer):
    """Close the connection, but not TLS: as anybody between could."""
    peer.sock.close()


def end_tls(peer):
    peer.sock = peer.sock.unwrap()


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\n\r\nabc",
        answer(b"abc", Content_Length="5"),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"HTTP/1.1 2",
        b"",
    ],
    ids=["endless", "length", "chunks", "head", "nothing"],
)
@pytest.mark.parametrize("end", [cut_off, reset])
def test_what_is_cut_off_is_an_error(tls, client, data, end):
    with HostileServer([tls, read, data, end]) as server, pytest.raises(TemporaryError):
        get(client, secure(server))


def test_a_body_may_end_with_the_connection(tls, client):
    with HostileServer([tls, read, b"HTTP/1.1 200 OK\r\n\r\nabc", end_tls]) as server:
        assert get(client, secure(server)) == b"abc"


def test_a_connection_that_was_closed_meanwhile_is_not_used(tls, client):
    with HostileServer([tls, ok, cut_off], [tls, ok]) as server:
        get(client, secure(server))
        [connection] = client._transport._local.kept.connections.values()
        assert connection.has_arrived(10)
        assert client.request("POST", secure(server), body=b"x").read() == b"2"


def test_what_comes_while_a_connection_is_idle_is_not_the_next_answer(tls, client):
    go = threading.Event()
    script = [tls, ok, lambda _: go.wait(10), answer(b"evil"), silence]
    with HostileServer(script, [tls, ok]) as server:
        get(client, secure(server))
        [connection] = client._transport._local.kept.connections.values()
        assert not connection.has_arrived()
        go.set()
        assert connection.has_arrived(10)
        assert get(client, secure(server)) == b"2"


def test_an_early_answer_is_seen(tls, client):
    class Endless:
        def read(self, size):
            return b"x" * size

    script = [tls, lambda peer: peer.head(), answer(b"", "413 Too large"), silence]
    with HostileServer(script) as server, pytest.raises(StoreError, match="413"):
        client.request("PUT", secure(server), body=Endless())


def test_http_may_lead_to_https_and_back_without_passwords(tls, client):
    headers = {"Authorization": "secret"}
    with HostileServer([tls, ok]) as safe, HostileServer([ok]) as other:
        other.scripts = [[read, answer(b"", "301 There", Location=secure(safe))]]
        get(client, other.url, headers=headers)
        assert "authorization" not in safe.requests[0].headers


def test_the_default_context_verifies():
    transport = HTTPTransport()
    context = transport._context()
    assert context is transport._context()
    assert context.check_hostname
    assert context.verify_mode == ssl.CERT_REQUIRED
    # It is made when it is needed.
    assert pickle.loads(pickle.dumps(HTTPTransport()))._ssl_context is None


def test_an_idle_server_of_tls_is_silent(tls, client):
    """Tickets of TLS 1.3 may come after an answer; they are no answer."""
    with HostileServer([tls, forever(ok)]) as server:
        for _ in range(5):
            get(client, secure(server))
        assert server.connections == 1
