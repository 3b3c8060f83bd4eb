"""StoreApplication: where paths lead, what verbs do, what goes wrong, and who may do what."""

import errno
import io
import json
import logging
from urllib.parse import quote
from wsgiref.validate import validator

import pytest
from served_stores import (
    BrokenStore,
    BrokenValue,
    FailingStore,
    OldStore,
    OwnedStore,
    memory,
    read_only,
)
from wsgi_client import ChunkedInput, WSGIClient

from encore.events.event_manager import EventManager
from encore.storage.errors import (
    AuthenticationError,
    AuthorizationError,
    HiddenKeyError,
    IntegrityError,
    PreconditionError,
    StoreError,
    StoreFullError,
    StoreOSError,
    TemporaryError,
)
from encore.storage.filesystem_store import FileSystemStore, init_shared_store
from encore.storage.locking_filesystem_store import LockingFileSystemStore
from encore.storage.prefix_store import PrefixStore
from encore.storage.server import StoreApplication
from encore.storage.sqlite_store import SqliteStore

LOGGER = "encore.storage.server"


def client(store=None, /, **options):
    return WSGIClient(StoreApplication(memory() if store is None else store, **options))


# The verbs


def test_data_are_put_and_got():
    get = client()
    answer = get.put("/keys/a/b/data", b"hello")
    assert (answer.status, answer.json) == (201, {"created": True, "metadata": {}, "etag": None})
    answer = get.get("/keys/a/b/data")
    assert (answer.status, answer.body) == (200, b"hello")
    assert answer["Content-Length"] == "5"
    assert answer["Content-Type"] == "application/octet-stream"


def test_put_of_data_keeps_the_metadata():
    store = memory(k=(b"old", {"n": 1}))
    answer = client(store).put("/keys/k/data", b"new")
    assert (answer.status, answer.json["metadata"]) == (200, {"n": 1})
    assert (store.to_bytes("k"), store.get_metadata("k")) == (b"new", {"n": 1})


def test_metadata_are_put_merged_and_got():
    store = memory(k=(b"data", {"n": 1}))
    get = client(store)
    answer = get.post("/keys/k/metadata", {"m": [2]})
    assert answer.json == {"created": False, "metadata": {"n": 1, "m": [2]}, "etag": None}
    assert get.get("/keys/k/metadata").json == {"n": 1, "m": [2]}
    assert get.put("/keys/k/metadata", {"o": None}).json["metadata"] == {"o": None}
    assert store.get_metadata("k") == {"o": None}
    assert store.to_bytes("k") == b"data"


def test_put_of_metadata_makes_an_empty_value_and_post_makes_none():
    store = memory()
    get = client(store)
    assert get.post("/keys/k/metadata", {"n": 1}).status == 404
    assert get.put("/keys/k/metadata", {"n": 1}).status == 201
    assert store.to_bytes("k") == b""


def test_a_value_is_put_and_got_at_once():
    store = memory()
    get = client(store)
    metadata = b'{"n": 1}'
    answer = get.put(
        "/keys/k/value", metadata + b"data", {"Encore-Metadata-Length": str(len(metadata))}
    )
    assert (answer.status, answer.json["metadata"]) == (201, {"n": 1})
    assert (store.to_bytes("k"), store.get_metadata("k")) == (b"data", {"n": 1})
    answer = get.get("/keys/k/value")
    length = int(answer["Encore-Metadata-Length"])
    assert json.loads(answer.body[:length]) == {"n": 1}
    assert answer.body[length:] == b"data"
    assert answer["Encore-Data-Length"] == "4"


@pytest.mark.parametrize(("limit", "data"), [("3", b""), ("4", b"data"), ("65536", b"data")])
def test_a_value_that_is_larger_than_the_limit_comes_without_data(limit, data):
    for store in (memory(k=b"data"), OldStore(k=b"data")):
        answer = client(store).get("/keys/k/value", {"Encore-Data-Limit": limit})
        assert answer.body == b"{}" + data
        assert answer["Content-Length"] == str(2 + len(data))
        assert answer["Vary"] == "Encore-Data-Limit"
        known = data or isinstance(store.get("k").size, int)
        assert answer.headers.get("encore-data-length") == ("4" if known else None)


