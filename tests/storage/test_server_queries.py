"""Finding keys through the server: GET and POST of /query, pages of /keys."""

import json
from urllib.parse import parse_qs, quote, urlencode

import pytest
from served_stores import FailingStore, OldStore, memory
from wsgi_client import WSGIClient

from encore.storage.errors import StoreError, TemporaryError
from encore.storage.server import StoreApplication

CONTENTS = {
    "a/1": (b"", {"n": 1, "kind": "x"}),
    "a/2": (b"", {"n": 2, "kind": "x", "select": 1}),
    "b/1": (b"", {"n": 1.0, "kind": None}),
    "b/2": (b"", {"where": True}),
    "\U0001f600": (b"", {}),
}


@pytest.fixture(params=[memory, OldStore])
def get(request):
    return WSGIClient(StoreApplication(request.param(**CONTENTS)))


# As in EnCore 0.8


@pytest.mark.parametrize(
    ("criteria", "expected"),
    [
        ({}, set(CONTENTS)),
        ({"n": "1"}, {"a/1", "b/1"}),
        ({"n": " 1.0 "}, {"a/1", "b/1"}),
        ({"n": "true"}, set()),
        ({"kind": '"x"'}, {"a/1", "a/2"}),
        ({"kind": "null"}, {"b/1"}),
        ({"kind": '"x"', "n": "2"}, {"a/2"}),
        ({"select": "1"}, {"a/2"}),
        ({"where": "true"}, {"b/2"}),
        ({"self": "1"}, set()),
        ({"": "1"}, set()),
        ({"odd name & more": '"a+b %"'}, set()),
    ],
)
def test_a_query_answers_line_by_line(get, criteria, expected):
    answer = get.get(f"/query?{urlencode(criteria)}")
    assert (answer.status, answer["Content-Type"]) == (200, "text/plain; charset=utf-8")
    assert set(answer.body.decode().split("\n")) - {""} == expected


def test_a_name_that_is_there_twice_must_have_one_value(get):
    assert get.get("/query?n=1&n=1.0").body.count(b"\n") == 2
    assert get.get("/query?n=1&n=2").body == b""


@pytest.mark.parametrize(
    "query", ["n", "n=", "n=x", "n=NaN", "n=1&m=[", "n=%ff", f"n={'[' * 5000}", "n=1e999", "n='x'"]
)
def test_criteria_that_are_no_json_are_refused(get, query):
    answer = get.get(f"/query?{query}")
    assert (answer.status, answer.json["kind"]) == (400, "ValueError")


def test_a_criterion_that_is_no_json_is_named(get):
    answer = get.get("/query?n=1&type=image/jpeg")
    assert answer.status == 400
    assert answer.json["error"].startswith("'type': this is no JSON; a text stands in quotes")


def test_many_criteria_take_no_long_time(get):
    query = "&".join(f"n{i}=1" for i in range(5000))
    assert get.get(f"/query?{query}").body == b""


@pytest.mark.parametrize("key", ["a\nb", "a\r", "\n", "a\u2028b", "a\x0bb", "\x85", "a\x1cb"])
def test_keys_with_line_breaks_are_listed_in_json_only(key):
    get = WSGIClient(StoreApplication(memory(**{"k": b"", key: b""})))
    for target in ("/query", "/keys"):
        answer = get.get(target)
        assert answer.status == 406
        assert "POST" in answer.json["error"]
    assert get.get("/keys?limit=1&prefix=k").status == 200
    assert {line[0] for line in get.post("/query", {}).lines[:-1]} == {"k", key}


