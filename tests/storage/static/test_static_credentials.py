"""StaticURLStore: who asks, and by way of whom."""

from __future__ import annotations

import urllib.request

import pytest
from static_site import Site, serving

from encore.storage.errors import AuthorizationError
from encore.storage.static_url_store import basic_auth_factory


def guarded(users, realm="a place"):
    """Return a hook that lets some in, by HTTP Basic."""
    from base64 import b64encode

    allowed = {"Basic " + b64encode(user.encode()).decode() for user in users}

    def hook(handler):
        if handler.headers.get("Authorization") in allowed:
            return False
        handler.send_response(401)
        handler.send_header("WWW-Authenticate", f'Basic realm="{realm}"')
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return True

    return hook


ME = {"username": "me", "password": "w\u00f6rd:x"}


def test_credentials_are_for_any_realm(make, site):
    with serving(site, hook=guarded(["me:w\u00f6rd:x"])) as url:
        store = make(url, connect=False)
        with pytest.raises(AuthorizationError):
            store.connect()
        with pytest.raises(AuthorizationError):
            store.connect({**ME, "password": "wrong"})
        assert not store.is_connected()
        for credentials in (
            ME,
            {"user": "me", "passwd": "w\u00f6rd:x"},
            {**ME, "realm": "a place"},
            {**ME, "uri": url},
            {**ME, "realm": None},
        ):
            store.connect(credentials)
            assert store.to_bytes("a") == b"data of a"
            store.disconnect()
        for credentials in ({**ME, "realm": "another"}, {**ME, "uri": "http://127.0.0.1:1/"}):
            with pytest.raises(AuthorizationError):
                store.connect(credentials)


def test_credentials_in_the_url(make, site):
    with serving(site, hook=guarded(["me:w@rd"])) as url:
        store = make(url.replace("//", "//me:w%40rd@"))
        assert store.to_bytes("a") == b"data of a"
        assert store.root_url == url
        store.disconnect()
        with pytest.raises(AuthorizationError):
            store.connect(ME)


@pytest.mark.parametrize(
    ("credentials", "error"),
    [("me:word", TypeError), (["me", "word"], TypeError), ({"username": "me"}, ValueError), ({}, ValueError),
     ({"username": "me", "password": None}, TypeError), ({"username": b"me", "password": "word"}, TypeError),
     ({**ME, "realm": 5}, TypeError), ({**ME, "uri": b""}, TypeError), ({**ME, "more": 5}, TypeError)],
)  # fmt: skip
def test_what_is_no_credentials(make, site, url, credentials, error):
    store = make(url, connect=False)
    with pytest.raises(error) as caught:
        store.connect(credentials)
    assert "word" not in str(caught.value).replace("password", "")
    assert not store.is_connected()
    assert site.seen == []


def test_factories_of_urllib(make, site):
    def password(**more):
        return {"user": "me", "passwd": "w\u00f6rd:x", **more}

    with serving(site, hook=guarded(["me:w\u00f6rd:x"])) as url:
        store = make(url, connect=False)
        for arguments in (
            {"credentials": ME, "auth_handler_factory": urllib.request.HTTPBasicAuthHandler},
            {"credentials": ME, "auth_handler_factory": basic_auth_factory},
            {"auth_handler_factory": lambda: basic_auth_factory(**ME, uri=url)},
            {"auth_handler_factory": lambda: basic_auth_factory(**password(uri=url, realm="a place"))},
            {
                "credentials": ME,
                "auth_handler_factory": lambda: urllib.request.HTTPBasicAuthHandler(
                    urllib.request.HTTPPasswordMgrWithPriorAuth()
                ),
            },
        ):  # fmt: skip
            store.connect(**arguments)
            assert store.to_bytes("a") == b"data of a"
            store.disconnect()
        # Who wants Digest does not want the password sent.
        with pytest.raises(AuthorizationError):
            store.connect(ME, auth_handler_factory=urllib.request.HTTPDigestAuthHandler)
    assert isinstance(basic_auth_factory(), urllib.request.HTTPBasicAuthHandler)
    with pytest.raises(TypeError):
        store.connect(ME, auth_handler_factory=lambda: None)


