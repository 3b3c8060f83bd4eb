"""What may go wrong between a client and a server, and must not go on for ever, or go to the wrong one."""

import io
import json
from types import SimpleNamespace

import pytest
from hostile_server import HostileServer, answer, forever, read, read_head, silence
from http_clients import Clock, close_all, new_client
from wsgi_client import WSGIClient

from encore.storage._etags import parse_etag
from encore.storage._http import Client
from encore.storage._http_errors import StaleConnectionError, timed_out
from encore.storage._http_response import Headers, Response
from encore.storage._remote_encore import EncoreServer
from encore.storage._remote_finding import find_server
from encore.storage.dict_memory_store import DictMemoryStore
from encore.storage.dynamic_url_store import DynamicURLStore
from encore.storage.errors import AuthorizationError, PreconditionError, TemporaryError
from encore.storage.retry_policy import RetryPolicy
from encore.storage.server import StoreApplication


@pytest.fixture(autouse=True)
def _close_clients():
    yield
    close_all()


# A drip


class Drip:
    """A body of which each byte takes a second."""

    def __init__(self, clock):
        self.clock = clock
        self.end = clock.now
        self.read_so_far = 0

    def renew(self, seconds):
        self.end = self.clock.now + seconds

    def read(self, size):
        self.clock.now += 1
        if self.clock.now > self.end:
            raise timed_out("http://localhost/")
        self.read_so_far += 1
        assert self.read_so_far < 1000, "it goes on for ever"
        return b" "

    def close(self):
        pass


class DrippingTransport:
    def __init__(self, clock):
        self.clock = clock

    def send(self, method, url, headers, body, timeout, *, foreign=False):
        headers = Headers([("Content-Type", "application/json")])
        return Response(200, url, headers, Drip(self.clock), 1 << 40)

    def close(self):
        pass


def dripping_client():
    clock = Clock()
    policy = RetryPolicy(1, clock=clock, sleep=clock.sleep)
    return Client(DrippingTransport(clock), timeout=30.0, policy=policy)


def test_a_description_that_drips_does_not_keep_connect_waiting():
    with pytest.raises(TemporaryError):
        find_server(dripping_client(), None, "http://localhost/query", None)


def test_an_answer_to_a_query_that_drips_is_not_awaited_for_ever():
    server = EncoreServer(dripping_client(), None, "http://localhost/query", None, {})
    with pytest.raises(TemporaryError):
        next(server.keys({}))


def test_what_is_read_by_the_caller_may_still_take_its_time():
    response = dripping_client().request("GET", "http://localhost/")
    assert response.read(1) == b" "
    assert b"".join(response.read(1) for _ in range(100)) == b" " * 100


class DrippingSession:
    """A session as requests has it, whose answers drip."""

    def __init__(self, clock):
        self.raw = Drip(clock)
        # One that waits for all that was asked for would wait for ever.
        self.raw.read1, self.raw.read = self.raw.read, None

    def request(self, method, url, **options):
        return SimpleNamespace(
            status_code=200, headers={}, raw=self.raw, url=url, close=lambda: None
        )


@pytest.mark.parametrize("whole", [True, False])
def test_a_session_does_not_wait_for_a_drip_for_ever(whole, monkeypatch):
    from encore.storage import _http_session

    clock = Clock()
    monkeypatch.setattr(_http_session, "monotonic", clock)
    session = DrippingSession(clock)
    session.raw.end = float("inf")
    policy = RetryPolicy(1, clock=clock, sleep=clock.sleep)
    client = Client(_http_session.SessionTransport(session), timeout=30.0, policy=policy)

    def fetch():
        response = client.request("GET", "http://localhost/", whole=whole)
        response.paced(1 << 14)
        return response.read()

    with pytest.raises(TemporaryError):
        fetch()
    assert session.raw.read_so_far < 70


def test_a_server_has_no_longer_to_ask_for_a_body_than_the_call_has():
    clock = Clock(step=0.01)
    waits = []
    with HostileServer([read_head, silence]) as server:
        client = new_client(timeout=0.3, clock=clock, continue_wait=60.0)
        from encore.storage._http_socket import Connection

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                Connection, "has_arrived", lambda self, seconds=0.0: waits.append(seconds)
            )
            clock.on_look = lambda: setattr(clock, "now", clock.now + 1) if waits else None
            with pytest.raises(TemporaryError):
                client.request("PUT", server.url, body=io.BytesIO(b"x" * 10))
    assert 0 <= waits[0] <= 0.3


# Etags of others


def test_an_entity_tag_that_is_no_utf8_is_no_etag():
    assert parse_etag('"%ff"') is None


def test_an_entity_tag_that_is_no_utf8_does_not_hide_a_value():
    described = answer(b'{"encore":1,"info":{}}', Content_Type="application/json")
    value = answer(b"{}abc", ETag='"%ff"', Encore_Metadata_Length=2, Encore_Data_Length=3)
    with HostileServer([read, described, read, value]) as server:
        store = DynamicURLStore(f"{server.url}keys", f"{server.url}query")
        with store:
            found = store.get("key")
            assert found.etag is None
            assert found.data.read() == b"abc"


