"""The pages for people: what they show, and what protects them. Forms are in test_server_pages_forms.py."""

import base64
import hashlib
import io
import json
import re
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from page_client import PageClient

from encore._cli.text import value_of
from encore.events.event_manager import EventManager
from encore.storage import _server_page_list
from encore.storage._server_page_list import parse_criteria
from encore.storage._server_page_markup import Html, element, escape, join
from encore.storage._server_page_text import (
    exact_size,
    pretty,
    readable,
    short_size,
    shown_key,
    utc,
)
from encore.storage.abstract_store import AbstractReadOnlyStore
from encore.storage.dict_memory_store import DictMemoryStore
from encore.storage.errors import AuthorizationError, IntegrityError, StoreError
from encore.storage.prefix_store import PrefixStore
from encore.storage.read_only_store import ReadOnlyStore
from encore.storage.server import StoreApplication
from encore.storage.string_value import StringValue
from encore.storage.value import Value

HOSTILE = [
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "</title></style></textarea></pre>",
    "&lt;b&gt; &amp;",
    "..",
    "//evil.example/",
    "javascript:alert(1)",
    "nul\x00 cr\r lf\n tab\t esc\x1b",
    "\u202egpj.exe",
    " both ends ",
    "k" * 1024,
    "\U0010ffff\ufffe",
    "?a=b&c=d#e;f+g%41",
]


@pytest.fixture
def store():
    store = DictMemoryStore(event_manager=EventManager())
    store.connect()
    return store


@pytest.fixture
def client(store):
    return PageClient(StoreApplication(store, browse=True))


def put(store, key, data=b"", **metadata):
    store.set(key, (io.BytesIO(data), metadata))


def url(page, key):
    return f"/browse/{page}?key={quote(key, safe='')}"


# Protection


def paths(key):
    return ["/", "/browse", "/browse/upload", url("key", key), url("delete", key), "/browse/none"]


def test_headers_let_nothing_in(client, store):
    put(store, "k")
    for path in paths("k"):
        answer = client.get(path)
        assert answer["x-content-type-options"] == "nosniff"
        assert answer["cross-origin-opener-policy"] == "same-origin"
        assert answer["cross-origin-resource-policy"] == "same-origin"
        assert answer["x-frame-options"] == "DENY"
        assert answer["cache-control"] == "no-store"
        # Not no-referrer: our own forms would come from "null".
        assert answer["referrer-policy"] == "same-origin"
        policy = dict(each.split(" ", 1) for each in answer["content-security-policy"].split("; "))
        (style,) = re.findall(r"<style>(.*?)</style>", answer.body.decode(), re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        assert policy == {
            "default-src": "'none'",
            "style-src": f"'sha256-{digest}'",
            "form-action": "'self'",
            "frame-ancestors": "'none'",
            "base-uri": "'none'",
        }
        assert len(answer.all_headers) == len(answer.headers)


@pytest.mark.parametrize("key", HOSTILE)
def test_hostile_key_is_text_everywhere(client, store, key):
    put(store, key, b"data", **{key: [key, {key: key}]})
    tags = set()
    for path in (*paths(key), url("upload", key), f"/?prefix={quote(key)}&where={quote(key)}%3D1"):
        page = client.page(path)
        tags.update(page.tags)
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e]", page.text)
        for link in (*page.links, *(form["action"] for form in page.forms)):
            # Of this server, and nothing that a browser would make another path of.
            assert re.fullmatch(r"/browse(/[a-z]+)?(\?[\w.~%&=-]*)?", link, re.ASCII), link
            given = parse_qs(urlsplit(link).query).get("key", [key])
            assert given == [key]
    known = (
        "html head meta title style body header strong span nav a main h1 h2 form div label input"
    )
    known += " p code button table caption thead tr th tbody td time bdi dl dt dd pre textarea"
    assert tags <= set(known.split())
    assert client.page(url("key", key)).status == 200
    assert client.get(url("download", key)).body == b"data"