# By POST


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, ["a/1", "a/2", "b/1", "b/2", "\U0001f600"]),
        ({"where": {"n": 1}}, ["a/1", "b/1"]),
        ({"where": {"kind": None}}, ["b/1"]),
        ({"where": {"select": 1}}, ["a/2"]),
        ({"where": {"where": True}}, ["b/2"]),
        ({"where": None, "select": None, "prefix": None, "glob": None, "limit": None}, None),
        ({"prefix": "a/"}, ["a/1", "a/2"]),
        ({"prefix": "a/", "where": {"n": 2}}, ["a/2"]),
        ({"start_after": "a/2"}, ["b/1", "b/2", "\U0001f600"]),
        ({"start_after": "a/2", "limit": 1}, ["b/1"]),
        ({"limit": 0}, []),
        ({"limit": 3}, ["a/1", "a/2", "b/1"]),
        ({"limit": 3, "where": {"n": 1}}, ["a/1", "b/1"]),
        ({"limit": 1, "where": {"n": 1}}, ["a/1"]),
        ({"limit": 1, "where": {"n": 1}, "start_after": "a/1"}, ["b/1"]),
        ({"glob": "*/1"}, ["a/1", "b/1"]),
        ({"glob": "*/1", "limit": 1, "start_after": "a/1"}, ["b/1"]),
        ({"glob": "*/2", "prefix": "b"}, ["b/2"]),
        ({"glob": "*/1", "where": {"kind": "x"}}, ["a/1"]),
        ({"glob": ""}, []),
        ({"glob": "[!a]*"}, ["b/1", "b/2", "\U0001f600"]),
    ],
    ids=json.dumps,
)
def test_a_posted_query_answers_in_lines_of_json(get, query, expected):
    expected = sorted(CONTENTS) if expected is None else expected
    answer = get.post("/query", query)
    assert (answer.status, answer["Content-Type"]) == (200, "application/x-ndjson")
    *items, end = answer.lines
    assert end is None
    is_sorted = query.keys() & {"prefix", "start_after", "limit"} and any(query.values())
    found = items if is_sorted else sorted(items)
    assert found == [[key, CONTENTS[key][1]] for key in expected]
    *keys, end = get.post("/query", {**query, "keys_only": True}).lines
    assert (keys if is_sorted else sorted(keys), end) == (expected, None)


@pytest.mark.parametrize(
    "more", [{}, {"where": {"n": 1}}, {"prefix": "a"}, {"where": {"where": 1}}]
)
def test_only_what_is_selected_is_sent(get, more):
    *items, _ = get.post("/query", {"select": ["kind", "kind", "no"], **more}).lines
    for key, metadata in items:
        known = CONTENTS[key][1]
        assert metadata == ({"kind": known["kind"]} if "kind" in known else {})
    *items, _ = get.post("/query", {"select": []}).lines
    assert all(metadata == {} for _, metadata in items)


@pytest.mark.parametrize(
    "query",
    [
        *([], None, 1, "text", {"unknown": 1}, {"where": []}, {"where": "n=1"}, {"select": "n"}),
        *({"select": [1]}, {"keys_only": 1}, {"prefix": 1}, {"start_after": 1}, {"limit": -1}),
        *({"limit": True}, {"limit": 1.5}, {"limit": "1"}, {"glob": 1}, {"glob": ["a"]}),
    ],
    ids=json.dumps,
)
def test_what_is_no_query_is_refused(get, query):
    answer = get.post("/query", json.dumps(query).encode())
    assert answer.status == 400
    assert answer.json["kind"] in ("ValueError", "TypeError")


def test_a_query_with_no_body_is_refused(get):
    assert get.post("/query").status == 400


def test_many_keys_are_streamed():
    store = memory(**{f"key {i:05}": (b"", {"n": i}) for i in range(9000)})
    answer = WSGIClient(StoreApplication(store)).post("/query", {"limit": 9000})
    assert "Content-Length" not in answer
    chunks = [len(chunk) for chunk in answer.chunks]
    answer.close()
    assert len(chunks) > 2
    assert max(chunks) < 2**17
    few = WSGIClient(StoreApplication(store)).post("/query", {"limit": 2})
    assert int(few["Content-Length"]) == len(few.body)


def test_a_store_that_fails_on_the_way_breaks_the_answer():
    class Failing(FailingStore):
        def query(self, /, select=None, *, where=None, **kwargs):
            for i in range(10_000):
                yield f"key {i}", {}
            raise StoreError("failed")

    answer = WSGIClient(StoreApplication(Failing())).post("/query", {})
    assert answer.status == 200
    with pytest.raises(StoreError):
        answer.body  # noqa: B018


