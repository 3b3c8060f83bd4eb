"""Any store over HTTP: a WSGI application, and a server that runs it.

It speaks the scheme of DynamicURLStore and that of StaticURLStore.
"""

from __future__ import annotations

from os import urandom
from time import perf_counter

from ._keys import check_key
from ._server_errors import error_response
from ._server_keys import PARTS, delete_key, read_part, write_part
from ._server_log import LoggedBody, log_error, log_request
from ._server_origins import check_origin, host_of
from ._server_queries import answer_keys, answer_posted, answer_query
from ._server_repeats import Repeats
from ._server_requests import Request, RequestError
from ._server_responses import NOT_KEPT, REASONS, REVALIDATED, Response, Streamed, json_response
from ._server_static import answer_index
from ._server_users import Login, UsersFile
from ._server_values import answer_data
from .abstract_store import AbstractReadOnlyStore, AbstractStore
from .errors import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from ssl import SSLContext
    from typing import Any

    from ._server_requests import Environ

    Authenticate = Callable[[str, str], bool]
    View = Callable[[AbstractReadOnlyStore, str | None], AbstractReadOnlyStore]
    Answer = Callable[[Request, AbstractReadOnlyStore], Response]
    StartResponse = Callable[..., Any]

__all__ = ["StoreApplication", "UsersFile", "serve"]

# The entries of info() that say nothing of the place where the store is.
_INFO = (
    *("type", "readonly", "authorizing", "transactional", "conditional", "streaming", "durable"),
    "max_key_bytes",
)

_READ = ("GET", "HEAD")
_SAFE = ("GET", "HEAD", "OPTIONS")
_NOSNIFF = ("X-Content-Type-Options", "nosniff")


