"""What all pages have in common: the style, the headers that protect them, the way from one to the other."""

from __future__ import annotations

from ._server_page_markup import Html, element, join
from ._server_page_text import readable
from ._server_requests import RequestError
from ._server_responses import NOT_KEPT, Response

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._server_page_markup import Content
    from ._server_requests import Request
    from ._server_responses import Headers
    from .abstract_store import AbstractReadOnlyStore, AbstractStore
    from .server import StoreApplication

__all__ = ["Site"]

_STYLE = """
:root {
  color-scheme: light dark;
  --back: #fff; --text: #1b1b1f; --faint: #5a5a66; --line: #d6d6de; --soft: #f3f3f7;
  --link: #0b57b4; --danger: #b3261e; --on-strong: #fff; --escape: #8a3a00; --escape-back: #ffeedd;
}
@media (prefers-color-scheme: dark) {
  :root {
    --back: #16161a; --text: #e6e6ec; --faint: #a3a3b0; --line: #3a3a44; --soft: #202027;
    --link: #8ab8ff; --danger: #ff9a92; --on-strong: #16161a; --escape: #ffc48a; --escape-back: #3d2a17;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 70rem; padding: 0 1rem 3rem;
  background: var(--back); color: var(--text);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere;
}
header {
  display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; align-items: baseline;
  padding: .75rem 0; border-bottom: 1px solid var(--line);
}
header nav { margin-inline-start: auto; }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; }
h1 { font-size: 1.5rem; line-height: 1.3; margin: 1.5rem 0 1rem; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
a { color: var(--link); }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
.faint { color: var(--faint); }
.key, pre, code, input, textarea { font-family: ui-monospace, monospace; }
.key { unicode-bidi: isolate; white-space: pre-wrap; }
.escape {
  color: var(--escape); background: var(--escape-back); border-radius: .2rem; padding: 0 .1rem;
}
h1, td, th, dd, p { overflow: clip; overflow-clip-margin: .3rem; }
table { width: 100%; border-collapse: collapse; margin-top: 1.25rem; }
caption { text-align: start; color: var(--faint); padding-bottom: .5rem; }
th, td {
  padding: .4rem 1.25rem .4rem 0; text-align: start; vertical-align: top;
  border-bottom: 1px solid var(--line);
}
th:last-child, td:last-child { padding-right: 0; }
tbody th { font-weight: normal; width: 100%; }
.number { text-align: end; }
.number, time { white-space: nowrap; }
@media (max-width: 40rem) {
  thead { display: none; }
  tbody tr { display: flex; flex-wrap: wrap; gap: 0 1.25rem; padding: .5rem 0; border-bottom: 1px solid var(--line); }
  tbody th, tbody td { padding: .1rem 0; border: 0; }
  tbody td { color: var(--faint); }
}
dl { display: grid; grid-template-columns: max-content 1fr; gap: .35rem 1.25rem; margin: 0; }
dt { color: var(--faint); }
dd { margin: 0; }
pre {
  margin: 0; padding: .75rem; max-height: 40rem; overflow: auto; white-space: pre-wrap;
  background: var(--soft); border: 1px solid var(--line); border-radius: .4rem;
}
form { margin: 0; }
.search { padding: .25rem 1rem 1rem; margin-bottom: 1.25rem; background: var(--soft); border-radius: .5rem; }
.fields { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(14rem, 100%), 1fr)); gap: 0 1rem; }
label { display: block; margin: .75rem 0 .25rem; font-weight: 600; }
.hint { margin: .25rem 0 0; color: var(--faint); font-size: .9rem; }
input, textarea, button, .button {
  font-size: 1rem; padding: .45rem .7rem; border-radius: .4rem; border: 1px solid var(--faint);
  background: var(--back); color: var(--text); max-width: 100%;
}
input, textarea { width: 100%; }
textarea { min-height: 7rem; resize: vertical; }
.choice { display: flex; gap: .5rem; align-items: baseline; }
input[type=checkbox] { width: auto; flex: none; }
button, .button {
  display: inline-block; min-height: 2.75rem; line-height: 1.75rem; text-decoration: none; cursor: pointer;
  font-family: inherit; border-color: var(--link); color: var(--link);
}
.strong { background: var(--link); color: var(--on-strong); }
.danger { border-color: var(--danger); color: var(--danger); }
.strong.danger { background: var(--danger); color: var(--on-strong); }
.actions { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1.25rem 0 0; align-items: center; }
.alert { border: 2px solid var(--danger); border-radius: .5rem; padding: .5rem 1rem; }
@media (forced-colors: active) { .escape { border: 1px solid; } }
@media (max-width: 30rem) { dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .6rem; } }
"""

# Of a query string of ours.
_MOST_FIELDS = 50

_headers: Headers = []