def test_a_value_of_unknown_size_comes_whole_without_a_limit():
    answer = client(OldStore(k=(b"data", {"n": 1}))).get("/keys/k/value")
    assert answer.body == b'{"n":1}data'
    assert "Content-Length" not in answer
    assert "Encore-Data-Length" not in answer
    answer = client(OldStore(k=b"")).get("/keys/k/value")
    assert answer.body == b"{}"


def test_a_key_is_deleted():
    store = memory(**{"a/data": (b"", {"n": 1}), "a": b""})
    get = client(store)
    assert get.delete("/keys/a/data").json == {"metadata": {"n": 1}}
    assert list(store.keys()) == ["a"]
    assert get.delete("/keys/a/data").status == 404
    assert get.delete("/keys/a").status == 200


def test_an_answer_about_a_key_has_its_stamps_and_etag():
    store = memory(k=b"data")
    value = store.get("k")
    for path in ("/keys/k/data", "/keys/k/metadata", "/keys/k/value", "/data/k"):
        answer = client(store).get(path)
        assert answer["ETag"] == f'"{value.etag}"'
        assert float(answer["Encore-Created"]) == value.created
        assert float(answer["Encore-Modified"]) == value.modified
        assert answer["Last-Modified"].endswith(" GMT")
        assert answer["Cache-Control"] == "no-cache"


@pytest.mark.parametrize("store", [memory, OldStore])
@pytest.mark.parametrize(
    "target",
    [
        *("/", "/about", "/alive", "/index.json", "/query", "/keys", "/query?n=1", "/data/k"),
        *("/keys/k/data", "/keys/k/metadata", "/keys/k/value", "/keys/big/data", "/nothing"),
        *("/keys/nothing/data", "/data/", "/keys/big/value", "/keys/k/auth"),
    ],
)
def test_head_is_get_without_a_body(store, target):
    get = client(store(k=(b"data", {"n": 1}), big=bytes(2**19)))
    got, head = get.get(target), get("HEAD", target)
    assert head.body == b""
    assert (head.status, head.all_headers) == (got.status, got.all_headers)
    if "Content-Length" in got:
        assert int(got["Content-Length"]) == len(got.body)


def test_permissions_are_got_set_and_added():
    get = client(OwnedStore(k=b""))
    assert get.get("/keys/k/auth").json == {"owned": ["me"]}
    assert get.post("/keys/k/auth", {"read": ["you", "all"]}).status == 204
    answer = get.get("/keys/k/auth")
    assert answer.json == {"owned": ["me"], "read": ["all", "you"]}
    tag = answer["ETag"]
    assert get.get("/keys/k/auth", {"If-None-Match": tag}).status == 304
    assert get.put("/keys/k/auth", {"owned": ["you"]}).status == 204
    assert get.get("/keys/k/auth").status == 403
    assert get.get("/keys/nothing/auth").status == 404


@pytest.mark.parametrize(
    "permissions", [[], {}, {"owned": []}, {"read": ["me"]}, {"owned": "me"}, {"owned": [1]}, None]
)
def test_permissions_that_are_none_are_refused(permissions):
    get = client(OwnedStore(k=b""))
    assert get.put("/keys/k/auth", json.dumps(permissions).encode()).status == 400
    assert get.get("/keys/k/auth").json == {"owned": ["me"]}


def test_without_permissions_there_are_none():
    answer = client(memory(k=b"")).get("/keys/k/auth")
    assert (answer.status, answer.json["kind"]) == (501, "NotImplementedError")
    assert client(memory(k=b"")).put("/keys/k/auth", {"owned": ["me"]}).status == 501


def test_what_is_written_is_told_by_the_store_itself():
    """Behind a prefix the metadata are those of the wrapper's event, and the key is its own."""
    inner = memory()
    get = client(PrefixStore(inner, "p/"))
    assert get.put("/keys/k/data", b"1").json["created"] is True
    assert get.put("/keys/k/data", b"2").json["created"] is False
    assert list(inner.keys()) == ["p/k"]