class StoreApplication:
    """A WSGI application that gives access to a store.

    It connects nothing and disconnects nothing.

    Parameters
    ----------
    store : AbstractReadOnlyStore
    authenticate : callable, optional
        Given name and password, says whether they are valid; without it everybody may do everything.
        What it has said is remembered for a minute, unless it is a UsersFile, which knows of changes.
    readonly : bool
        Whether nothing can be changed.
    static : bool
        Whether only the static layout is served, ``index.json`` and ``data/``.
    browse : bool
        Whether there are pages for people too; not with `static`.
    view : callable, optional
        Given the store and the name of the user (None without authentication), returns the store that
        this user sees. An AuthorizationError that it raises is answered with 403; what else it may
        raise, as errors of the store are.
    realm : str
        What a browser shows when it asks for a password.
    hosts : iterable of str, optional
        The names that requests may be sent to (of ``Host``, without the port). Without it any, and a
        page in a browser that can reach the server may read the store, if it needs no password, under
        a name of its own.
    secret : bytes, optional
        What the forms of the pages are signed with; new ones are made up for each application. Where
        several processes answer the same people, they need the same one.
    max_body, max_json : int, in bytes
        The most that is taken of a value, and of metadata and queries.
    """

    def __init__(
        self,
        store: AbstractReadOnlyStore,
        authenticate: Authenticate | None = None,
        readonly: bool = False,
        *,
        static: bool = False,
        browse: bool = False,
        view: View | None = None,
        realm: str = "encore.storage",
        hosts: Iterable[str] | None = None,
        secret: bytes | None = None,
        max_body: int = 16 << 30,
        max_json: int = 64 << 20,
    ) -> None:
        if not isinstance(store, AbstractReadOnlyStore):
            raise TypeError(f"what is served is a store, not {shown(store)}")
        for name, function in (("authenticate", authenticate), ("view", view)):
            if function is not None and not callable(function):
                raise TypeError(f"{name} is a callable, not {shown(function)}")
        if static and browse:
            raise ValueError("there are no pages where static serves index.json and data/ alone")
        self.store = store
        self.readonly = readonly or static
        self.static = static
        self.browse = browse
        self.view = view
        self.max_body = max_body
        self.max_json = max_json
        self.secret = urandom(32) if secret is None else secret
        self._repeats = Repeats()
        self.hosts = None if hosts is None else frozenset(map(str.lower, hosts))
        self._login = None if authenticate is None else Login(authenticate, realm)

    def __repr__(self) -> str:
        return f"StoreApplication({self.store!r})"

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        began = perf_counter()
        request = Request(environ)
        response = self.respond(request)
        status, body, size = response.status, response.body, response.size
        headers = [*response.headers, _NOSNIFF]
        if size is not None and status not in (204, 304):
            headers.append(("Content-Length", str(size)))
        if request.is_head and isinstance(body, Streamed):
            body.close()
        try:
            start_response(f"{status} {REASONS[status]}", headers)
        except BaseException:
            response.close()
            raise
        if isinstance(body, Streamed) and not request.is_head:
            return LoggedBody(request, status, body, began)
        whole = b"" if request.is_head or body is None or isinstance(body, Streamed) else body
        log_request(request, status, len(whole), perf_counter() - began)
        return [whole] if whole else []

    def respond(self, request: Request) -> Response:
        """Return the answer to a request, whatever happens."""
        try:
            request.decode_path()
            self._check_host(request)
            _check_path(request)
            if request.path == "/alive":
                _check_method(request, _READ)
                return json_response(200, {"alive": True}, [NOT_KEPT])
            if self._login is not None:
                request.user = self._login.user_of(request)
            methods, answer = self._route(request)
            if request.method == "OPTIONS":
                return self._options(request, methods)
            _check_method(request, methods)
            if request.method in _SAFE:
                return answer(request, self._seen_by(request.user))
            check_origin(request)
            return self._repeats.answer(
                request, lambda: answer(request, self._seen_by(request.user))
            )
        except Exception as error:
            response = error_response(error, request)
            return self._for_people(response, request) if self.browse else response

    def _for_people(self, response: Response, request: Request) -> Response:
        """Return an error as a page, where it is a person who sees it."""
        from ._server_pages import error_page, is_for_people

        try:
            return error_page(response, request, self) if is_for_people(request) else response
        except Exception as error:
            log_error(error, request, whole=True)
            return response

    def _seen_by(self, user: str | None) -> AbstractReadOnlyStore:
        return self.store if self.view is None else self.view(self.store, user)

    def _check_host(self, request: Request) -> None:
        if self.hosts is not None and host_of(request) not in self.hosts:
            raise RequestError(421, "no server of this name is here")

    # Where a path leads: which methods there are, and what answers

    def _route(self, request: Request) -> tuple[tuple[str, ...], Answer]:
        path = request.path
        if path.startswith("/data/"):
            request.key = path[6:]
            return _READ, self._data
        if path.startswith("/keys/") and not self.static:
            return self._route_key(request, path[6:])
        if self.browse and _is_page(path):
            return ("GET", "HEAD", "POST"), self._page
        if path in ("/", "/about", "*"):
            return _READ, self._about
        if path == "/index.json":
            return _READ, answer_index
        if path == "/keys" and not self.static:
            return _READ, answer_keys
        if path == "/query" and not self.static:
            return ("GET", "HEAD", "POST"), self._query
        if self.static and (path in ("/keys", "/query") or path.startswith("/keys/")):
            text = "only index.json and data/ are served here: static:URL, a StaticURLStore, reads them"
            raise RequestError(404, text, "KeyError")
        raise RequestError(404, "there is nothing of this name here", "KeyError")

    def _route_key(self, request: Request, rest: str) -> tuple[tuple[str, ...], Answer]:
        if request.method == "DELETE":
            request.key = rest
            return ("DELETE",), self._delete
        key, slash, part = rest.rpartition("/")
        methods = PARTS.get(part) if slash else None
        if methods is None:
            # Of which there is no part: a key that may be deleted.
            return ("DELETE",), self._delete
        request.key = key
        return (*methods, "DELETE"), self._read if request.method in _READ else self._write

    def _data(self, request: Request, store: AbstractReadOnlyStore) -> Response:
        key = _key_of(request)
        return answer_data(request, store.get(key), key)

    def _read(self, request: Request, store: AbstractReadOnlyStore) -> Response:
        return read_part(request, store, _key_of(request), _part_of(request))

    def _write(self, request: Request, store: AbstractReadOnlyStore) -> Response:
        writable, key = self.writable(store), _key_of(request)
        part = _part_of(request)
        return write_part(request, writable, key, part, self.max_body, self.max_json)

    def _delete(self, request: Request, store: AbstractReadOnlyStore) -> Response:
        writable = self.writable(store)
        return delete_key(request, writable, _key_of(request))

    def writable(self, store: AbstractReadOnlyStore) -> AbstractStore:
        """Return the store if it can be written to; RequestError if nothing can be changed."""
        if self.readonly or not isinstance(store, AbstractStore) or store.info().get("readonly"):
            raise RequestError(403, "nothing can be changed here", "AuthorizationError")
        return store

    def _query(self, request: Request, store: AbstractReadOnlyStore) -> Response:
        if request.method == "POST":
            return answer_posted(request, store, self.max_json)
        return answer_query(request, store)

    def _page(self, request: Request, store: AbstractReadOnlyStore) -> Response:
        from ._server_pages import answer_page

        return answer_page(request, store, self)

    # What is told of the store

    def _about(self, request: Request, store: AbstractReadOnlyStore) -> Response:
        return json_response(200, self._told(request, store), [REVALIDATED])

    def _told(self, request: Request, store: AbstractReadOnlyStore) -> dict[str, Any]:
        # Of several processes none knows what another one has done.
        is_alone = not request.environ.get("wsgi.multiprocess", True)
        # So that a client sees that what it took for one URL is another one.
        place = {"path": request.path, "static": self.static}
        return {**self.about(store), **place, "repeats": is_alone}

    def about(self, store: AbstractReadOnlyStore) -> dict[str, Any]:
        """Return the description that a client is given."""
        from .. import __version__

        known = store.info()
        info = {name: known[name] for name in _INFO if name in known}
        info.setdefault("type", type(store).__name__)
        readonly = self.readonly or not isinstance(store, AbstractStore)
        if readonly or info.get("readonly"):
            info.update(readonly=True, transactional=False, conditional=False)
        for name in _INFO[1:6]:
            info.setdefault(name, False)
        info.setdefault("durable", "none")
        return {"encore": 1, "version": __version__, "info": info}

    def _options(self, request: Request, methods: tuple[str, ...]) -> Response:
        allow = ("Allow", _allowed(methods))
        if request.path in ("/", "/about", "/keys", "/query", "*"):
            about = self._told(request, self._seen_by(request.user))
            return json_response(200, about, [allow, REVALIDATED])
        return Response(204, [allow, REVALIDATED])