def _own_headers() -> Headers:
    """Return the headers of every page."""
    if not _headers:
        from base64 import b64encode
        from hashlib import sha256

        digest = b64encode(sha256(_STYLE.encode()).digest()).decode("ascii")
        # Nothing is loaded from anywhere, and nothing runs: only this style has an effect.
        policy = (
            "default-src 'none'",
            f"style-src 'sha256-{digest}'",
            "form-action 'self'",
            "frame-ancestors 'none'",
            "base-uri 'none'",
        )
        # Referrer-Policy: with no-referrer a browser would say "Origin: null" when it sends a form of this
        # very page (Fetch, "append a request Origin header"), and that is all there is to see over plain
        # HTTP. At once, as several threads may do this.
        _headers[:] = [
            ("Content-Type", "text/html; charset=utf-8"),
            ("Content-Security-Policy", "; ".join(policy)),
            ("Cross-Origin-Opener-Policy", "same-origin"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("Referrer-Policy", "same-origin"),
            ("X-Frame-Options", "DENY"),
        ]
    return _headers


class Site:
    """A request for a page, and what its answer is made of.

    Parameters
    ----------
    request : Request
    application : StoreApplication
    store : AbstractReadOnlyStore, optional
        None on pages that are about none.
    """

    def __init__(
        self,
        request: Request,
        application: StoreApplication,
        store: AbstractReadOnlyStore | None = None,
    ) -> None:
        self.request = request
        self.application = application
        self._store = store
        self._fields: list[tuple[str, str]] | None = None

    @property
    def store(self) -> AbstractReadOnlyStore:
        assert self._store is not None
        return self._store

    def writable(self) -> AbstractStore:
        """Return the store to write to; RequestError if nothing can be changed."""
        return self.application.writable(self.store)

    @property
    def is_writable(self) -> bool:
        if self._store is None:
            return False
        try:
            self.writable()
        except RequestError:
            return False
        return True

    # Where pages are: a key is in the query, since browsers drop "." and ".." from a path however
    # they are written

    def link(self, page: str = "", **fields: str | list[str] | None) -> str:
        """Return the URL of a page.

        Parameters
        ----------
        page : str
            None is the list of keys.
        **fields
            Of its query; those that are None or empty are left out.
        """
        from urllib.parse import quote, urlencode

        given = {name: value for name, value in fields.items() if value}
        script = self.request.environ.get("SCRIPT_NAME", "").encode("latin-1", "replace")
        # One slash: two would be another host.
        parts = [quote(script.strip(b"/")), "browse", page]
        path = f"/{'/'.join(filter(None, parts))}"
        return f"{path}?{urlencode(given, doseq=True, quote_via=quote)}" if given else path

    def fields(self, name: str) -> list[str]:
        """Return the fields of this name in the query of the URL."""
        if self._fields is None:
            self._fields = _parse_query(self.request.environ.get("QUERY_STRING", ""))
        return [value for each, value in self._fields if each == name]

    def field(self, name: str) -> str | None:
        """Return the first field of this name that is not empty."""
        return next((value for value in self.fields(name) if value), None)

    def answer(
        self, title: str, *content: Content, status: int = 200, headers: Headers | None = None
    ) -> Response:
        """Answer with a page."""
        page = join(
            Html("<!DOCTYPE html>\n"),
            element(
                "html",
                element(
                    "head",
                    element("meta", charset="utf-8"),
                    element("meta", name="viewport", content="width=device-width, initial-scale=1"),
                    element("title", f"{title} - encore"),
                    element("style", Html(_STYLE)),
                ),
                "\n",
                element("body", self._header(), "\n", element("main", *content)),
                lang="en",
            ),
            "\n",
        )
        # Damaged metadata may hold what UTF-8 cannot.
        body = page.encode("utf-8", "backslashreplace")
        return Response(status, [*_own_headers(), *(headers or [NOT_KEPT])], body)

    def _header(self) -> Html:
        kind = None if self._store is None else type_of(self._store)
        user = self.request.user
        return element(
            "header",
            element("strong", "encore"),
            element("span", kind, class_="faint") if kind else None,
            element("span", "logged in as ", element("bdi", readable(user)), class_="faint")
            if user is not None
            else None,
            element(
                "nav",
                element("a", "All keys", href=self.link()),
                element("a", "Upload", href=self.link("upload")) if self.is_writable else None,
                aria_label="Pages",
            ),
        )

    def see(self, url: str) -> Response:
        """Answer that the rest is on another page, which is fetched by GET."""
        return Response(303, [("Location", url), NOT_KEPT])


def type_of(store: AbstractReadOnlyStore) -> str:
    """Return what kind of store it is, and nothing of where."""
    return readable(str(store.info().get("type") or type(store).__name__))


def _parse_query(text: str) -> list[tuple[str, str]]:
    from urllib.parse import parse_qsl

    try:
        if not text.isascii():
            raise ValueError("not percent-encoded")
        return parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=_MOST_FIELDS)
    except ValueError as error:
        raise RequestError(400, "a query is UTF-8, percent-encoded, and not long") from error