def test_a_store_of_08_is_looked_at_before_and_after():
    store = OldStore()
    get = client(store)
    assert get.put("/keys/k/data", b"1").json["created"] is True
    assert get.put("/keys/k/metadata", {"n": 1}).json == {
        "created": False,
        "metadata": {"n": 1},
        "etag": None,
    }
    minimal = {"Prefer": "return=minimal"}
    assert get.put("/keys/k/data", b"2", minimal).status == 204
    assert get.put("/keys/l/data", b"2", minimal).status == 201
    assert get.delete("/keys/k").json["metadata"] == {"n": 1}
    assert store.contents == {"l": (b"2", {})}


def test_who_prefers_it_gets_no_more_than_a_status():
    get = client()
    for status in (201, 204):
        answer = get.put("/keys/k/data", b"1", {"Prefer": 'wait=5, return="minimal"; x=1'})
        assert (answer.status, answer.body) == (status, b"")
        assert answer["Preference-Applied"] == "return=minimal"
    assert get.delete("/keys/k", {"Prefer": "return=minimal"}).status == 204


def stores_with_transactions(tmp_path):
    manager = EventManager()
    init_shared_store(tmp_path / "fs")
    return [
        memory(),
        PrefixStore(memory(), "p/"),
        SqliteStore(str(tmp_path / "s.db"), event_manager=manager),
        FileSystemStore(tmp_path / "fs", event_manager=manager),
        LockingFileSystemStore(tmp_path / "fs", event_manager=manager),
    ]


def test_the_etag_of_what_was_written_is_the_one_that_others_see(tmp_path):
    for store in stores_with_transactions(tmp_path):
        with store:
            get = client(store)
            for status in (201, 200):
                answer = get.put("/keys/k/data", b"1", {"Prefer": "return=representation"})
                assert answer.status == status
                assert answer.json["etag"] == store.get("k").etag
                assert get.get("/keys/k/data")["ETag"] == answer["ETag"]
            store.delete("k")


def test_who_prefers_it_gets_the_new_etag():
    store = memory()
    get = client(store)
    representation = {"Prefer": "return=representation"}
    answer = get.put("/keys/k/data", b"1", representation)
    assert answer["ETag"] == f'"{store.get("k").etag}"'
    assert answer.json == {"created": True, "metadata": {}, "etag": store.get("k").etag}
    # A client may take its time with what is not at hand.
    assert "ETag" not in get.put("/keys/k/data", ChunkedInput(b"2"), representation)
    assert get.delete("/keys/k", representation).status == 200
    assert get.put("/keys/k/data", b"1", {"Prefer": "return=maximal"}).json["etag"] is None


# Where paths lead


@pytest.mark.parametrize(
    "key",
    [
        *("a/b", "a//b", "/a", "a/", "/", ".", "..", "../../etc/passwd", "a/../b", "%2e%2e", "%00"),
        *("\0", "\n", "a\r\nb", "ä", "e\u0301", "\U0001f600", " ", "?a=b", "#", "data", "a/data"),
        *("\\", "C:\\x", "~", ";a", "+", "%", "%zz", "keys", "value/metadata", "x" * 1024, "\x7f"),
    ],
)
def test_any_key_survives_the_trip(key):
    store = memory()
    get = client(store)
    path = f"/keys/{quote(key, safe='')}"
    assert get.put(f"{path}/data", b"1").status == 201
    assert list(store.keys()) == [key]
    assert get.get(f"{path}/data").body == b"1"
    assert get.get(f"/data/{quote(key, safe='')}").body == b"1"
    assert get.delete(path).json == {"metadata": {}}
    assert list(store.keys()) == []


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/keys//data", 400),
        ("PUT", "/keys//data", 400),
        ("DELETE", "/keys/", 400),
        ("GET", "/data/", 400),
        ("GET", f"/keys/{'x' * 1025}/data", 400),
        ("GET", "/keys/%ff/data", 400),
        ("GET", "/keys/%c0%ae/data", 400),
        ("GET", "/%ff", 400),
        ("GET", "/keys/%ed%a0%80/data", 400),
        ("GET", "/nothing", 404),
        ("GET", "", 404),
        ("GET", "//keys/k/data", 404),
        ("GET", "/../keys/k/data", 404),
        ("GET", "/KEYS/k/data", 404),
        ("GET", "/index.json/", 404),
        ("GET", "/alive/", 404),
        ("GET", "/data", 404),
        ("GET", "/etc/passwd", 404),
        ("GET", "/browse", 404),
        ("GET", "/keys/k", 405),
        ("GET", "/keys/data", 405),
        ("GET", "/keys/k/nothing", 405),
        ("PUT", "/keys/", 405),
        ("POST", "/keys/k/data", 405),
        ("POST", "/keys/k/value", 405),
        ("PATCH", "/keys/k/data", 405),
        ("TRACE", "/keys/k/data", 405),
        ("get", "/keys/k/data", 405),
        ("FOO", "/", 405),
        ("PUT", "/data/k", 405),
        ("DELETE", "/data/k", 405),
        ("DELETE", "/query", 405),
        ("PUT", "/query", 405),
        ("POST", "/keys", 405),
        ("POST", "/index.json", 405),
        ("POST", "/alive", 405),
    ],
)
def test_what_is_not_there_is_refused(method, target, status):
    store = memory(k=b"data")
    answer = client(store)(method, target)
    assert answer.status == status
    assert set(answer.json) == {"error", "kind"}
    assert ("Allow" in answer) == (status == 405)
    assert list(store.keys()) == ["k"]


