"""Upload and deletion by the forms of the pages, and what is no such form."""

import io
import random
import re

import pytest
from page_client import BOUNDARY, KIND, Page, PageClient, multipart
from wsgi_client import ChunkedInput

from encore.events.event_manager import EventManager
from encore.storage import _server_page_changes
from encore.storage._server_page_forms import read_form
from encore.storage._server_page_tokens import is_valid, make_token
from encore.storage._server_requests import Body, RequestError
from encore.storage.abstract_store import AbstractStore
from encore.storage.dict_memory_store import DictMemoryStore
from encore.storage.errors import StoreError, StoreFullError
from encore.storage.server import StoreApplication
from encore.storage.string_value import StringValue


@pytest.fixture
def store():
    store = DictMemoryStore(event_manager=EventManager())
    store.connect()
    return store


@pytest.fixture
def client(store):
    return PageClient(StoreApplication(store, browse=True))


class Plain(AbstractStore):
    """A store that knows no conditions."""

    def __init__(self):
        super().__init__(event_manager=EventManager())
        self.values = {}
        self.connect()

    def get(self, key):
        return self.values[key]

    def query(self, select=None, **kwargs):
        return iter([(key, value.metadata) for key, value in self.values.items()])

    def set(self, key, value, buffer_size=1 << 20):
        data, metadata = value
        self.values[key] = StringValue(data.read(), metadata)

    def delete(self, key):
        del self.values[key]


def put(store, key, data=b"", **metadata):
    store.set(key, (io.BytesIO(data), metadata))


# Upload


def test_upload(client, store):
    answer = client.fill_in(
        "/browse/upload", {"key": "a/ü b", "metadata": '{"n":\r\n [1]}'}, ("x.bin", b"\r\n--data")
    )
    assert (answer.status, answer["location"]) == (303, "/browse/key?key=a%2F%C3%BC%20b")
    assert store.to_bytes("a/ü b") == b"\r\n--data"
    assert store.get_metadata("a/ü b") == {"n": [1]}
    assert client.page(answer["location"]).status == 200


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("plain.txt", "plain.txt"),
        ("ü 日本.txt", "ü 日本.txt"),
        ("C:\\Users\\me\\x.txt", "x.txt"),
        ("../../etc/passwd", "passwd"),
        ("folder/x", "x"),
        ("a%22b%0D%0Ac", 'a"b\r\nc'),
        ("..", ".."),
        ("a; filename=b", "a; filename=b"),
        ("<script>", "<script>"),
    ],
)
def test_key_is_the_name_of_the_file_by_default(client, store, name, key):
    assert client.fill_in("/browse/upload", {"key": ""}, (name, b"data")).status == 303
    assert list(store.keys()) == [key]
    assert store.get_metadata(key) == {}


def test_upload_of_an_empty_file(client, store):
    assert client.fill_in("/browse/upload", {"key": "k"}, ("x", b"")).status == 303
    assert store.to_bytes("k") == b""


def test_upload_does_not_overwrite_by_default(client, store):
    put(store, "k", b"old", n=1)
    page = Page(client.fill_in("/browse/upload", {"key": "k"}, ("x", b"new")))
    assert page.status == 412
    assert "There is something under this key already." in page.text
    assert (store.to_bytes("k"), store.get_metadata("k")) == (b"old", {"n": 1})
    answer = client.fill_in("/browse/upload", {"key": "k", "overwrite": "yes"}, ("x", b"new"))
    assert answer.status == 303
    assert (store.to_bytes("k"), store.get_metadata("k")) == (b"new", {})


def test_upload_asks_the_store_for_a_new_key(store):
    # Somebody else is faster, while the file arrives.
    class Store(DictMemoryStore):
        def exists(self, key):
            put(store, key, b"theirs")
            return False

    store.__class__ = Store
    client = PageClient(StoreApplication(store, browse=True))
    assert client.fill_in("/browse/upload", {"key": "k"}, ("x", b"mine")).status == 412
    assert store.to_bytes("k") == b"theirs"


def test_store_without_conditions():
    store = Plain()
    client = PageClient(StoreApplication(store, browse=True))
    assert client.fill_in("/browse/upload", {"key": "k"}, ("x", b"1")).status == 303
    assert client.fill_in("/browse/upload", {"key": "k"}, ("x", b"2")).status == 412
    assert client.fill_in("/browse/upload?key=k", {}, ("x", b"3")).status == 303
    assert store.to_bytes("k") == b"3"
    assert client.fill_in("/browse/delete?key=k").status == 200
    assert store.values == {}