def test_no_page_has_a_script_a_style_of_its_own_or_anything_from_elsewhere(client, store):
    put(store, "k")
    for path in paths("k"):
        text = client.get(path).body.decode()
        assert not re.search(r"<script|\son\w+=|\sstyle=|https?:|\ssrc=|url\(|@import", text)


def test_without_browse_there_are_no_pages(store):
    client = PageClient(StoreApplication(store))
    assert client.get("/")["content-type"] == "application/json"
    assert client.get("/browse").status == 404
    assert client.get("/browse", {"Accept": "text/html"})["content-type"] == "application/json"


def test_other_paths_stay_as_they_are(client, store):
    put(store, "k", b"data")
    assert client.get("/about")["content-type"] == "application/json"
    assert client("OPTIONS", "/")["content-type"] == "application/json"
    assert client.get("/keys/k/data").body == b"data"


@pytest.mark.parametrize("path", ["/", "/browse", "/browse/key?key=k", "/browse/download?key=k"])
def test_what_does_not_take_a_form_refuses_it(client, store, path):
    put(store, "k")
    answer = client.submit(path, {})
    assert (answer.status, answer["allow"]) == (405, "GET, HEAD, OPTIONS")
    assert store.exists("k")


def test_head_is_like_get_without_a_body(client, store):
    put(store, "k")
    for path in (*paths("k"), url("download", "k")):
        got, head = client.get(path), client("HEAD", path)
        assert (head.status, head.body) == (got.status, b"")
        assert head["content-length"] == str(len(got.body))


def test_application_may_be_mounted_below_another_path(store):
    put(store, "k")
    client = PageClient(StoreApplication(store, browse=True))
    page = client.page("/", SCRIPT_NAME="/a b")
    assert page.links[:2] == ["/a%20b/browse", "/a%20b/browse/upload"]
    assert page.forms[0]["action"] == "/a%20b/browse"
    # Not that of another host.
    assert client.page("/", SCRIPT_NAME="//evil.example").links[0] == "/evil.example/browse"


# The list


def keys_on(page):
    return page.cells[3::3]


def test_empty_list(client):
    page = client.page("/")
    assert "There are no keys yet." in page.text
    assert "table" not in page.tags


def test_list_shows_size_and_time(client, store):
    put(store, "a", b"x" * 1500)
    put(store, "b")
    page = client.page("/browse")
    modified = store.get("a").modified
    assert page.cells[:3] == ["Key", "Size", "Modified"]
    assert page.cells[3:5] == ["a", "1.5 KiB"]
    assert page.cells[5] == re.sub("<.*?>", "", utc(modified))
    assert "2 keys" in page.text
    assert 'title="1.5 KiB (1,500 bytes)"' in page.answer.body.decode()
    assert url("key", "a") in page.links


def test_pages_hold_a_hundred_keys(client, store):
    for number in range(250):
        put(store, f"{number:03}/ü")
    seen, target, pages = [], "/?prefix=", 0
    while target:
        page = client.page(target)
        seen += keys_on(page)
        pages += 1
        target = next((link for link in page.links if "after=" in link), None)
    assert seen == [f"{number:03}/ü" for number in range(250)]
    assert pages == 3
    assert "/browse" in page.links
    assert "50 keys behind 199/ü" in page.text
    assert "there are more" in client.page("/").text


def test_exactly_one_page(client, store):
    for number in range(100):
        put(store, f"{number:03}")
    page = client.page("/")
    assert len(keys_on(page)) == 100
    assert not [link for link in page.links if "after=" in link]
    assert "no keys behind this one" in client.page("/?after=099").text