@pytest.mark.parametrize(
    ("target", "allowed"),
    [
        ("/keys/k/data", "GET, HEAD, PUT, DELETE, OPTIONS"),
        ("/keys/k/metadata", "GET, HEAD, PUT, POST, DELETE, OPTIONS"),
        ("/keys/k", "DELETE, OPTIONS"),
        ("/data/k", "GET, HEAD, OPTIONS"),
        ("/query", "GET, HEAD, POST, OPTIONS"),
        ("/index.json", "GET, HEAD, OPTIONS"),
    ],
)
def test_allow_says_what_may_be_asked(target, allowed):
    assert client()("FOO", target)["Allow"] == allowed
    assert client()("OPTIONS", target)["Allow"] == allowed


@pytest.mark.parametrize("target", ["/", "/keys", "/query", "/about", "*"])
def test_options_describe_the_store(target):
    answer = client(memory())("OPTIONS", target)
    assert answer.status == 200
    assert answer.json["encore"] == 1
    assert answer.json["info"] == {
        "type": "DictMemoryStore",
        "readonly": False,
        "authorizing": False,
        "transactional": True,
        "conditional": True,
        "streaming": False,
        "durable": "none",
    }


def test_nothing_else_that_a_store_tells_of_itself_is_passed_on():
    class Telling(FailingStore):
        def info(self):
            return {**super().info(), "path": "/secret", "max_key_bytes": 200}

    answer = client(Telling()).get("/about")
    assert b"secret" not in answer.body
    assert answer.json["info"]["max_key_bytes"] == 200
    answer = client(Telling(), readonly=True).get("/about")
    info = answer.json["info"]
    assert (info["readonly"], info["conditional"], info["transactional"]) == (True, False, False)


def test_the_info_of_a_store_of_08_may_say_nothing():
    class Silent(OldStore):
        def info(self):
            return {}

    info = client(Silent()).get("/about").json["info"]
    assert info == {
        **dict.fromkeys(("readonly", "authorizing", "transactional"), False),
        **dict.fromkeys(("conditional", "streaming"), False),
        "type": "Silent",
        "durable": "none",
    }


def test_the_static_scheme_alone():
    get = client(memory(k=b"data"), static=True)
    assert get.get("/data/k").body == b"data"
    assert get.get("/index.json").status == 200
    assert get.get("/about").json["info"]["readonly"] is True
    assert get.get("/alive").status == 200
    for method, target in (
        ("GET", "/keys/k/data"),
        ("PUT", "/keys/k/data"),
        ("DELETE", "/keys/k"),
        ("GET", "/keys"),
        ("POST", "/query"),
        ("OPTIONS", "/query"),
    ):
        assert get(method, target).status == 404


