"""Stores over the network, and the server.

Over the loopback: clients are measured with a server that answers from memory and takes a small part
of the time, servers with a client that knows next to nothing of HTTP. Both have processes of their
own. Connections are kept alive, but for EnCore 0.8, which makes a new one each time.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from io import BytesIO
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from benchmarks.parallel import in_threads
from benchmarks.serving import HOST, answered, quick_server, request, site_server, together
from benchmarks.stores import MANY, MIB, SUBJECT, keys, large_file, metadata, pairs
from benchmarks.suite import LEVELS, Row, both, compiled, loop, peak

if TYPE_CHECKING:
    from benchmarks.suite import Measure, Setup

Names = dict[str, Any]

DATA = bytes(range(256)) * 16
KEY = "key0000007"
PATH = f"data/{KEY}"
PART = (1000, 2000)
METADATA = metadata(7, MANY)
SIZES = ((16 * MIB, LEVELS[:1]), (256 * MIB, LEVELS[1:]))


def url(path: str = "") -> str:
    return f"http://{HOST}:{quick_server()}/{path}"


def checked(statement: str, names: Names, expected: object) -> Measure:
    """Measure an expression that has the right value."""
    found = eval(statement, names)
    if isinstance(expected, bytes):
        found = bytes(found)
    if found != expected:
        raise AssertionError(f"{statement} is {str(found)[:80]}")
    return loop(statement, **names)


# Reading what is below a URL


@dataclass(frozen=True)
class Reader:
    """How a subject reads data, and a part of them. With names that `make` returns in each thread."""

    make: Callable[[], Names]
    get: str
    part: str
    #: Whether threads can share the names.
    shared: bool = True

    def getting(self) -> Measure:
        return checked(self.get, self.make(), DATA)

    def parts(self) -> Measure:
        return checked(self.part, self.make(), DATA[slice(*PART)])

    def threads(self, count: int) -> Measure:
        names = self.make()

        def work(many: int) -> Callable[[], object]:
            own = names if self.shared else self.make()
            run = compiled("for _ in range(count):", self.get, "count", own)
            run(1)
            return partial(run, many)

        def measure(many: int) -> float:
            shares = [many // count + (n < many % count) for n in range(count)]
            return in_threads([partial(work, share) for share in shares])

        return measure


def static_store() -> Names:
    import urllib.request  # noqa: F401 - 0.8 expects that somebody has done so

    from encore.storage.static_url_store import StaticURLStore

    # Without a thread that polls, for which 0.8 waits when it disconnects.
    store: Any = StaticURLStore(url(), "data/", "index.json", 0)
    store.connect()
    return {"s": store, "KEY": KEY}


def http_client() -> Names:
    import http.client

    connection = http.client.HTTPConnection(HOST, quick_server())

    def get(headers: dict[str, str] = {}) -> bytes:  # noqa: B006
        connection.request("GET", f"/{PATH}", headers=headers)
        return connection.getresponse().read()

    return {"get": get, **_range()}


def _range() -> Names:
    return {"part": {"Range": f"bytes={PART[0]}-{PART[1] - 1}"}}


def requests_session() -> Names:
    return {"s": import_module("requests").Session(), "url": url(PATH), **_range()}


def urllib3_pool() -> Names:
    pool = import_module("urllib3").PoolManager(maxsize=4)
    return {"p": pool, "url": url(PATH), **_range()}


def object_store() -> Names:
    options = {"allow_http": True}
    store = import_module("obstore.store").HTTPStore.from_url(url(), client_options=options)
    return {"o": import_module("obstore"), "s": store, "path": PATH}


GET_DATA, GET_PART = "s.get(KEY).data.read()", "s.get_data_range(KEY, {}, {}).read()"
READERS = {
    "encore": Reader(static_store, GET_DATA, GET_PART.format(*PART)),
    # Its ends are inclusive here.
    "encore08": Reader(static_store, GET_DATA, GET_PART.format(PART[0], PART[1] - 1)),
    "limit": Reader(http_client, "get()", "get(part)", shared=False),
    "obstore": Reader(
        object_store,
        "o.get(s, path).bytes()",
        "o.get_range(s, path, start={}, end={})".format(*PART),
    ),
    "urllib3": Reader(
        urllib3_pool, "p.request('GET', url).data", "p.request('GET', url, headers=part).data"
    ),
    "requests": Reader(
        requests_session, "s.get(url).content", "s.get(url, headers=part).content", shared=False
    ),
}


def static(name: str, way: Callable[..., Measure], goal: float, *args: Any, **more: Any) -> Row:
    ready: dict[str, Setup] = {who: partial(way, reader, *args) for who, reader in READERS.items()}
    return Row(f"StaticURLStore: {name}", ready, {"S": goal}, "http.client", slice=0.02, **more)


def found_in_index() -> Measure:
    wanted = [(key, found) for key, found in pairs(MANY) if found["subject"] == SUBJECT]
    return checked(f"list(s.query(subject={SUBJECT!r}))", static_store(), wanted)


def found_in_dict() -> Measure:
    statement = "[(k, dict(m)) for k, m in index.items() if m.get('subject') == subject]"
    return loop(statement, index=dict(pairs(MANY)), subject=SUBJECT)


def connecting() -> Measure:
    return loop("s.disconnect(); s.connect()", **static_store())


def fetching() -> Measure:
    import http.client

    def fetch() -> object:
        connection = http.client.HTTPConnection(HOST, quick_server())
        connection.request("GET", "/index.json")
        found = json.loads(connection.getresponse().read())
        connection.close()
        return found

    return loop("fetch()", fetch=fetch)


# A store that is written to


class Dynamic:
    """What is done with a DynamicURLStore."""

    def __init__(self) -> None:
        from encore.storage.dynamic_url_store import DynamicURLStore

        self._store: Any = DynamicURLStore(url("keys"), url("query"))
        self._store.connect()
        self._hundred = keys(100)

    def get(self) -> tuple[dict[str, Any], bytes]:
        value = self._store.get(KEY)
        return value.metadata, value.data.read()

    def get_metadata(self) -> object:
        return self._store.get_metadata(KEY)

    def exists(self) -> object:
        return self._store.exists(KEY)

    def set(self) -> object:
        return self._store.set(KEY, (BytesIO(DATA), METADATA))

    def multiset(self) -> object:
        values = [(BytesIO(DATA), METADATA) for _ in self._hundred]
        return self._store.multiset(self._hundred, values)

    def keys(self) -> int:
        return len(list(self._store.query_keys()))

    def upload(self, file: Path) -> None:
        self._store.from_file("large", str(file))

    def download(self, size: int) -> None:
        with self._store.get_data(f"large-{size}") as stream:
            while stream.read(MIB):
                pass


class Requests:
    """The same requests, and nothing besides. `send` gives headers and content."""

    def __init__(self) -> None:
        self._hundred = keys(100)

    def send(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: Any = None
    ) -> tuple[Any, bytes]:
        raise NotImplementedError

    def get(self) -> tuple[dict[str, Any], bytes]:
        headers, content = self.send("GET", f"keys/{KEY}/value", {"Encore-Data-Limit": "65536"})
        size = int(headers["Encore-Metadata-Length"])
        return json.loads(content[:size]), content[size:]

    def get_metadata(self) -> object:
        return json.loads(self.send("GET", f"keys/{KEY}/metadata")[1])

    def exists(self) -> object:
        self.send("HEAD", f"keys/{KEY}/data")
        return True

    def set(self, key: str = KEY) -> None:
        text = json.dumps(METADATA).encode()
        headers = {"Encore-Metadata-Length": str(len(text)), "Prefer": "return=minimal"}
        self.send("PUT", f"keys/{key}/value", headers, text + DATA)

    def multiset(self) -> None:
        for key in self._hundred:
            self.set(key)

    def keys(self) -> int:
        query = json.dumps({"where": {}, "keys_only": True}).encode()
        content = self.send("POST", "query", {"Content-Type": "application/json"}, query)[1]
        return len([json.loads(line) for line in content.splitlines()[:-1]])

    def upload(self, file: Path) -> None:
        with file.open("rb") as stream:
            size = str(file.stat().st_size)
            self.send("PUT", "keys/large/data", {"Content-Length": size}, stream)

    def download(self, size: int) -> None:
        raise NotImplementedError


class BySession(Requests):
    def __init__(self) -> None:
        super().__init__()
        self._session = import_module("requests").Session()
        self._url = url()

    def send(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: Any = None
    ) -> tuple[Any, bytes]:
        answer = self._session.request(method, self._url + path, headers=headers, data=body)
        answer.raise_for_status()
        return answer.headers, answer.content

    def download(self, size: int) -> None:
        path = f"{self._url}keys/large-{size}/data"
        with self._session.get(path, stream=True) as answer:
            for _ in answer.iter_content(MIB):
                pass


class ByClient(Requests):
    def __init__(self) -> None:
        super().__init__()
        import http.client

        self._connection = http.client.HTTPConnection(HOST, quick_server(), blocksize=MIB)

    def _answer(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: Any = None
    ) -> Any:
        self._connection.request(method, f"/{path}", body, headers or {})
        answer = self._connection.getresponse()
        if answer.status != 200:
            raise AssertionError(f"status {answer.status}")
        return answer

    def send(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: Any = None
    ) -> tuple[Any, bytes]:
        answer = self._answer(method, path, headers, body)
        return answer.headers, answer.read()

    def download(self, size: int) -> None:
        answer = self._answer("GET", f"keys/large-{size}/data")
        while answer.read(MIB):
            pass


SUBJECTS: dict[str, Callable[[], Any]] = {
    "encore": Dynamic,
    "requests": BySession,
    "limit": ByClient,
}


def calling(make: Callable[[], Any], name: str, expected: object, each: int) -> Measure:
    measure = checked("f()", {"f": getattr(make(), name)}, expected)
    return lambda count: measure(count) / each


def dynamic(name: str, method: str, expected: object, each: int = 1) -> Row:
    ready: dict[str, Setup] = {
        who: partial(calling, make, method, expected, each) for who, make in SUBJECTS.items()
    }
    return Row(f"DynamicURLStore: {name}", ready, limit="http.client", slice=0.02)


def streaming(make: Callable[[], Any], way: str, size: int, measured: Any) -> Measure:
    subject = make()
    argument: Any = large_file(size, False) if way == "upload" else size
    # What is loaded at the first use is not of the value.
    getattr(subject, way)(large_file(1000, False) if way == "upload" else 1000)
    return lambda count: sum(
        measured(partial(getattr(subject, way), argument)) for _ in range(count)
    )


def seconds(work: Callable[[], object]) -> float:
    start = perf_counter()
    work()
    return perf_counter() - start


def streams() -> list[Row]:
    rows = []
    for size, levels in SIZES:
        for way in ("upload", "download"):
            name = f"DynamicURLStore: {way} of {size // MIB} MiB"
            more: dict[str, Any] = {"count": 1, "slices": 1, "levels": levels}
            more["limit"] = "http.client"

            def ready(measured: Any, way: str = way, size: int = size) -> dict[str, Setup]:
                return {
                    who: partial(streaming, make, way, size, measured)
                    for who, make in SUBJECTS.items()
                }

            rows.append(Row(name, ready(seconds), unit="B/s", amount=float(size), **more))
            goals = {"V": 8.0 * MIB}
            rows.append(Row(f"{name}: memory", ready(peak), goals, unit="B", alone=True, **more))
    return rows


# Servers

SERVERS = ("encore", "waitress", "gunicorn", "http.server")


def asking(port: Callable[[], int], wanted: bytes, size: int | None, clients: int = 1) -> Measure:
    several = [answered(port(), wanted, size) for _ in range(clients)]
    if clients > 1:
        return partial(together, several, wanted)
    return loop("ask(wanted)", ask=several[0].ask, wanted=wanted)


def server(
    name: str,
    wanted: bytes,
    expected: int | None,
    does: bytes | None = None,
    size: int | str = 0,
    who: tuple[str, ...] = SERVERS,
    clients: int = 1,
    **more: Any,
) -> Row:
    """A row of servers; `does` is what the one that answers from memory is asked for instead."""
    ready: dict[str, Setup] = {
        each: partial(asking, partial(site_server, each, size), wanted, expected, clients)
        for each in who
    }
    ready["limit"] = partial(asking, quick_server, does or wanted, expected, clients)
    return Row(f"server: {name}", ready, limit="prepared answers", **{"slice": 0.02, **more})


def not_modified() -> Measure:
    port = site_server("encore")
    etag = answered(port, INDEX, None).begins.partition(b"\r\nETag: ")[2].split()[0]
    wanted = request("/index.json", f"If-None-Match: {etag.decode()}")
    return asking(lambda: port, wanted, 0)


GET = request("/data/key")
PUT = request("/keys/key/data", "Content-Type: text/plain", method="PUT", body=DATA)
INDEX, ZIPPED = request("/index.json"), request("/index.json", "Accept-Encoding: gzip")
RATE: dict[str, Any] = {"unit": "/s"}

ROWS = [
    static("get of 4 KiB", Reader.getting, 3.1),
    static("range of 4 KiB", Reader.parts, 2.7),
    static("get of 4 KiB, 4 threads", Reader.threads, 2.0, 4),
    Row(
        "StaticURLStore: query of 10000 keys",
        {**both(found_in_index), "limit": found_in_dict},
        {"S": 11},
        "a loop",
    ),
    Row(
        "StaticURLStore: connect, an index of 10000 keys",
        {**both(connecting), "limit": fetching},
        limit="http.client, json",
        slice=0.05,
    ),
    dynamic("get of 4 KiB", "get", (METADATA, DATA)),
    dynamic("get_metadata", "get_metadata", METADATA),
    dynamic("exists", "exists", True),
    dynamic("set of 4 KiB", "set", None),
    dynamic("multiset of 100 keys, for each", "multiset", None, 100),
    dynamic("list of 10000 keys", "keys", MANY),
    *streams(),
    server("an application that does nothing", GET, len(DATA), size="nothing", **RATE),
    server("GET of 4 KiB", GET, len(DATA), **RATE),
    server("GET of 4 KiB, 16 clients", GET, len(DATA), clients=16, **RATE),
    server("PUT of 4 KiB", PUT, None, **RATE),
    server("index of 10000 keys", INDEX, None, slice=0.05),
    server(
        "index of 10000 keys, gzip", ZIPPED, None, request("/gzip"), who=SERVERS[:3], slice=0.05
    ),
    Row(
        "server: index of 10000 keys, not modified",
        {"encore": not_modified, "limit": partial(asking, quick_server, request("/same"), 0)},
        limit="prepared answers",
        **RATE,
    ),
    *(
        server(
            f"download of {size // MIB} MiB",
            request("/data/large"),
            size,
            request(f"/data/large-{size}"),
            size=size,
            count=1,
            slices=2,
            unit="B/s",
            amount=float(size),
            levels=levels,
        )
        for size, levels in SIZES
    ),
]