def test_list_asks_the_store_for_one_page(store):
    asked = []

    class Store(DictMemoryStore):
        def keys(self, prefix="", start_after=None, limit=None):
            asked.append((prefix, start_after, limit))
            return super().keys(prefix, start_after, limit)

    store = Store(event_manager=EventManager())
    store.connect()
    PageClient(StoreApplication(store, browse=True)).page("/?prefix=p&after=q")
    assert asked == [("p", "q", 101)]


def test_prefix(client, store):
    for key in ("a/1", "a/2", "b/1"):
        put(store, key)
    page = client.page("/browse?prefix=a/")
    assert keys_on(page) == ["a/1", "a/2"]
    assert page.fields["prefix"] == "a/"
    assert "No key is like this" in client.page("/browse?prefix=x").text


def test_search_by_metadata(client, store):
    put(store, "int", n=1, s="x y")
    put(store, "float", n=1.0)
    put(store, "text", n="1")
    put(store, "none", n=None)
    assert keys_on(client.page("/?where=n%3D1")) == ["float", "int"]
    assert keys_on(client.page("/?where=n%3D%221%22")) == ["text"]
    assert keys_on(client.page("/?where=n%3Dnull&where=")) == ["none"]
    page = client.page("/?where=n%3D1&where=s%3Dx+y&where=")
    assert keys_on(page) == ["int"]
    # What was asked for stands there still, and one field is empty.
    body = page.answer.body.decode()
    assert re.findall(r'name="where"(?: value="(.*?)")?', body) == ["n=1", "s=x y", ""]
    assert keys_on(client.page("/?where=n%3D1&prefix=i")) == ["int"]


def test_search_has_pages(client, store):
    for number in range(230):
        put(store, f"{number:03}", even=number % 2 == 0, a="<&>")
    seen, target = [], "/?where=even%3Dtrue&where=a%3D%3C%26%3E&prefix="
    while target:
        page = client.page(target)
        seen += keys_on(page)
        target = next((link for link in page.links if "after=" in link), None)
    assert seen == [f"{number:03}" for number in range(0, 230, 2)]


@pytest.mark.parametrize(
    "text",
    [
        "1",
        "1.0",
        "true",
        "null",
        '"x"',
        "x",
        "",
        " 1 ",
        "[1, {}]",
        "NaN",
        "1e999",
        "[" * 9999,
        "a=b",
    ],
)
def test_values_are_read_as_on_the_command_line(text):
    try:
        assert parse_criteria([f"n={text}"]) == {"n": value_of(text)}
    except ValueError:
        # An infinity, which no metadata have.
        assert value_of(text) == float("inf")


@pytest.mark.parametrize(
    "where", ["no-equals", "a%3D1&where=a%3D2", "a%3D1e999", "%E2%80%AE", "a%3D%22%5Cud800%22"]
)
def test_wrong_criteria_are_answered_on_the_list(client, store, where):
    put(store, "k")
    page = client.page(f"/?prefix=p&where={where}")
    assert page.status == 400
    assert page.fields["prefix"] == "p"
    assert "table" not in page.tags
    assert "\u202e" not in page.text


def test_slow_store_does_not_keep_the_list_waiting(client, store, monkeypatch):
    for number in range(10):
        put(store, str(number), b"data")
    clock = iter(number / 10 for number in range(100))
    monkeypatch.setattr(_server_page_list, "monotonic", lambda: next(clock))
    page = client.page("/")
    assert len(keys_on(page)) == 10
    assert [cell == "-" for cell in page.cells[4::3]] == [False] * 4 + [True] * 6


@pytest.mark.parametrize("error", [KeyError("k"), StoreError("/secret"), AuthorizationError("no")])
def test_key_that_cannot_be_looked_at_is_listed(store, error):
    class Store(DictMemoryStore):
        def get(self, key):
            raise error

    store = Store(event_manager=EventManager())
    store.connect()
    put(store, "k")
    page = PageClient(StoreApplication(store, browse=True)).page("/")
    assert page.cells[3:] == ["k", "-", "-"]


# A key