def test_changes_of_a_store_with_etags_but_no_conditions():
    class Value(StringValue):
        etag = "one"

    store = Plain()
    store.values["k"] = Value(b"")
    client = PageClient(StoreApplication(store, browse=True))
    token = client.page("/browse/delete?key=k").fields["token"]
    assert client.page("/browse/delete?key=k").fields["etag"] == '"one"'
    fields = {"token": token, "etag": '"two"'}
    assert client.submit("/browse/delete?key=k", fields).status == 412
    assert client.submit("/browse/delete?key=k", {**fields, "etag": '"one"'}).status == 200


@pytest.mark.parametrize(
    ("fields", "file", "message"),
    [
        ({"key": "k"}, None, "Choose a file"),
        ({"key": "k"}, ("", b""), "Choose a file"),
        ({"key": "k" * 1025}, ("x", b""), "This cannot be a key"),
        ({"key": "k", "metadata": "{"}, ("x", b""), "The metadata are no JSON"),
        ({"key": "k", "metadata": "[1]"}, ("x", b""), "The metadata are not right"),
        ({"key": "k", "metadata": '{"a": 1e999}'}, ("x", b""), "The metadata are not right"),
        ({"key": "k", "metadata": '{"a": "\\ud800"}'}, ("x", b""), "The metadata are not right"),
        ({"key": "k", "etag": "x"}, ("x", b""), "no form"),
    ],
)
def test_wrong_upload_changes_nothing(client, store, fields, file, message):
    page = Page(client.fill_in("/browse/upload", fields, file))
    assert page.status == 400
    assert message in page.text
    assert list(store.keys()) == []


def test_upload_of_what_is_too_much(store):
    client = PageClient(StoreApplication(store, browse=True, max_body=1000))
    assert client.fill_in("/browse/upload", {"key": "k"}, ("x", b"x" * 1000)).status == 303
    assert client.fill_in("/browse/upload", {"key": "l"}, ("x", b"x" * 1001)).status == 413
    assert client.fill_in("/browse/upload", {"key": "m"}, ("x", b"x" * 5_000_000)).status == 413
    field = {"key": "n", "metadata": " " * (1 << 20) + "{}"}
    assert client.fill_in("/browse/upload", field, ("x", b"x")).status == 413
    assert list(store.keys()) == ["k"]


def test_store_that_is_full(store):
    class Store(DictMemoryStore):
        def set(self, key, value, **conditions):
            raise StoreFullError("/secret", key=key)

    store.__class__ = Store
    client = PageClient(StoreApplication(store, browse=True))
    page = Page(client.fill_in("/browse/upload", {"key": "k"}, ("x", b"")))
    assert page.status == 507
    assert "There is no room for k" in page.text


class Endless:
    """The body of a form whose file is large: counts what has been read of it."""

    def __init__(self, head, size, tail):
        self._head = io.BytesIO(head)
        self._missing = size
        self._tail = io.BytesIO(tail)
        self.size = len(head) + size + len(tail)
        self.most = 0

    def read(self, size):
        self.most = max(self.most, size)
        data = self._head.read(size)
        if not data:
            data = b"x" * min(size, self._missing)
            self._missing -= len(data)
        return data or self._tail.read(size)


def test_large_file_is_stored_while_it_arrives(store):
    # What is known of it at a time is little.
    size, seen = 50_000_000, []

    class Store(DictMemoryStore):
        def set(self, key, value, buffer_size=1 << 20, **conditions):
            stream = value[0]
            while piece := stream.read(1 << 20):
                assert piece == b"x" * len(piece)
                seen.append(len(piece))

    store.__class__ = Store
    client = PageClient(StoreApplication(store, browse=True))
    token = client.page("/browse/upload").fields["token"]
    whole = multipart({"token": token, "key": "k"}, ("x", b""))
    cut = whole.rindex(b"\r\n--" + BOUNDARY.encode())
    body = Endless(whole[:cut], size, whole[cut:])
    answer = client.post(
        "/browse/upload", body, {"Content-Type": KIND, "Content-Length": str(body.size)}
    )
    assert answer.status == 303
    assert sum(seen) == size
    assert max(seen) <= 1 << 19
    assert body.most <= 1 << 19