def test_a_search_that_nobody_waits_for_ends():
    class Watched(FailingStore):
        def query(self, /, select=None, *, where=None, **kwargs):
            try:
                for i in range(100_000):
                    yield f"key {i}", {}
            finally:
                ended.append(True)

    ended = []
    answer = WSGIClient(StoreApplication(Watched())).post("/query", {})
    next(answer.chunks)
    assert ended == []
    answer.close()
    assert ended == [True]


def test_metadata_that_are_no_json_hide_no_others():
    class Odd(FailingStore):
        def query(self, /, select=None, *, where=None, **kwargs):
            yield "odd", {"n": float("inf")}
            yield "k", {"n": 1}

    get = WSGIClient(StoreApplication(Odd()))
    assert get.post("/query", {}).lines == [["k", {"n": 1}], None]
    assert get.get("/index.json").json == {"k": {"n": 1}}


class Losing(FailingStore):
    """A store in which something happens between the listing and the reading of `b`."""

    def __init__(self, error):
        super().__init__(store=memory(a=b"", b=b"", c=b"", d=b""))
        self.lost = error

    def get_metadata(self, key, select=None):
        if key == "b":
            raise self.lost
        return super().get_metadata(key, select)


@pytest.mark.parametrize("error", [KeyError("b"), StoreError("damaged", key="b")])
def test_a_key_that_is_lost_does_not_make_a_page_the_last(error):
    get = WSGIClient(StoreApplication(Losing(error)))
    for query in ({"limit": 2}, {"limit": 2, "glob": "*"}):
        assert get.post("/query", query).lines == [["a", {}], ["c", {}], None]
    assert get.post("/query", {"limit": 9}).lines == [["a", {}], ["c", {}], ["d", {}], None]
    assert get.post("/query", {"prefix": ""}).lines[-1] is None


@pytest.mark.parametrize(
    ("error", "status"), [(StoreError("not connected"), 500), (TemporaryError(key="b"), 503)]
)
def test_a_store_that_fails_does_not_look_empty(error, status):
    get = WSGIClient(StoreApplication(Losing(error)))
    assert get.post("/query", {"limit": 2}).status == status


# Page by page


def test_keys_are_listed_page_by_page(get):
    target, found, pages = "/keys?limit=2", [], 0
    while target:
        answer = get.get(target)
        assert answer["Content-Type"] == "text/plain; charset=utf-8"
        found += answer.body.decode().splitlines()
        pages += 1
        link = answer.headers.get("link")
        assert link is None or link.endswith('>; rel="next"')
        target = link and link[1:].partition(">")[0]
    assert (found, pages) == (sorted(CONTENTS), 3)


def test_the_link_leads_on_from_here(get):
    answer = get.get("/keys?limit=1&prefix=a%2F", SCRIPT_NAME="/sto re")
    link = answer["Link"][1:].partition(">")[0]
    path, _, query = link.partition("?")
    assert path == quote("/sto re/keys")
    assert parse_qs(query) == {"prefix": ["a/"], "start_after": ["a/1"], "limit": ["1"]}
    assert "Link" not in get.get("/keys?limit=2&prefix=a%2F")


def test_a_page_is_no_longer_than_a_thousand_unless_it_is_asked_for():
    get = WSGIClient(StoreApplication(memory(**{f"{i:04}": b"" for i in range(1500)})))
    assert get.get("/keys").body.count(b"\n") == 1000
    assert get.get("/keys?limit=999999999").body.count(b"\n") == 1500
    assert get.get("/keys?start_after=1400").body.count(b"\n") == 99


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=-1", "limit=x", "limit=", f"limit={'9' * 99}", "n=1", "prefix=%ff"]
)
def test_what_is_no_page_is_refused(get, query):
    assert get.get(f"/keys?{query}").status == 400