def test_key_page(client, store):
    put(store, "a/ü", b"x" * 1468006, author="Ünal", tags=["a", None], deep={"n": 1.5})
    page = client.page(url("key", "a/ü"))
    value = store.get("a/ü")
    assert "1.4 MiB (1,468,006 bytes)" in page.text
    assert value.etag in page.text
    pre = re.search(r"<pre[^>]*>(.*?)</pre>", page.answer.body.decode(), re.DOTALL)[1]
    text = re.sub("</?bdi>", "", pre).replace("&quot;", '"')
    assert json.loads(text) == value.metadata
    assert '  "author": "Ünal"' in text
    for name in ("download", "delete", "upload"):
        assert url(name, "a/ü") in page.links


def test_key_page_of_what_is_hardly_known(client):
    class Unknown(Value):
        data = io.BytesIO()

        @property
        def metadata(self):
            raise IntegrityError("damaged")

    class Store(DictMemoryStore):
        def get(self, key):
            return Unknown()

    store = Store(event_manager=EventManager())
    store.connect()
    page = PageClient(StoreApplication(store, browse=True)).page("/browse/key?key=k")
    assert page.status == 200
    assert "Sizeunknown" in page.text
    assert "The metadata are damaged." in page.text
    assert "ETag" not in page.text


def test_metadata_of_any_size_do_not_make_a_page_of_any_size(client, store):
    put(store, "k", text="<" * 1_000_000)
    page = client.page(url("key", "k"))
    assert len(page.answer.body) < 500_000
    assert "This is the beginning; there are 1,000," in page.text


def test_missing_key(client):
    page = client.page(url("key", "a\u202e/ü"))
    assert page.status == 404
    assert "There is no key a\\u202e/ü" in page.text


@pytest.mark.parametrize("key", ["", "x" * 1025])
def test_what_is_no_key(client, key):
    assert client.page(url("key", key)).status == 400


@pytest.mark.parametrize("query", ["key=%FF", "key=\xff", "&".join(["a=b"] * 60)])
def test_query_that_is_none(client, query):
    assert client.page(f"/browse/key?{query}").status == 400


# Download


def test_download_is_never_shown(client, store):
    put(store, 'pages/ü "x".html', b"<script>", type="text/html")
    put(store, "image", b"GIF", type="image/gif")
    answer = client.get(url("download", 'pages/ü "x".html'))
    assert answer.body == b"<script>"
    assert answer["content-type"] == "application/octet-stream"
    assert answer["content-disposition"] == (
        "attachment; filename=\"_ _x_.html\"; filename*=UTF-8''%C3%BC%20_x_.html"
    )
    assert answer["content-security-policy"] == "default-src 'none'; sandbox"
    assert len(answer.all_headers) == len(answer.headers)
    answer = client.get(url("download", "image"))
    assert answer["content-type"] == "application/octet-stream"
    assert answer["content-disposition"].startswith("attachment;")


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("a/b.txt", "b.txt"),
        ("a/..", "data"),
        (".", "data"),
        ("a/", "data"),
        ("a\\b", "a_b"),
        ("x\u202egpj.exe", "x_gpj.exe"),
        ("a\r\nSet-Cookie: b", "a__Set-Cookie_ b"),
        ("c:con|<>?*", "c_con_____"),
        ("100%", "100%"),
    ],
)
def test_name_of_a_download(client, store, key, name):
    put(store, key)
    header = client.get(url("download", key))["content-disposition"]
    plain = name.replace("%", "_")
    assert header == f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def test_download_goes_on_where_it_has_stopped(client, store):
    put(store, "k", b"0123456789")
    whole = client.get(url("download", "k"))
    part = client.get(url("download", "k"), {"Range": "bytes=4-", "If-Range": whole["etag"]})
    assert (part.status, part.body) == (206, b"456789")
    assert part["content-disposition"] == whole["content-disposition"]
    assert client.get(url("download", "k"), {"If-None-Match": whole["etag"]}).status == 304