@pytest.mark.parametrize("name", ["If-Match", "If-Unmodified-Since"])
def test_a_condition_on_an_entity_tag_that_no_store_has_does_not_hold(name):
    store = DictMemoryStore()
    store.connect()
    store.set("key", (io.BytesIO(b"old"), {}))
    tag = {"If-Match": '"%ff"', "If-Unmodified-Since": "Thu, 01 Jan 1980 00:00:00 GMT"}[name]
    assert (
        WSGIClient(StoreApplication(store)).put("/keys/key/data", b"new", {name: tag}).status == 412
    )
    assert store.get_data("key").read() == b"old"


# Passwords


def test_a_password_in_the_url_is_for_its_own_server():
    challenge = answer(status="401 Unauthorized", WWW_Authenticate='Basic realm="x"')
    with HostileServer([forever(read, challenge)]) as other, HostileServer([]) as own:
        base_url = own.url.replace("//", "//user:secret@")
        with pytest.raises(AuthorizationError):
            DynamicURLStore(f"{base_url}keys", f"{other.url}query").connect()
        assert [request.headers.get("authorization") for request in other.requests] == [None]


def test_a_password_that_connect_is_given_is_for_both_urls():
    challenge = answer(status="401 Unauthorized", WWW_Authenticate='Basic realm="x"')
    described = answer(b'{"encore":1,"info":{}}', Content_Type="application/json")
    with HostileServer([read, challenge, read, described]) as other, HostileServer([]) as own:
        store = DynamicURLStore(f"{own.url}keys", f"{other.url}query")
        store.connect({"username": "user", "password": "secret"})
        store.disconnect()
        assert "authorization" in other.requests[-1].headers


# Patterns


def test_brackets_that_nothing_closes_take_no_long_time():
    from encore.storage._keys import key_matcher

    counted = 0
    import fnmatch

    class Text(str):
        pass

    translate = fnmatch.translate

    def counting(pattern):
        nonlocal counted
        counted += 1
        # What fnmatch looks for to the end of the pattern, again and again.
        assert "[" not in pattern.rpartition("]")[2]
        return translate(pattern)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fnmatch, "translate", counting)
        match = key_matcher("[a-b" * 300)
        assert match("[a-b" * 300)
        assert not match("[a-b" * 299)
        assert key_matcher("[ab][")("a[")
        assert key_matcher("[!]")("[!]")
        assert key_matcher("[]")("[]")
    assert counted == 4


def test_long_patterns_are_refused_by_a_server_and_matched_by_the_client():
    store = DictMemoryStore()
    store.connect()
    store.set_data("ab", io.BytesIO())
    client = WSGIClient(StoreApplication(store))
    pattern = "*" * 9000
    assert client.post("/query", {"glob": pattern, "keys_only": True}).status == 400
    assert EncoreServer(None, None, "", None, {}).glob(pattern) is None


def test_who_finds_no_room_is_told_that_nothing_was_done():
    from encore.storage._http_server_answer import plain_answer

    _, _, body = plain_answer(503, "too many connections").partition(b"\r\n\r\n")
    assert json.loads(body)["happened"] is False
    _, _, body = plain_answer(408, "too slow").partition(b"\r\n\r\n")
    assert "happened" not in json.loads(body)


def test_a_write_that_found_no_room_is_sent_again_whatever_it_is():
    from encore.storage._http_server_answer import plain_answer

    busy = plain_answer(503, "too many connections")
    with HostileServer([read, busy], [read, answer(b"done")]) as server:
        response = new_client(attempts=2).request(
            "PUT", server.url, headers={"If-Match": '"1"'}, body=b"x"
        )
        assert response.read() == b"done"


def test_a_condition_that_does_not_hold_is_no_temporary_error():
    with HostileServer([read, answer(status="412 Precondition Failed")]) as server:
        with pytest.raises(PreconditionError):
            new_client(attempts=3).request("PUT", server.url, headers={"If-Match": '"1"'}, body=b"")
        assert len(server.requests) == 1


# Messages


def connected(clock):
    """Return a connection whose socket resets whatever is done with it."""
    from encore.storage._http_socket import Connection

    class Socket:
        def settimeout(self, seconds):
            pass

        def sendall(self, data):
            raise ConnectionResetError(104, "Connection reset by peer")

        def recv(self, size):
            raise ConnectionResetError(104, "Connection reset by peer")

    connection = Connection("localhost", 80, "http://localhost", clock)
    connection.sock = Socket()
    connection.begin(10.0)
    return connection


def test_an_error_in_sending_names_the_server():
    with pytest.raises(TemporaryError, match="http://localhost"):
        connected(Clock()).send_bytes(b"x")


def test_a_stale_connection_names_the_server():
    connection = connected(Clock())
    connection.is_used = True
    with pytest.raises(StaleConnectionError, match="http://localhost"):
        connection.head()