@pytest.mark.parametrize("is_large", [False, True])
def test_cut_upload_changes_nothing(client, store, is_large):
    data = b"x" * (1_000_000 if is_large else 100)
    token = client.page("/browse/upload").fields["token"]
    body = multipart({"token": token, "key": "k"}, ("x", data))
    length = {"Content-Type": KIND, "Content-Length": str(len(body))}
    for size in (len(body) - 1, len(body) - len(BOUNDARY) - 6, len(body) - 50, 10, 0):
        # The connection breaks.
        assert client.post("/browse/upload", io.BytesIO(body[:size]), length).status == 400
        # It ends in an orderly way.
        answer = client.post("/browse/upload", ChunkedInput(body[:size]), {"Content-Type": KIND})
        assert answer.status == 400
        assert list(store.keys()) == []
    assert client.post("/browse/upload", ChunkedInput(body), {"Content-Type": KIND}).status == 303
    assert store.to_bytes("k") == data


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_nothing_may_come_behind_the_file(client, store, size):
    token = client.page("/browse/upload").fields["token"]
    body = multipart({"token": token, "key": "k"}, ("x", b"x" * size), end="\r\n")
    body += multipart({"overwrite": "yes"})[len(BOUNDARY) + 4 :]
    answer = client.post("/browse/upload", body, {"Content-Type": KIND})
    assert answer.status == 400
    assert "last field" in Page(answer).text
    assert list(store.keys()) == []


def test_error_of_a_store_that_hides_that_of_the_form(client, store):
    class Store(DictMemoryStore):
        def set(self, key, value, *args, **conditions):
            try:
                value[0].read()
            except Exception as error:
                raise StoreError("it could not be read") from error

    store.__class__ = Store
    token = client.page("/browse/upload").fields["token"]
    body = multipart({"token": token, "key": "k"}, ("x", b"x" * 1_000_000))[:-10]
    assert client.post("/browse/upload", ChunkedInput(body), {"Content-Type": KIND}).status == 400


# Other data


def test_replace_keeps_the_metadata(client, store):
    put(store, "a\nb\r", b"old", n=1)
    answer = client.fill_in("/browse/upload?key=a%0Ab%0D", {}, ("x", b"new"))
    assert (answer.status, answer["location"]) == (303, "/browse/key?key=a%0Ab%0D")
    assert (store.to_bytes("a\nb\r"), store.get_metadata("a\nb\r")) == (b"new", {"n": 1})


def test_replace_what_has_changed_or_gone(client, store):
    put(store, "k", b"old")
    fields = client.page("/browse/upload?key=k").fields
    hidden = {name: fields[name] for name in ("token", "etag")}
    put(store, "k", b"newer")
    page = Page(client.submit("/browse/upload?key=k", hidden, ("x", b"mine")))
    assert page.status == 412
    assert "It has changed since it was shown to you" in page.text
    assert store.to_bytes("k") == b"newer"
    store.delete("k")
    assert client.submit("/browse/upload?key=k", hidden, ("x", b"mine")).status == 404
    assert client.page("/browse/upload?key=k").status == 404
    assert list(store.keys()) == []


# Deletion


@pytest.mark.parametrize("key", ["k", "a/ü", "..", "a\nb\r\x00", "<b>&\"'", "a+b&c=d%41"])
def test_delete(client, store, key):
    from urllib.parse import quote

    put(store, key)
    put(store, "other")
    target = f"/browse/delete?key={quote(key, safe='')}"
    page = client.page(target)
    assert (page.status, store.exists(key)) == (200, True)
    page = Page(client.fill_in(target))
    assert page.status == 200
    assert "has been deleted" in page.text
    assert list(store.keys()) == ["other"]
    assert client.page(target).status == 404


def test_delete_what_has_changed_or_gone(client, store):
    put(store, "k", b"old")
    fields = client.page("/browse/delete?key=k").fields
    put(store, "k", b"newer")
    page = Page(client.submit("/browse/delete?key=k", fields))
    assert page.status == 412
    assert "It has changed since it was shown to you" in page.text
    assert store.exists("k")
    store.delete("k")
    assert client.submit("/browse/delete?key=k", fields).status == 404


@pytest.mark.parametrize("etag", ["x", 'W/"x"', '"', "<b>"])
def test_etag_that_is_none(client, store, etag):
    put(store, "k")
    token = client.page("/browse/delete?key=k").fields["token"]
    fields = {"token": token, "etag": etag}
    assert client.submit("/browse/delete?key=k", fields).status == 400
    assert store.exists("k")