# Who may do what


def test_read_only_pages(store):
    put(store, "k")
    secret = b"of all"
    writable = PageClient(StoreApplication(store, browse=True, secret=secret))
    fields = writable.page(url("delete", "k")).fields
    for application in (
        StoreApplication(store, readonly=True, browse=True, secret=secret),
        StoreApplication(ReadOnlyStore(store), browse=True, secret=secret),
    ):
        client = PageClient(application)
        for path in ("/", url("key", "k")):
            page = client.page(path)
            assert page.status == 200
            assert not [link for link in page.links if "upload" in link or "delete" in link]
        for path in ("/browse/upload", url("upload", "k"), url("delete", "k")):
            assert client.page(path).status == 403
            file = ("x", b"") if "upload" in path else None
            assert client.submit(path, fields, file).status == 403
    assert store.exists("k")
    assert writable.submit(url("delete", "k"), fields).status == 200


def test_users_see_what_is_theirs(store):
    put(store, "ann/one")
    put(store, "bob/two")

    def view(whole, user):
        seen = PrefixStore(whole, f"{user}/")
        return ReadOnlyStore(seen) if user == "bob" else seen

    application = StoreApplication(store, lambda *user: True, browse=True, view=view)
    page = PageClient(application, ("ann", "secret")).page("/")
    assert keys_on(page) == ["one"]
    assert "logged in as ann" in page.text
    assert "/browse/upload" in page.links
    page = PageClient(application, ("bob", "secret")).page("/")
    assert keys_on(page) == ["two"]
    assert "/browse/upload" not in page.links
    page = PageClient(application, ("<b>\u202e", "secret")).page("/")
    assert "logged in as <b>\\u202e" in page.text
    page = PageClient(application).page("/")
    assert page.status == 401
    assert page.answer["www-authenticate"].startswith("Basic ")
    assert "logged in" not in page.text


# Errors


def test_errors_are_pages_for_browsers_only(client):
    accept = "text/html,application/xhtml+xml,*/*;q=0.8"
    assert client.page("/keys/none/data", {"Accept": accept}).status == 404
    assert client.page("/nothing", {"Accept": accept}).status == 404
    assert client.get("/nothing")["content-type"] == "application/json"
    assert client.page("/browse/nothing").status == 404
    page = client.page("/browse/key")
    assert (page.status, page.answer["cache-control"]) == (400, "no-store")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (StoreError("/secret/path"), 500),
        (RuntimeError("/secret"), 500),
        (AuthorizationError(), 403),
    ],
)
def test_error_of_a_store_tells_no_secret(error, status):
    class Store(DictMemoryStore):
        def keys(self, *args):
            raise error

    store = Store(event_manager=EventManager())
    store.connect()
    page = PageClient(StoreApplication(store, browse=True)).page("/")
    assert page.status == status
    assert "secret" not in page.text
    assert "Traceback" not in page.text


def test_store_of_08_can_be_looked_at():
    class Store(AbstractReadOnlyStore):
        def get(self, key):
            return StringValue(b"data", {"n": 1})

        def query(self, select=None, **kwargs):
            return iter([("k", {"n": 1})])

    page = PageClient(StoreApplication(Store(event_manager=EventManager()), browse=True)).page("/")
    assert keys_on(page) == ["k"]


# Texts