def _is_page(path: str) -> bool:
    return path in ("/", "/browse") or path.startswith("/browse/")


def _allowed(methods: tuple[str, ...]) -> str:
    return ", ".join((*methods, "OPTIONS"))


def _check_method(request: Request, methods: tuple[str, ...]) -> None:
    if request.method not in methods:
        allow = _allowed(methods)
        raise RequestError(405, f"here is only {allow}", "ValueError", [("Allow", allow)])


def _check_path(request: Request) -> None:
    """Refuse a path that something on the way has made another one of, for a client that says which key it means."""
    quoted = request.header("Encore-Key")
    if quoted is None:
        return
    from urllib.parse import unquote

    key, path = unquote(quoted), request.path
    if request.method != "DELETE" and path.startswith("/keys/"):
        path, _, part = path.rpartition("/")
        path = path if part in PARTS else ""
    if path not in (f"/keys/{key}", f"/data/{key}"):
        text = (
            "the path was changed on the way here: a proxy may have taken dots or slashes out of it"
        )
        raise RequestError(400, text, "StoreError")


def _key_of(request: Request) -> str:
    try:
        return check_key(request.key or "")
    except ValueError as error:
        request.key = None
        raise RequestError(400, str(error)) from error


def _part_of(request: Request) -> str:
    return request.path.rpartition("/")[2]


def serve(
    store: AbstractReadOnlyStore,
    host: str = "127.0.0.1",
    port: int = 8080,
    *,
    authenticate: Authenticate | None = None,
    readonly: bool = False,
    static: bool = False,
    browse: bool = False,
    view: View | None = None,
    hosts: Iterable[str] | None = None,
    max_connections: int = 100,
    timeout: float = 30.0,
    grace: float = 30.0,
    ssl_context: SSLContext | None = None,
    ready: Callable[[str], object] | None = None,
) -> int:
    """Serve a store until SIGTERM or SIGINT; it is connected meanwhile.

    Then no connection is accepted any more, those that wait for a request are ended, and what is
    being answered may go on for the grace time. A second signal cuts it off.

    Parameters
    ----------
    store : AbstractReadOnlyStore
        Disconnected at the end if it was not connected before.
    host : str
        The address to listen at: only this computer can reach the default; "" are all.
    port : int
        0 for any that is free.
    authenticate, readonly, static, browse, view
        Those of StoreApplication.
    hosts : iterable of str, optional
        As for StoreApplication. By default those of this computer where no password is needed and
        only this computer can reach the server: no page of a browser can then read the store.
    max_connections : int > 0
        How many clients are served at a time. More are accepted when others wait for nothing, and
        told to come back (503) when not.
    timeout : float > 0, in seconds
        How long a client may be silent; how long it may take for the head of a request. Bodies and
        answers may take longer, at 500 bytes a second at least.
    grace : float >= 0, in seconds
    ssl_context : ssl.SSLContext, optional
        For https.
    ready : callable, optional
        Called with the URL when it can be reached.

    Returns
    -------
    int
        How many requests were cut because they took longer than the grace time.

    Raises
    ------
    StoreOSError
        If the port cannot be had, with its errno: taken, or not permitted.
    """
    from ._http_server import serve_application
    from ._http_server_address import is_loopback

    if hosts is None and authenticate is None and is_loopback(host):
        hosts = {"localhost", "127.0.0.1", "::1", host}
    application = StoreApplication(
        store, authenticate, readonly, static=static, browse=browse, view=view, hosts=hosts
    )
    return serve_application(
        application,
        host,
        port,
        max_connections=max_connections,
        timeout=timeout,
        grace=grace,
        ssl_context=ssl_context,
        ready=ready,
    )