def test_odd_etag_survives_the_form(store):
    class Store(Plain):
        def info(self):
            return {**super().info(), "conditional": True}

        def delete(self, key, *, if_match=None):
            assert if_match == 'a\n"%<ü\ud800'
            del self.values[key]

    class Value(StringValue):
        etag = 'a\n"%<ü\ud800'

    store = Store()
    store.values["k"] = Value(b"")
    client = PageClient(StoreApplication(store, browse=True))
    assert client.page("/browse/key?key=k").status == 200
    assert client.fill_in("/browse/delete?key=k").status == 200


# Requests from elsewhere


def test_form_needs_a_token(client, store):
    put(store, "k")
    for fields in ({}, {"token": ""}, {"token": "x"}, {"token": "ü-\x00"}, {"token": "f" * 150}):
        page = Page(client.submit("/browse/delete?key=k", fields))
        assert page.status == 403
        assert "load it again" in page.text
        assert client.submit("/browse/upload", {**fields, "key": "x"}, ("x", b"")).status == 403
    assert list(store.keys()) == ["k"]


def test_token_must_come_before_the_file(client, store):
    token = client.page("/browse/upload").fields["token"]
    body = multipart({}, ("x", b"data"), end="\r\n")
    body += multipart({"token": token})[len(BOUNDARY) + 4 :]
    assert client.post("/browse/upload", body, {"Content-Type": KIND}).status == 403
    assert list(store.keys()) == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost"},
    ],
)
def test_right_form_from_another_site_is_refused(client, store, headers):
    put(store, "k")
    assert client.fill_in("/browse/delete?key=k", headers=headers).status == 403
    answer = client.fill_in("/browse/upload", {"key": "x"}, ("x", b""), headers)
    assert answer.status == 403
    assert list(store.keys()) == ["k"]


def test_form_from_our_own_page_is_taken(client, store):
    for headers in ({"Origin": "http://localhost"}, {"Sec-Fetch-Site": "same-origin"}):
        put(store, "k")
        assert client.fill_in("/browse/delete?key=k", headers=headers).status == 200


def test_token_is_of_one_user(store):
    put(store, "k")
    application = StoreApplication(store, lambda *user: True, browse=True)
    ann, bob = (PageClient(application, (name, "secret")) for name in ("ann", "bob"))
    fields = ann.page("/browse/delete?key=k").fields
    assert bob.submit("/browse/delete?key=k", fields).status == 403
    assert ann.submit("/browse/delete?key=k", fields).status == 200


def test_token_is_of_one_application_or_of_those_with_one_secret(store):
    def clients(*secrets):
        return [
            PageClient(StoreApplication(store, browse=True, secret=secret)) for secret in secrets
        ]

    put(store, "k")
    one, other = clients(None, None)
    fields = one.page("/browse/delete?key=k").fields
    assert other.submit("/browse/delete?key=k", fields).status == 403
    one, other = clients(b"same", b"same")
    fields = one.page("/browse/delete?key=k").fields
    assert other.submit("/browse/delete?key=k", fields).status == 200


def test_token_ends(client, store, monkeypatch):
    put(store, "k")
    fields = client.page("/browse/delete?key=k").fields
    now = _server_page_changes.time.time() + 12 * 3600 + 1
    monkeypatch.setattr(_server_page_changes.time, "time", lambda: now)
    assert client.submit("/browse/delete?key=k", fields).status == 403
    assert store.exists("k")


def test_token_cannot_be_changed():
    token = make_token(b"secret", "ann", 1000.0)
    assert is_valid(token, b"secret", "ann", 1000.0)
    assert is_valid(token, b"secret", "ann", 1000.0 + 12 * 3600 - 1)
    assert not is_valid(token, b"secret", "ann", 1000.0 + 12 * 3600)
    assert not is_valid(token, b"other", "ann", 1000.0)
    assert not is_valid(token, b"secret", None, 1000.0)
    assert not is_valid(make_token(b"secret", None, 0.0), b"secret", "nobody", 0.0)
    expires, _, signature = token.partition("-")
    later = f"{int(expires, 16) + 1:x}"
    changed = (
        f"{later}-{signature}",
        f"-{signature}",
        expires,
        f"{expires}-",
        f"{token}0",
        f"0{token}",
        token.upper(),
        "",
        "-",
        "\ud800-\ud800",
    )
    for each in changed:
        assert not is_valid(each, b"secret", "ann", 1000.0), each