def test_everything_is_escaped_that_is_not_html():
    assert escape("<&>\"'") == "&lt;&amp;&gt;&quot;&#39;"
    assert escape(Html("<b>")) == "<b>"
    assert join("<", None, ["&", (Html("<i>"),)]) == "&lt;&amp;<i>"
    assert element("a", "<", href='"', hidden=True, id=None, for_="x", aria_label="y") == (
        '<a href="&quot;" hidden for="x" aria-label="y">&lt;</a>'
    )
    assert element("input", name="n", tag="t") == '<input name="n" tag="t">'


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("plain/key-1.txt", "plain/key-1.txt"),
        ("a b", "a b"),
        (" a  b ", "[\\x20]a [\\x20]b[\\x20]"),
        (" ", "[\\x20]"),
        ("a\nb\x00\x7f", "a[\\n]b[\\x00\\x7f]"),
        ("back\\n", "back[\\\\]n"),
        ("\u202eabc\u2066", "[\\u202e]abc[\\u2066]"),
        ("\u200b\ufeff\u00ad\u00a0", "[\\u200b\\ufeff\\xad\\xa0]"),
        ("a\u3164b\u2800\ufe0f\U000e0100", "a[\\u3164]b[\\u2800\\ufe0f\\U000e0100]"),
        ("\u0301a\u0301", "[\\u0301]a\u0301"),
        ("\n\u0301", "[\\n\\u0301]"),
        ("שלום", "שלום"),
        ("😀", "😀"),
        ("<b>", "&lt;b&gt;"),
    ],
)
def test_key_is_shown_as_it_is(key, text):
    html = shown_key(key)
    assert html.startswith('<bdi class="key">')
    inner = html.removeprefix('<bdi class="key">').removesuffix("</bdi>")
    assert inner.replace('<span class="escape">', "[").replace("</span>", "]") == text


def test_two_keys_never_look_alike():
    keys = ["a b", "a  b", "a b ", "a\\x20b", "a\tb", "a\\tb", "a\u00a0b", "a\u2003b", "a\u200bb"]
    assert len({readable(key) for key in keys}) == len(keys)


def test_title_is_short():
    assert readable("x" * 1000) == "x" * 100 + "…"
    assert readable("\n" * 100) == "\\n" * 50 + "…"


@pytest.mark.parametrize(
    ("size", "short", "exact"),
    [
        (None, "unknown", "unknown"),
        (0, "0 bytes", "0 bytes"),
        (1, "1 byte", "1 byte"),
        (1023, "1023 bytes", "1023 bytes"),
        (1024, "1.0 KiB", "1.0 KiB (1,024 bytes)"),
        (1024**2 - 1, "1.0 MiB", "1.0 MiB (1,048,575 bytes)"),
        (5 * 1024**3, "5.0 GiB", "5.0 GiB (5,368,709,120 bytes)"),
        (2**63 - 1, "8.0 EiB", "8.0 EiB (9,223,372,036,854,775,807 bytes)"),
    ],
)
def test_sizes(size, short, exact):
    assert (short_size(size), exact_size(size)) == (short, exact)


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (0, '<time datetime="1970-01-01T00:00:00Z">1970-01-01 00:00:00 UTC</time>'),
        (1.9, '<time datetime="1970-01-01T00:00:01Z">1970-01-01 00:00:01 UTC</time>'),
        (None, "unknown"),
        (1e300, "unknown"),
        (float("inf"), "unknown"),
        (-1e11, "unknown"),
    ],
)
def test_times(moment, text):
    assert utc(moment) == text


def test_metadata_stay_json_that_can_be_read():
    metadata = {"a": "\u202e\x00\n\x7f", "😀\U000e0100": ['"', "\\", "ש"], "n": [1, None, True]}
    html, size = pretty(metadata, 10_000)
    text = re.sub("</?bdi>", "", html).replace("&quot;", '"')
    assert size == len(json.dumps(metadata, ensure_ascii=False, indent=2))
    assert json.loads(text) == metadata
    assert all(line.isprintable() for line in text.split("\n"))
    assert "<bdi>&quot;ש&quot;</bdi>" in html
    assert pretty({"a": "\ud800"}, 100)[0].isascii()
    assert pretty({"a": float("nan")}, 100)[0]


def test_metadata_are_cut():
    html, size = pretty({"a": "<" * 1000}, 100)
    assert size > 1000
    assert len(html) < 500