def test_wsgi_is_kept_to():
    get = WSGIClient(validator(StoreApplication(memory(k=(b"data", {"n": 1}), big=bytes(2**19)))))
    answer = get.get("/keys/k/data")
    etag = answer["ETag"]
    assert answer.body == b"data"
    for method, target, body, headers in (
        ("GET", "/keys/k/data", b"", {}),
        ("GET", "/keys/k/data", b"", {"If-None-Match": etag}),
        ("GET", "/keys/k/data", b"", {"Range": "bytes=1-2"}),
        ("GET", "/keys/k/data", b"", {"Range": "bytes=9-"}),
        ("GET", "/keys/big/data", b"", {}),
        ("HEAD", "/keys/big/data", b"", {}),
        ("GET", "/keys/k/value", b"", {"Encore-Data-Limit": "1"}),
        ("GET", "/index.json", b"", {"Accept-Encoding": "gzip"}),
        ("GET", "/query", b"", {}),
        ("POST", "/query", b"{}", {}),
        ("OPTIONS", "/keys/k/data", b"", {}),
        ("GET", "/nothing", b"", {}),
        ("PUT", "/keys/l/data", b"1", {"Prefer": "return=minimal"}),
        ("PUT", "/keys/l/data", b"1", {"Prefer": "return=minimal"}),
        ("PUT", "/keys/l/data", bytes(2**19), {}),
        ("PUT", "/keys/l/metadata", b"{}", {}),
        ("DELETE", "/keys/l", b"", {}),
    ):
        answer = get(method, target, body, headers)
        assert isinstance(answer.body, bytes)
        assert answer.status < 500


# What goes wrong


SECRET = "/srv/secret/store.db"


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (KeyError("k"), 404, "KeyError"),
        (HiddenKeyError("k"), 404, "KeyError"),
        (AuthorizationError(SECRET), 403, "AuthorizationError"),
        (AuthenticationError(SECRET), 403, "AuthorizationError"),
        (PreconditionError(SECRET), 412, "PreconditionError"),
        (NotImplementedError(SECRET), 501, "NotImplementedError"),
        (StoreFullError(SECRET), 507, "StoreFullError"),
        (StoreOSError(errno.ENOSPC, "No space left", SECRET), 507, "StoreFullError"),
        (TemporaryError(SECRET), 503, "TemporaryError"),
        (StoreOSError(errno.ECONNREFUSED, "refused", SECRET), 503, "TemporaryError"),
        (StoreOSError(errno.EACCES, "Permission denied", SECRET), 500, "StoreError"),
        (IntegrityError(SECRET), 500, "IntegrityError"),
        (StoreError(SECRET), 500, "StoreError"),
        (ValueError(SECRET), 400, "ValueError"),
        (TypeError(SECRET), 400, "TypeError"),
        (OSError(errno.EIO, "I/O error", SECRET), 500, "StoreError"),
        (ZeroDivisionError(SECRET), 500, "StoreError"),
        (RecursionError(SECRET), 500, "StoreError"),
        (MemoryError(SECRET), 500, "StoreError"),
    ],
)
@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("GET", "/keys/k/data", b""),
        ("GET", "/keys/k/metadata", b""),
        ("GET", "/keys/k/value", b""),
        ("GET", "/data/k", b""),
        ("PUT", "/keys/k/data", b"new"),
        ("PUT", "/keys/k/metadata", b"{}"),
        ("POST", "/keys/k/metadata", b"{}"),
        ("DELETE", "/keys/k", b""),
    ],
)
def test_each_error_of_a_store_has_its_status(error, status, kind, method, target, body):
    answer = client(FailingStore(error))(method, target, body)
    assert (answer.status, answer.json["kind"]) == (status, kind)
    assert b"secret" not in answer.body
    assert "\n" not in answer.json["error"]
    assert ("Retry-After" in answer) == (status == 503)


@pytest.mark.parametrize("target", ["/query", "/index.json"])
def test_errors_of_a_search_have_their_status(target):
    assert client(FailingStore(TemporaryError())).get(target).status == 503
    assert client(FailingStore(KeyError("k"))).get(target).status == 500
    assert client(FailingStore(ZeroDivisionError(SECRET))).get(target).status == 500


@pytest.mark.parametrize(
    ("after", "header"), [(None, "1"), (0.2, "1"), (2.5, "3"), (7, "7"), (1e300, "86400")]
)
def test_retry_after_is_in_whole_seconds(after, header):
    answer = client(FailingStore(TemporaryError(retry_after=after))).get("/keys/k/data")
    assert answer["Retry-After"] == header