def test_nothing_changes_by_get(client, store):
    put(store, "k", b"data")
    page = client.page("/browse/delete?key=k")
    token, etag = page.fields["token"], page.fields["etag"]
    before = store.get("k").etag
    for page in ("delete", "upload"):
        for query in (f"key=k&token={token}&etag={etag}", f"key=k&token={token}&overwrite=yes"):
            assert client.get(f"/browse/{page}?{query}").status == 200
            assert client("HEAD", f"/browse/{page}?{query}").status == 200
    assert store.get("k").etag == before


# The parser


class Slow:
    """Gives what there is in pieces of any size."""

    def __init__(self, data, sizes):
        self._stream = io.BytesIO(data)
        self._sizes = sizes

    def read(self, size):
        return self._stream.read(min(size, next(self._sizes)))


LIMITS = {"token": 100, "key": 100, "metadata": 1000}


def parse(data, sizes=None, kind=KIND, most=1 << 30):
    stream = io.BytesIO(data) if sizes is None else Slow(data, sizes)
    fields, file = read_form(kind, Body(stream, len(data), len(data)), LIMITS, most)
    return fields, None if file is None else (file.name, file.read())


@pytest.mark.parametrize("seed", range(30))
def test_any_data_in_any_pieces(seed):
    dice = random.Random(seed)
    delimiter = f"\r\n--{BOUNDARY}"
    traps = [delimiter[: dice.randrange(1, len(delimiter))] for _ in range(20)]
    traps += ["\r", "\n", "-", "\r\n", "--", "\r\n--", "x", delimiter[2:], delimiter[:-1] * 3]
    data = "".join(dice.choices(traps, k=dice.randrange(60))).encode()
    data = data.replace(delimiter.encode(), b"")
    body = multipart({"key": "k\r\n-", "metadata": "{}"}, ("x", data))
    sizes = iter(lambda: dice.choice((1, 1, 2, 3, 7, 50, 100)), None)
    expected = {"key": "k\r\n-", "metadata": "{}"}, ("x", data)
    assert parse(body, sizes) == expected
    assert parse(body) == expected


def test_file_can_be_read_in_pieces_of_any_size():
    data = bytes(range(256)) * 20
    body = multipart({"key": "k"}, ("x", data))
    for size in (1, 7, 256, 10_000, None):
        _, file = read_form(KIND, Body(io.BytesIO(body), len(body), len(body)), LIMITS, 1 << 30)
        assert file.read(0) == b""
        pieces = iter(lambda: file.read(size), b"")  # noqa: B023
        assert b"".join(pieces) == data
        assert file.read(size) == b""
        assert file.read() == b""


def test_kinds_of_browsers_and_programs():
    body = multipart({"key": "k"}, boundary="b'()+_,./:=?-0")
    for kind in (
        'multipart/form-data; boundary="b\'()+_,./:=?-0"',
        "Multipart/Form-Data;boundary=b'()+_,./:=?-0",
    ):
        assert parse(body, kind=kind) == ({"key": "k"}, None)


@pytest.mark.parametrize(
    "kind",
    [
        None,
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary=""',
        'multipart/form-data; boundary="' + BOUNDARY,
        "multipart/mixed; boundary=" + BOUNDARY,
        "multipart/form-data; boundary=" + "b" * 71,
        "multipart/form-data; boundary=ü",
        f"multipart/form-data; boundary={BOUNDARY}; boundary=x",
    ],
)
def test_kinds_that_are_none(kind):
    with pytest.raises(RequestError) as caught:
        parse(multipart({"key": "k"}), kind=kind)
    assert caught.value.status == 415


HEAD = 'Content-Disposition: form-data; name="key"'


