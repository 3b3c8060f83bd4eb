"""curl as a client of the server."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import subprocess
from types import SimpleNamespace
from urllib.parse import urljoin

import pytest
from certificates import Authority
from digest_gate import DigestGate
from peers import DEADLINE, program

from encore.events.event_manager import EventManager
from encore.storage._http_server import Server
from encore.storage.dict_memory_store import DictMemoryStore
from encore.storage.server import StoreApplication


class Answer:
    """What curl has printed: the last head with its body, all heads, and how it ended."""

    def __init__(self, done):
        self.code = done.returncode
        self.error = done.stderr.decode()
        self.heads, rest = [], done.stdout
        while match := re.match(rb"HTTP/1\.[01] (\d+) [^\r\n]*\r\n((?:[^\r\n]+\r\n)*)\r\n", rest):
            lines = match[2].decode("latin-1").splitlines()
            pairs = (line.split(": ", 1) for line in lines)
            headers = {name.lower(): value for name, value in pairs}
            self.heads.append((int(match[1]), headers))
            rest = rest[match.end() :]
        self.body = rest
        self.status, self.headers = self.heads[-1] if self.heads else (0, {})
        self.statuses = [status for status, _ in self.heads]

    def __repr__(self):
        return f"<{self.code} {self.error!r} {self.heads} {self.body[:200]!r}>"

    @property
    def json(self):
        assert self.headers["content-type"] == "application/json"
        return json.loads(self.body)


@pytest.fixture(scope="module")
def curl():
    """A function that runs curl, shows all heads, and returns what it has printed."""
    path = program("curl")

    def run(*arguments, stdin=b"", **options):
        # No configuration of the user's, and no proxy of the environment's.
        command = [path, "-q", "--noproxy", "*", "-sS", "-i", *map(str, arguments)]
        return Answer(
            subprocess.run(
                command, input=stdin, capture_output=True, timeout=DEADLINE, check=False, **options
            )
        )

    return run


@pytest.fixture(scope="module")
def served():
    """A server, with a store and its URL."""
    store = DictMemoryStore(event_manager=EventManager())
    store.connect()
    application = StoreApplication(store)
    bodies = []

    def record(environ, start_response):
        # Whether there is a length.
        bodies.append(environ.get("CONTENT_LENGTH"))
        return application(environ, start_response)

    with Server(record, port=0) as server:
        yield SimpleNamespace(store=store, url=server.url, bodies=bodies, port=server.port)


@pytest.fixture(autouse=True)
def _empty(served):
    yield
    for key in list(served.store.query_keys()):
        served.store.delete(key)


@pytest.fixture
def tale(served):
    served.store.set("tale/1", (io.BytesIO(b"0123456789"), {"hero": "Alibaba"}))
    return f"{served.url}keys/tale/1"


LARGE = 3 << 20


class TestUpload:
    @pytest.fixture
    def large(self, tmp_path):
        path = tmp_path / "large"
        path.write_bytes(os.urandom(LARGE))
        return path

    @pytest.mark.parametrize(
        ("options", "statuses"),
        [(["-H", "Expect: 100-continue"], [100, 201]), (["-H", "Expect:"], [201])],
    )
    def test_a_file(self, curl, served, large, options, statuses):
        answer = curl(*options, "-T", large, f"{served.url}keys/large/data")
        assert answer.statuses == statuses
        assert answer.json["created"] is True
        assert served.store.to_bytes("large") == large.read_bytes()
        assert served.bodies[-1] == str(LARGE)

    def test_by_form(self, curl, served):
        # Not what a form is, but what many write.
        answer = curl("-X", "PUT", "--data-binary", "text\n", f"{served.url}keys/a/data")
        assert answer.status == 201
        assert served.store.to_bytes("a") == b"text\n"

    def test_chunks_from_standard_input(self, curl, served, large):
        data = large.read_bytes()
        answer = curl("-T", "-", f"{served.url}keys/a/data", stdin=data)
        assert answer.status == 201
        assert served.store.to_bytes("a") == data
        assert served.bodies[-1] is None

    def test_nothing(self, curl, served):
        assert curl("-T", "/dev/null", f"{served.url}keys/a/data").status == 201
        assert curl("-T", "-", f"{served.url}keys/b/data").status == 201
        assert served.store.to_bytes("a") == served.store.to_bytes("b") == b""

    def test_over_what_is_there(self, curl, served, tale):
        answer = curl("-T", "-", f"{tale}/data", stdin=b"new")
        assert answer.status == 200
        assert answer.json["metadata"] == {"hero": "Alibaba"}
        answer = curl("-T", "-", "-H", "If-None-Match: *", f"{tale}/data", stdin=b"newer")
        assert (answer.status, answer.json["kind"]) == (412, "PreconditionError")
        assert served.store.to_bytes("tale/1") == b"new"

    def test_a_part_is_refused(self, curl, served, tale, large):
        # What -C does with -T: it sends a Content-Range.
        answer = curl("-C", "5", "-T", large, f"{tale}/data")
        assert answer.status == 400
        assert served.store.to_bytes("tale/1") == b"0123456789"

    def test_what_is_refused_is_not_sent(self, curl, served, large):
        with Server(StoreApplication(served.store, readonly=True), port=0) as server:
            answer = curl("-T", large, "-w", "%{size_upload}", f"{server.url}keys/large/data")
        assert answer.statuses == [403]
        assert answer.body.endswith(b"\n0") or answer.body.endswith(b"}0")
        assert not served.store.exists("large")

    def test_one_that_is_too_large(self, curl, served, large):
        with Server(StoreApplication(served.store, max_body=1000), port=0) as server:
            for expect in ("Expect: 100-continue", "Expect:"):
                answer = curl("-H", expect, "-T", large, f"{server.url}keys/large/data")
                assert answer.statuses == [413]
            answer = curl("-T", "-", f"{server.url}keys/large/data", stdin=bytes(LARGE))
            assert answer.status == 413
        assert not served.store.exists("large")

    def test_metadata(self, curl, served, tale):
        answer = curl("-X", "POST", "-d", '{"thieves": 40}', f"{tale}/metadata")
        assert answer.status == 200
        assert served.store.get_metadata("tale/1") == {"hero": "Alibaba", "thieves": 40}
        answer = curl("-X", "PUT", "-d", "{not json", f"{tale}/metadata")
        assert (answer.status, answer.json["kind"]) == (400, "ValueError")


class TestDownload:
    @pytest.mark.parametrize(
        ("wanted", "status", "body"),
        [
            ("2-4", 206, b"234"),
            ("7-", 206, b"789"),
            ("-3", 206, b"789"),
            ("5-100", 206, b"56789"),
            ("10-", 416, None),
            # Of several, all may be sent.
            ("0-1,4-5", 200, b"0123456789"),
        ],
    )
    def test_ranges(self, curl, tale, wanted, status, body):
        answer = curl("-r", wanted, f"{tale}/data")
        assert answer.status == status
        if body is not None:
            assert answer.body == body
        else:
            assert answer.headers["content-range"] == "bytes */10"

    def test_one_that_was_interrupted_goes_on(self, curl, served, tmp_path):
        data = os.urandom(300_000)
        served.store.set_data("large", io.BytesIO(data))
        url = f"{served.url}keys/large/data"
        target = tmp_path / "large"
        target.write_bytes(data[:100_000])
        answer = curl("--no-include", "-C", "-", "-o", target, "-w", "%{http_code}", url)
        assert answer.body == b"206"
        assert target.read_bytes() == data
        # There is nothing left.
        curl("--no-include", "-C", "-", "-o", target, url)
        assert target.read_bytes() == data

    def test_head(self, curl, served, tale):
        answer = curl("-I", f"{tale}/data")
        assert answer.status == 200
        assert answer.headers["content-length"] == "10"
        assert answer.headers["accept-ranges"] == "bytes"
        assert answer.headers["etag"]
        assert answer.body == b""
        assert curl("-I", f"{served.url}keys/none/data").status == 404

    def test_what_one_has_is_not_sent_again(self, curl, tale, tmp_path):
        known = tmp_path / "etag"
        options = ["--etag-save", known, "--etag-compare", known]
        if curl(*options, f"{tale}/data").code == 2:
            pytest.skip("this curl knows no --etag-compare")
        assert curl(*options, f"{tale}/data").status == 304

    def test_by_date(self, curl, tale, tmp_path):
        target = tmp_path / "target"
        curl("--no-include", "-R", "-o", target, f"{tale}/data")
        assert target.read_bytes() == b"0123456789"
        assert curl("-z", target, f"{tale}/data").status == 304

    def test_many_over_one_connection(self, curl, tale, served):
        urls = [
            f"{tale}/data",
            f"{tale}/metadata",
            f"{served.url}keys/none/data",
            f"{served.url}alive",
        ]
        answer = curl("--no-include", "-w", "[%{http_code} %{num_connects}]", *urls)
        assert re.findall(rb"\[(\d+ \d)\]", answer.body) == [b"200 1", b"200 0", b"404 0", b"200 0"]

    def test_the_index_is_compressed(self, curl, served, tale):
        plain = curl(f"{served.url}index.json")
        assert plain.json == {"tale/1": {"hero": "Alibaba"}}
        assert "content-encoding" not in plain.headers
        found = curl("--compressed", f"{served.url}index.json")
        assert found.headers["content-encoding"] == "gzip"
        assert found.json == plain.json
        raw = curl("-H", "Accept-Encoding: gzip", f"{served.url}index.json")
        assert json.loads(gzip.decompress(raw.body)) == plain.json

    def test_keys_page_by_page(self, curl, served):
        for number in range(5):
            served.store.from_bytes(f"k {number}", b"")
        pages, url = [], f"{served.url}keys?limit=2"
        while url:
            answer = curl(url)
            pages.append(answer.body.decode().splitlines())
            link = re.fullmatch(r'<(.*)>; rel="next"', answer.headers.get("link", ""))
            url = urljoin(url, link[1]) if link else None
        assert pages == [["k 0", "k 1"], ["k 2", "k 3"], ["k 4"]]

    def test_a_query(self, curl, served, tale):
        url = f"{served.url}query"
        answer = curl("-G", "--data-urlencode", 'hero="Alibaba"', url)
        assert (answer.status, answer.body) == (200, b"tale/1\n")
        answer = curl("-d", '{"where": {"hero": "Alibaba"}}', url)
        lines = answer.body.decode().splitlines()
        assert [json.loads(line) for line in lines] == [["tale/1", {"hero": "Alibaba"}], None]


def test_delete(curl, served, tale):
    answer = curl("-X", "DELETE", tale)
    assert (answer.status, answer.json["metadata"]) == (200, {"hero": "Alibaba"})
    assert not served.store.exists("tale/1")
    assert curl("-X", "DELETE", tale).status == 404


def test_wrong_methods(curl, served, tale):
    answer = curl("-X", "PATCH", f"{tale}/data")
    assert answer.status == 405
    assert "PUT" in answer.headers["allow"]
    assert curl("-X", "OPTIONS", f"{served.url}query").json["encore"] == 1
    assert curl("-X", "OPTIONS", "--request-target", "*", served.url).json["encore"] == 1
    assert curl("-X", "TRACE", served.url).status == 405


class TestHTTP10:
    def test_reading(self, curl, served, tale):
        answer = curl("--http1.0", f"{tale}/data")
        assert (answer.status, answer.body) == (200, b"0123456789")
        assert curl("--http1.0", "-r", "2-4", f"{tale}/data").body == b"234"
        # No chunks, though nobody knows the length.
        answer = curl("--http1.0", "-d", "{}", f"{served.url}query")
        assert answer.body.endswith(b"\nnull\n")
        assert "transfer-encoding" not in answer.headers

    def test_writing(self, curl, served, tmp_path):
        path = tmp_path / "data"
        path.write_bytes(bytes(LARGE))
        assert curl("--http1.0", "-T", path, f"{served.url}keys/a/data").statuses == [201]
        assert served.store.get("a").size == LARGE

    def test_no_host(self, curl, tale):
        assert curl("--http1.0", "-H", "Host:", f"{tale}/data").body == b"0123456789"
        assert curl("-H", "Host:", f"{tale}/data").status == 400


def test_another_protocol_is_not_taken_up(curl, tale):
    answer = curl("--http2", f"{tale}/data")
    if answer.code in (1, 2):
        pytest.skip("this curl has no HTTP/2")
    assert (answer.statuses, answer.body) == ([200], b"0123456789")


# Paths


@pytest.mark.parametrize(
    "path",
    [
        "/../../../../etc/passwd",
        "/keys/../../../../etc/passwd/data",
        "/keys/..%2f..%2f..%2fetc%2fpasswd/data",
        "/keys/%2e%2e/%2e%2e/etc/passwd/data",
        "/keys//etc/passwd/data",
        "/keys/%2Fetc%2Fpasswd/data",
        "/data/../../../../etc/passwd",
        "/data//etc/passwd",
        "/data/%2fetc%2fpasswd",
        "/data/..%5c..%5cwindows%5cwin.ini",
        "/data/file:%2f%2f%2fetc%2fpasswd",
        "//etc/passwd",
        "/./keys/./secret/data",
        "/keys/../data/secret",
        "/alive/../data/secret",
        "/data/./secret",
        "/data/x/../secret",
        "/%64ata%2fsecret%00",
    ],
)
def test_hostile_paths(curl, served, path):
    served.store.from_bytes("secret", b"the treasure")
    answer = curl("--path-as-is", served.url.rstrip("/") + path)
    # Each is another key, or none, or no path at all.
    assert answer.status in (400, 404, 405)
    assert b"treasure" not in answer.body
    assert b"root:" not in answer.body
    assert answer.json["kind"]


def test_what_curl_makes_of_a_path_is_the_key(curl, served):
    # Without --path-as-is it is curl that takes dots out.
    served.store.from_bytes("a", b"a")
    served.store.from_bytes("x/../a", b"another")
    url = f"{served.url}keys/x/../a/data"
    assert curl(url).body == b"a"
    assert curl("--path-as-is", url).body == b"another"


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("a%20b", "a b"),
        ("a+b", "a+b"),
        ("%C3%A9", "\u00e9"),
        ("\u00e9", "\u00e9"),
        ("..", ".."),
        ("%2e", "."),
        ("%252e", "%2e"),
        ("a//b", "a//b"),
        ("/", "/"),
        ("a%2Fb", "a/b"),
        ("a;b=c,d", "a;b=c,d"),
        ("a%3Fb%23c", "a?b#c"),
        ("%0d%0aSet-Cookie:%20a", "\r\nSet-Cookie: a"),
    ],
)
def test_keys(curl, served, path, key):
    url = f"{served.url}keys/{path}/data"
    assert curl("--path-as-is", "-T", "-", url, stdin=b"data").status == 201
    assert list(served.store.query_keys()) == [key]
    answer = curl("--path-as-is", url)
    assert answer.body == b"data"
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "path", ["%ff/data", "%C3/data", "%00%/data", "%zz/data", "%ED%A0%80/data"]
)
def test_paths_that_are_none(curl, served, path):
    assert curl("--path-as-is", f"{served.url}keys/{path}").status == 400


# Passwords


@pytest.fixture(scope="module")
def url(served):
    """That of a server that wants a password."""
    application = StoreApplication(served.store, lambda *login: login == ("\u00e9", "s: \u20ac"))
    with Server(application, port=0) as server:
        yield server.url


class TestBasic:
    def test_the_right_password(self, curl, url):
        assert curl("-u", "\u00e9:s: \u20ac", f"{url}about").status == 200
        # curl finds out which scheme there is.
        assert curl("--anyauth", "-u", "\u00e9:s: \u20ac", f"{url}about").statuses == [401, 200]

    @pytest.mark.parametrize("login", [[], ["-u", "\u00e9:"], ["-u", "e:s: \u20ac"], ["-u", ":"]])
    def test_no_other(self, curl, url, login):
        answer = curl(*login, f"{url}keys/a/data")
        assert answer.status == 401
        assert answer.headers["www-authenticate"].startswith("Basic realm=")
        assert answer.json["kind"] == "AuthorizationError"
        assert curl("-f", *login, f"{url}about").code == 22

    def test_an_upload_is_asked_for_again(self, curl, url, served, tmp_path):
        path = tmp_path / "data"
        path.write_bytes(bytes(LARGE))
        login = ["--anyauth", "-u", "\u00e9:s: \u20ac"]
        assert curl(*login, "-T", path, f"{url}keys/a/data").status == 201
        assert served.store.get("a").size == LARGE
        served.store.delete("a")
        assert curl("-T", path, f"{url}keys/a/data").statuses == [401]
        assert not served.store.exists("a")

    def test_health_needs_none(self, curl, url):
        assert curl(f"{url}alive").json == {"alive": True}


def test_digest(curl, served, tale):
    # It shows that the gate works, which our own client is tried with.
    for algorithm in ("MD5", "SHA-256"):
        with Server(DigestGate(StoreApplication(served.store), algorithm), port=0) as server:
            url = f"{server.url}keys/tale/1/data"
            assert curl("--digest", "-u", "alibaba:sesame", url).body == b"0123456789"
            assert curl("--digest", "-u", "alibaba:barley", url).status == 401


# TLS


def test_https(curl, served, tmp_path):
    authority = Authority(tmp_path)
    served.store.from_bytes("a", b"data")
    application = StoreApplication(served.store)
    with Server(application, port=0, ssl_context=authority.issue("server")) as server:
        url = f"{server.url}keys/a/data"
        assert curl(url).code == 60
        answer = curl("--cacert", authority.path, url, url)
        assert (answer.statuses[0], answer.code) == (200, 0)
        assert curl("--cacert", authority.path, "-T", "-", url, stdin=bytes(LARGE)).status == 200
        assert served.store.get("a").size == LARGE
        answer = curl(url.replace("https:", "http:"))
        assert (answer.status, answer.headers["upgrade"]) == (426, "TLS/1.2, HTTP/1.1")
        assert "HTTPS" in answer.json["error"]