def test_what_is_unexpected_is_logged_with_its_traceback(caplog):
    client(FailingStore(ZeroDivisionError(SECRET))).get("/keys/k/data")
    (record,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert record.name == LOGGER
    assert record.exc_info[0] is ZeroDivisionError
    assert "GET /keys/k/data: ZeroDivisionError" in record.getMessage()


def test_what_a_store_says_is_logged(caplog):
    client(FailingStore(StoreError(SECRET))).get("/keys/k/data")
    (record,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert SECRET in record.getMessage()
    assert record.exc_info is None


def test_data_that_end_early_are_an_error_before_anything_is_sent():
    answer = client(BrokenStore(BrokenValue(5, 10))).get("/keys/k/data")
    assert (answer.status, answer.json["kind"]) == (500, "IntegrityError")


@pytest.mark.parametrize("error", [None, StoreError("broken"), ZeroDivisionError()])
def test_data_that_end_early_on_their_way_break_the_answer(error, caplog):
    value = BrokenValue(2**19, 2**20, error)
    answer = client(BrokenStore(value)).get("/keys/k/data")
    assert answer.status == 200
    with pytest.raises(IntegrityError if error is None else type(error)):
        answer.body  # noqa: B018
    assert [stream.closed for stream in value.streams] == [True]
    assert [each for each in caplog.records if each.levelno == logging.ERROR]


def test_data_that_are_longer_than_their_size_are_cut_there():
    answer = client(BrokenStore(BrokenValue(20, 10))).get("/keys/k/data")
    assert (answer["Content-Length"], answer.body) == ("10", bytes(10))


def test_an_answer_that_nobody_waits_for_closes_what_it_reads():
    value = BrokenValue(2**20, 2**20)
    answer = client(BrokenStore(value)).get("/keys/k/data")
    assert len(next(answer.chunks)) < 2**20
    answer.close()
    answer.close()
    assert [stream.closed for stream in value.streams] == [True]


def test_an_answer_that_cannot_be_begun_closes_what_it_reads():
    value = BrokenValue(2**20, 2**20)
    get = client(BrokenStore(value))

    def fail(status, headers):
        raise ZeroDivisionError

    # The traceback keeps all from being dropped, which would close it as well.
    with pytest.raises(ZeroDivisionError) as caught:
        get.application(get.environ("GET", "/keys/k/data"), fail)
    assert caught.tb is not None
    assert [stream.closed for stream in value.streams] == [True]


def test_who_reads_keeps_the_value_that_was_there():
    store = memory(k=b"a" * 2**20)
    get = client(store)
    answer = get.get("/keys/k/data")
    get.put("/keys/k/data", b"new")
    store.delete("k")
    assert answer.body == b"a" * 2**20


# Who may do what


def test_readonly_refuses_before_the_body_is_read():
    class Unread(io.BytesIO):
        def read(self, *args):
            raise AssertionError("the body was read")

    for get in (client(memory(k=b"data"), readonly=True), client(read_only(k=b"data"))):
        for method, target in (
            ("PUT", "/keys/k/data"),
            ("PUT", "/keys/k/value"),
            ("PUT", "/keys/k/metadata"),
            ("POST", "/keys/k/metadata"),
            ("PUT", "/keys/k/auth"),
            ("DELETE", "/keys/k"),
        ):
            answer = get(method, target, Unread(), {"Content-Length": "5"})
            assert (answer.status, answer.json["kind"]) == (403, "AuthorizationError")
        assert get.get("/keys/k/data").body == b"data"
        assert get.post("/query", {}).lines == [["k", {}], None]
        assert get.get("/about").json["info"]["readonly"] is True


def valid(name, password):
    return (name, password) in {("bob", "pässword"), ("eve", "a:b")}


def test_without_a_password_nothing_is_told_but_that_it_is_alive():
    get = client(memory(k=b"data"), authenticate=valid, realm='the "store"')
    for method, target in (
        *(("GET", "/"), ("GET", "/keys/k/data"), ("OPTIONS", "/query"), ("GET", "/about")),
        *(("GET", "/nothing"), ("PATCH", "/keys/k/data"), ("GET", "/index.json")),
    ):
        answer = get(method, target)
        assert (answer.status, answer.json["kind"]) == (401, "AuthorizationError")
        assert answer["WWW-Authenticate"] == 'Basic realm="the \\"store\\"", charset="UTF-8"'
    assert get.get("/alive").json == {"alive": True}


def test_a_body_is_not_read_before_the_password():
    get = client(memory(), authenticate=valid)
    body = io.BytesIO(b"new")
    assert get.put("/keys/k/data", body, {"Content-Length": "3"}).status == 401
    assert body.tell() == 0


def test_each_user_may_have_a_view_of_the_store():
    store = memory(**{"bob/k": b"bob's", "eve/k": b"eve's"})
    application = StoreApplication(
        store, valid, view=lambda store, user: PrefixStore(store, f"{user}/")
    )
    bob, eve = (WSGIClient(application, user) for user in (("bob", "pässword"), ("eve", "a:b")))
    assert bob.get("/keys/k/data").body == b"bob's"
    assert eve.get("/keys/k/data").body == b"eve's"
    assert bob.put("/keys/l/data", b"1").status == 201
    assert eve.get("/keys").body == b"k\n"
    assert store.exists("bob/l")
    get = client(store, view=lambda store, user: PrefixStore(store, "bob/") if user is None else 1)
    assert get.get("/keys/k/data").body == b"bob's"


@pytest.mark.parametrize(
    ("error", "status"),
    [(AuthorizationError(SECRET), 403), (KeyError(SECRET), 500), (ZeroDivisionError(SECRET), 500)],
)
def test_a_user_without_a_view_sees_nothing(error, status):
    def view(store, user):
        raise error

    get = client(memory(k=b"data"), view=view)
    for method, target in (("OPTIONS", "/query"), ("GET", "/index.json"), ("GET", "/about")):
        answer = get(method, target)
        assert answer.status == status
        assert b"secret" not in answer.body


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost:81"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "http://localhost"}, 200),
        ({"Origin": "https://localhost"}, 200),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://behind.a.proxy"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({}, 200),
    ],
)
def test_a_page_of_another_site_changes_nothing(headers, status):
    store = memory(k=b"data")
    get = client(store)
    assert get.post("/keys/k/metadata", {"n": 1}, headers).status == status
    assert get.put("/keys/k/data", b"data", headers).status == status
    assert store.get_metadata("k") == ({"n": 1} if status == 200 else {})
    assert get.get("/keys/k/data", headers).status == 200
    assert get.delete("/keys/k", headers).status == status


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8080", 200),
        ("127.0.0.1:8080", 200),
        ("[::1]:8080", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("", 421),
    ],
)
def test_only_names_that_are_its_own_are_answered(host, status):
    get = client(hosts=["Localhost", "127.0.0.1", "::1"])
    assert get.get("/about", {"Host": host}).status == status