class TokenHandler(urllib.request.BaseHandler):
    """A handler as it may have been written for EnCore 0.8: only urllib knows how to use it."""

    def __init__(self):
        self.given = None

    def add_password(self, uri, realm, username, password):
        self.given = (uri, realm, username, password)

    def http_request(self, request):
        if self.given is not None:
            request.add_unredirected_header("Authorization", f"Token {self.given[3]}")
        return request


def test_a_handler_that_only_urllib_can_use(make, site):
    tokens = []
    made = []

    def hook(handler):
        tokens.append(handler.headers.get("Authorization"))
        return False

    def factory():
        made.append(TokenHandler())
        return made[-1]

    with serving(site, hook=hook) as url:
        store = make(url, connect=False)
        store.connect({"username": "me", "password": "word"}, auth_handler_factory=factory)
        assert made[0].given == (url, "encore.storage", "me", "word")
        assert store.to_bytes("a") == b"data of a"
        with store.get_data_range("b/c", 5, 7) as stream:
            assert stream.read() == b"of"
        assert store.get("a").size == 9
        assert set(tokens) == {"Token word"}
        store.update_index()
        with pytest.raises(KeyError):
            store.get("b").data  # noqa: B018 - it raises


class ManagedHandler(TokenHandler):
    """As those for NTLM: with passwords in a manager of urllib."""

    def __init__(self):
        self.passwd = urllib.request.HTTPPasswordMgr()
        self.add_password = self.passwd.add_password

    def http_request(self, request):
        user, password = self.passwd.find_user_password("any", request.full_url)
        request.add_unredirected_header("Authorization", f"Token {user} {password}")
        return request


class OwnBasicHandler(urllib.request.HTTPBasicAuthHandler):
    def http_request(self, request):
        request.add_unredirected_header("Authorization", "Token own")
        return request


class QuietBasicHandler(urllib.request.HTTPBasicAuthHandler):
    """Nothing that matters is its own."""


@pytest.mark.parametrize(
    ("factory", "credentials", "expected"),
    [
        (ManagedHandler, {"username": "me", "password": "word"}, {"Token me word"}),
        (ManagedHandler, {"user": "me", "passwd": "word", "realm": "any"}, {"Token me word"}),
        (ManagedHandler, {"user": "me", "passwd": "word", "realm": "other"}, {"Token None None"}),
        (OwnBasicHandler, {"user": "me", "passwd": "word"}, {"Token own"}),
        (QuietBasicHandler, {"user": "me", "passwd": "word"}, {None}),
    ],
    ids=str,
)
def test_other_handlers(make, site, url, factory, credentials, expected):
    store = make(url, connect=False)
    store.connect(credentials, auth_handler_factory=factory)
    assert store.to_bytes("a") == b"data of a"
    assert {headers.get("Authorization") for _, _, headers in site.seen} == expected


def test_such_a_handler_is_not_asked_for_other_servers(make, site):
    there = Site({"a": (b"elsewhere", {})})
    seen = []

    def elsewhere(handler):
        seen.append(handler.headers.get("Authorization"))
        return False

    with serving(there, hook=elsewhere) as other:

        def hook(handler):
            if handler.path.startswith("/data"):
                handler.reply(302, {"Location": f"{other}data/a"}, b"", False)
                return True
            return False

        with serving(site, hook=hook) as url:
            store = make(url, connect=False)
            store.connect(ME, auth_handler_factory=TokenHandler)
            assert store.to_bytes("a") == b"elsewhere"
    assert seen == [None]


def test_a_proxy(make, site):
    """What goes by way of a proxy names the server in its first line."""
    lines = []

    def hook(handler):
        lines.append(handler.path)
        handler.path = "/" + handler.path.split("/", 3)[3]
        return False

    with serving(site, hook=hook) as url:
        store = make("http://other.invalid/", connect=False)
        store.connect(proxy_handler=urllib.request.ProxyHandler({"http": url}))
        assert store.to_bytes("a") == b"data of a"
        store.disconnect()
        store.connect(
            {"username": "me", "password": "word"},
            urllib.request.ProxyHandler({"http": url}),
            TokenHandler,
        )
        assert store.to_bytes("a") == b"data of a"
    assert {line.partition("/data")[0].partition("/index")[0] for line in lines} == {
        "http://other.invalid"
    }