@pytest.mark.parametrize(
    "body",
    [
        "",
        "--",
        f"--{BOUNDARY}",
        f"--{BOUNDARY}-",
        f"preamble\r\n--{BOUNDARY}--\r\n",
        f"\r\n--{BOUNDARY}--\r\n",
        f"--{BOUNDARY}x--\r\n",
        f"--{BOUNDARY} \r\n{HEAD}\r\n\r\nx\r\n--{BOUNDARY}--",
        f"--{BOUNDARY}\n{HEAD}\n\nx\n--{BOUNDARY}--",
        f"--{BOUNDARY}\r\n\r\nx\r\n--{BOUNDARY}--",
        f"--{BOUNDARY}\r\n{HEAD}\r\nx\r\n--{BOUNDARY}--",
        f"--{BOUNDARY}\r\n{HEAD}\r\n\r\nx",
        f"--{BOUNDARY}\r\n{HEAD}\r\n\r\nx\r\n--{BOUNDARY}",
        f"--{BOUNDARY}\r\n{HEAD}\r\n\r\nx\r\n--{BOUNDARY}x",
        f"--{BOUNDARY}\r\n{HEAD}\r\n{HEAD}\r\n\r\nx\r\n--{BOUNDARY}--",
        f"--{BOUNDARY}\r\n{HEAD}; name=b\r\n\r\nx\r\n--{BOUNDARY}--",
        f"--{BOUNDARY}\r\n{HEAD} rubbish\r\n\r\nx\r\n--{BOUNDARY}--",
        f"--{BOUNDARY}\r\nContent-Disposition: form-data\r\n\r\nx\r\n--{BOUNDARY}--",
        f"--{BOUNDARY}\r\nContent-Disposition: attachment; name=key\r\n\r\nx\r\n--{BOUNDARY}--",
        f"--{BOUNDARY}\r\nContent-Type: text/plain\r\n\r\nx\r\n--{BOUNDARY}--",
        f"--{BOUNDARY}\r\n{HEAD}\r\nContent-Transfer-Encoding: base64\r\n\r\nx\r\n--{BOUNDARY}--",
        f"--{BOUNDARY}\r\n{HEAD}\r\nrubbish\r\n\r\nx\r\n--{BOUNDARY}--",
        f"--{BOUNDARY}\r\n{HEAD}\r\n folded: x\r\n\r\nx\r\n--{BOUNDARY}--",
        f"--{BOUNDARY}\r\n{HEAD}\r\n\r\nx\r\n--{BOUNDARY}--\r\nepilogue",
        f"--{BOUNDARY}\r\n{HEAD}\r\n\r\nx\r\n--{BOUNDARY}--x",
        f"--{BOUNDARY}\r\n{HEAD}\r\nContent-Type: {'x' * 9000}\r\n\r\nx\r\n--{BOUNDARY}--",
        f"--{BOUNDARY}\r\n{HEAD}; filename=x\r\n\r\nx\r\n--{BOUNDARY}--",
        f"--{BOUNDARY}\r\n{HEAD}\r\n\r\nx\r\n--{BOUNDARY}\r\n{HEAD}\r\n\r\nx\r\n--{BOUNDARY}--",
        f"--{BOUNDARY}\r\n{HEAD.replace('key', 'none')}\r\n\r\nx\r\n--{BOUNDARY}--",
    ],
)
def test_what_is_no_form(body):
    with pytest.raises(RequestError) as caught:
        parse(body.encode())
    assert caught.value.status == 400


@pytest.mark.parametrize("where", ["field", "head"])
def test_form_that_is_no_utf_8(where):
    body = multipart({"key": "?"}, ("?", b""))
    at = body.index(b"?") if where == "field" else body.rindex(b"?")
    with pytest.raises(RequestError, match="UTF-8"):
        parse(body[:at] + b"\xff" + body[at + 1 :])


def test_little_is_read_of_a_form_without_end():
    # A head, or a field, that does not end.
    for start in (f"--{BOUNDARY}\r\n", f"--{BOUNDARY}\r\n{HEAD}\r\n\r\n"):
        body = Endless(start.encode(), 1 << 40, b"")
        with pytest.raises(RequestError) as caught:
            read_form(KIND, Body(body, body.size, body.size), LIMITS, 0)
        assert caught.value.status in (400, 413)
        assert body._missing > (1 << 40) - (1 << 20)


def test_form_with_a_file_where_there_is_none_to_be(client, store):
    put(store, "k")
    fields = client.page("/browse/delete?key=k").fields
    answer = client.submit("/browse/delete?key=k", fields, ("x", b"x" * 2_000_000))
    assert answer.status == 413
    assert store.exists("k")


def test_tokens_of_a_page_are_not_the_secret(client):
    text = client.get("/browse/upload").body.decode()
    token = re.search('name="token" value="(.*?)"', text)[1]
    assert client.application.secret.hex() not in text
    assert re.fullmatch("[0-9a-f]+-[0-9a-f]{64}", token)