def test_data_are_no_page_of_the_servers_own():
    html = b"<script>alert(1)</script>"
    for kind, shown in (
        ("text/html", "application/octet-stream"),
        ("image/svg+xml", "application/octet-stream"),
        ("text/html\r\nX: y", "application/octet-stream"),
        ("text/javascript", "application/octet-stream"),
        ("application/xhtml+xml", "application/octet-stream"),
        ("text/plain; charset=utf-7", "text/plain"),
        ("text/plain;charset=UTF-8", "text/plain; charset=utf-8"),
        ("image/png; x=\r\ny", "image/png"),
        ("Image/PNG", "image/png"),
        (5, "application/octet-stream"),
        (None, "application/octet-stream"),
    ):
        get = client(memory(**{'a/b "\n\u20ac.html': (html, {"type": kind})}))
        answer = get.get(f"/data/{quote('a/b ')}%22%0A%E2%82%AC.html")
        assert answer["Content-Type"] == shown
        assert answer["X-Content-Type-Options"] == "nosniff"
        assert answer["Content-Security-Policy"] == "default-src 'none'; sandbox"
        is_harmless = shown != "application/octet-stream"
        assert answer["Content-Disposition"] == (
            f"{'inline' if is_harmless else 'attachment'}; "
            "filename*=UTF-8''b%20%22%0A%E2%82%AC.html"
        )


def test_damaged_metadata_do_not_hide_the_data():
    class Damaged(BrokenValue):
        @property
        def metadata(self):
            raise StoreError("damaged")

    get = client(BrokenStore(Damaged(4, 4)))
    assert get.get("/keys/k/data").body == bytes(4)
    assert get.get("/keys/k/metadata").status == 500


def test_metadata_of_another_program_that_are_no_json_are_an_error():
    class Odd(BrokenValue):
        @property
        def metadata(self):
            return {"n": float("nan")}

    get = client(BrokenStore(Odd(4, 4)))
    assert get.get("/keys/k/metadata").json["kind"] == "IntegrityError"
    assert get.get("/keys/k/data").body == bytes(4)


# The log


def lines_of(caplog):
    return [each.getMessage() for each in caplog.records if each.name == LOGGER]


def test_each_request_is_a_line_in_the_log(caplog):
    caplog.set_level(logging.INFO, LOGGER)
    get = WSGIClient(StoreApplication(memory(k=bytes(2**20)), valid), ("bob", "pässword"))
    assert len(get.get("/keys/k/data?secret=1").body) == 2**20
    sent = {"REQUEST_URI": "/keys/%6B/data?a=b", "REMOTE_ADDR": "10.0.0.1"}
    get.put("/keys/k/data", **sent).body  # noqa: B018
    get.get("/alive").body  # noqa: B018
    lines = [line.split(" ") for line in lines_of(caplog)]
    assert [line[:5] + line[6:] for line in lines] == [
        ["-", "GET", "/keys/k/data", "200", str(2**20), "bob"],
        ["10.0.0.1", "PUT", "/keys/%6B/data", "200", "43", "bob"],
        ["-", "GET", "/alive", "200", "14", "-"],
    ]
    assert all(float(line[5]) >= 0 for line in lines)


def test_a_client_writes_no_lines_of_its_own_into_the_log(caplog):
    caplog.set_level(logging.INFO, LOGGER)
    get = WSGIClient(
        StoreApplication(FailingStore(StoreError("a\nb")), lambda *_: True), ("b\no\x1bb\u2028", "")
    )
    get("G\nET", "/keys/a%0Ab%1B/data").body  # noqa: B018
    get.get("/keys/k/data", REQUEST_URI="/\r\n\x1b[1m\xff").body  # noqa: B018
    get.get("/keys/k/data", REQUEST_URI="x" * 10_000).body  # noqa: B018
    for line in lines_of(caplog):
        assert line.isascii()
        assert line.isprintable()
        assert len(line) < 2100


def test_what_was_sent_of_a_broken_answer_is_in_the_log(caplog):
    caplog.set_level(logging.INFO, LOGGER)
    answer = client(BrokenStore(BrokenValue(2**19, 2**20))).get("/keys/k/data")
    with pytest.raises(IntegrityError):
        answer.body  # noqa: B018
    assert any(f"GET /keys/k/data 200 {2**19} " in line for line in lines_of(caplog))


# The object


def test_arguments_are_checked():
    with pytest.raises(TypeError, match="is a store"):
        StoreApplication("sqlite:x.db")
    with pytest.raises(TypeError, match="authenticate"):
        StoreApplication(memory(), {"bob": "password"})
    with pytest.raises(TypeError, match="view"):
        StoreApplication(memory(), view=memory())
    with pytest.raises(ValueError, match="realm"):
        StoreApplication(memory(), valid, realm="a\nb")


def test_the_application_connects_nothing():
    store = read_only(k=b"")
    assert "ReadOnlyStore" in repr(StoreApplication(store))


def test_a_store_that_is_not_connected_is_an_error(tmp_path):
    answer = client(SqliteStore(str(tmp_path / "s.db"))).get("/keys/k/data")
    assert answer.status == 500
    assert str(tmp_path) not in answer.body.decode()


def test_there_are_no_pages_beside_the_static_layout():
    with pytest.raises(ValueError, match="static"):
        StoreApplication(memory(), static=True, browse=True)


def test_the_static_layout_says_what_reads_it():
    for path in ("/keys", "/query", "/keys/k/data"):
        answer = client(memory(), static=True).get(path)
        assert answer.status == 404
        assert "static:URL" in answer.json["error"]


def test_a_view_refuses_by_an_authorization_error():
    def view(store, user):
        raise AuthorizationError("secret")

    answer = client(memory(k=b""), view=view).get("/keys/k/data")
    assert answer.status == 403
    assert answer.json == {"error": "'k': not permitted", "kind": "AuthorizationError"}
