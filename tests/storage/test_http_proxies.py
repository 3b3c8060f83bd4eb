"""Proxies: which are asked, how, and what they are told."""

import base64
from urllib.request import (
    HTTPBasicAuthHandler,
    HTTPPasswordMgrWithDefaultRealm,
    ProxyBasicAuthHandler,
    ProxyDigestAuthHandler,
    ProxyHandler,
)

import pytest
from certificates import Certificate
from hostile_server import (
    HostileServer,
    answer,
    close,
    forever,
    ok,
    read,
    read_head,
    reset,
    silence,
    start_tls,
)
from http_clients import close_all, made, new_client

from encore.storage._http import Client
from encore.storage._http_connections import HTTPTransport
from encore.storage.errors import AuthorizationError, StoreError, TemporaryError

CONNECTED = b"HTTP/1.1 200 Connection established\r\n\r\n"


@pytest.fixture(autouse=True)
def _close_clients():
    yield
    close_all()


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """The environment without proxies."""
    import os

    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name == "REQUEST_METHOD":
            monkeypatch.delenv(name)
    return monkeypatch


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return Certificate(tmp_path_factory.mktemp("tls") / "good", "DNS:far.example,IP:127.0.0.1")


@pytest.fixture(scope="module")
def tls(certificate):
    return start_tls(certificate.for_server())


def get(client, url, **options):
    return client.request("GET", url, **options).read()


def environment_client(**options):
    """A client that goes by the environment."""
    client = Client(HTTPTransport(**options), timeout=10.0)
    made.append(client)
    return client


def basic(user, password):
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


# HTTP


def test_a_proxy_is_asked_for_the_whole_url():
    with HostileServer([ok, ok]) as proxy:
        client = new_client(proxies={"http": proxy.url})
        assert get(client, "http://far.example/a/b?c=d#e") == b"1"
        assert get(client, "http://far.example:81/") == b"2"
        first, second = proxy.requests
        assert first.target == "http://far.example/a/b?c=d"
        assert first.headers["host"] == "far.example"
        assert second.target == "http://far.example:81/"
        assert "proxy-authorization" not in first.headers


def test_connections_to_a_proxy_are_kept():
    with HostileServer([ok, ok]) as proxy:
        client = new_client(proxies={"http": proxy.url})
        assert get(client, "http://far.example/") == b"1"
        assert get(client, "http://far.example/") == b"2"
        assert proxy.connections == 1


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY"])
@pytest.mark.parametrize("scheme", ["http://", ""])
def test_the_environment_names_a_proxy(environment, name, scheme):
    with HostileServer([ok]) as proxy:
        environment.setenv(name, f"{scheme}127.0.0.1:{proxy.port}")
        assert get(environment_client(), "http://far.example/") == b"1"


@pytest.mark.parametrize("name", ["https_proxy", "ftp_proxy", "all_proxy", "x_proxy"])
def test_a_proxy_is_for_its_scheme(environment, name):
    with HostileServer([ok]) as server:
        environment.setenv(name, "http://127.0.0.1:1")
        assert get(environment_client(), server.url) == b"1"


@pytest.mark.parametrize("hosts", ["127.0.0.1", "*", "x, 127.0.0.1", "127.0.0.1:{port}", "0.0.1"])
def test_some_hosts_need_no_proxy(environment, hosts):
    with HostileServer([ok]) as server:
        environment.setenv("no_proxy", hosts.format(port=server.port))
        environment.setenv("http_proxy", "http://127.0.0.1:1")
        assert get(environment_client(), server.url) == b"1"
        # As urllib, whoever has named the proxy.
        assert get(new_client(proxies={"http": "http://127.0.0.1:1"}), server.url) == b"2"


def test_no_proxies_is_none_whatever_the_environment_says(environment):
    with HostileServer([ok]) as server:
        environment.setenv("http_proxy", "http://127.0.0.1:1")
        client = Client(HTTPTransport(None, ProxyHandler({})), timeout=10.0)
        made.append(client)
        assert get(client, server.url) == b"1"


def test_the_environment_is_looked_at_again_after_close(environment):
    with HostileServer([ok]) as proxy, HostileServer([ok]) as server:
        client = environment_client()
        get(client, server.url)
        environment.setenv("http_proxy", proxy.url)
        get(client, server.url)
        client.close()
        get(client, server.url)
        assert (len(server.requests), len(proxy.requests)) == (2, 1)


@pytest.mark.parametrize(
    "url",
    ["socks5://127.0.0.1:1", "ftp://h/", "http://", "http://h:x/", "http://a b/", "h\r\nX: y"],
)
def test_a_proxy_that_cannot_be_used_is_an_error(url):
    with pytest.raises(StoreError, match=r"the proxy for http://far\.example"):
        get(new_client(proxies={"http": url}), "http://far.example/")


def test_no_message_shows_the_password_of_a_proxy():
    for url in ("socks5://user:secret@h:1", "http://user:secret@127.0.0.1:1"):
        with pytest.raises(StoreError) as caught:
            get(new_client(proxies={"http": url}), "http://far.example/")
        assert "secret" not in str(caught.value)


def test_a_proxy_that_is_not_there_is_an_error():
    with HostileServer([ok]) as gone:
        url = gone.url
    with pytest.raises(TemporaryError) as caught:
        get(new_client(proxies={"http": url}), "http://far.example/")
    assert caught.value.happened is False
    assert url[:-1] in str(caught.value)


# Passwords of proxies


def test_a_password_may_stand_in_the_url_of_a_proxy(environment):
    with HostileServer([ok]) as proxy:
        environment.setenv("http_proxy", f"http://us%65r:pass%3Aword@127.0.0.1:{proxy.port}/")
        get(environment_client(), "http://far.example/")
        [request] = proxy.requests
        assert request.headers["proxy-authorization"] == basic("user", "pass:word")
        assert "authorization" not in request.headers


def wants(header, challenge, status, good):
    """Who sends `good` in a header is let in."""

    def script(peer):
        read(peer)
        if peer.request.headers.get(header) == good:
            peer.sock.sendall(answer(b"welcome"))
        else:
            peer.sock.sendall(answer(b"no", status, **{challenge: 'Basic realm="p"'}))

    return script


PROXY = wants("proxy-authorization", "Proxy_Authenticate", "407 Who?", basic("proxy", "one"))


def handler(kind, url, user, password):
    found = kind(HTTPPasswordMgrWithDefaultRealm())
    found.add_password(None, url, user, password)
    return found


def test_a_proxy_may_ask_for_a_password():
    with HostileServer([forever(PROXY)]) as proxy:
        auth = handler(ProxyBasicAuthHandler, proxy.url, "proxy", "one")
        client = new_client([auth], proxies={"http": proxy.url})
        for _ in range(2):
            assert get(client, "http://far.example/") == b"welcome"
        assert len(proxy.requests) == 3


def test_a_proxy_gets_no_password_of_a_server_nor_the_other_way_round():
    def script(peer):
        read(peer)
        headers = peer.request.headers
        if headers.get("proxy-authorization") != basic("proxy", "one"):
            peer.sock.sendall(answer(b"", "407 Who?", Proxy_Authenticate='Basic realm="p"'))
        elif headers.get("authorization") != basic("server", "two"):
            peer.sock.sendall(answer(b"", "401 Who?", WWW_Authenticate='Basic realm="s"'))
        else:
            peer.sock.sendall(answer(b"welcome"))

    with HostileServer([forever(script)]) as proxy:
        auth = [
            handler(ProxyBasicAuthHandler, proxy.url, "proxy", "one"),
            handler(HTTPBasicAuthHandler, "http://far.example/", "server", "two"),
        ]
        client = new_client(auth, proxies={"http": proxy.url})
        assert get(client, "http://far.example/") == b"welcome"
        assert len(proxy.requests) == 3
        sent = [
            (each.headers.get("proxy-authorization"), each.headers.get("authorization"))
            for each in proxy.requests
        ]
        assert sent == [
            (None, None),
            (basic("proxy", "one"), None),
            (basic("proxy", "one"), basic("server", "two")),
        ]


def test_a_server_that_plays_the_proxy_gets_nothing():
    with HostileServer([forever(PROXY)]) as server:
        auth = handler(ProxyBasicAuthHandler, server.url, "proxy", "one")
        with pytest.raises(AuthorizationError):
            get(new_client(auth), server.url)
        assert len(server.requests) == 1


def test_a_proxy_that_does_not_take_the_password_is_an_error():
    with HostileServer([forever(PROXY)]) as proxy:
        auth = handler(ProxyBasicAuthHandler, proxy.url, "proxy", "wrong")
        with pytest.raises(AuthorizationError):
            get(new_client(auth, proxies={"http": proxy.url}), "http://far.example/")
        assert len(proxy.requests) == 2


def test_a_proxy_may_want_a_digest():
    challenge = 'Digest realm="p", nonce="n", qop="auth"'
    no = answer(b"", "407 Who?", Proxy_Authenticate=challenge)
    with HostileServer([read, no, ok]) as proxy:
        auth = handler(ProxyDigestAuthHandler, proxy.url, "proxy", "one")
        assert get(new_client(auth, proxies={"http": proxy.url}), "http://far.example/a") == b"2"
        sent = proxy.requests[1].headers["proxy-authorization"]
        assert sent.startswith('Digest username="proxy"')
        assert 'uri="/a"' in sent


# HTTPS: a tunnel


def tunnel_client(proxy, certificate, auth=None, **options):
    return new_client(
        auth, proxies={"https": proxy.url}, ssl_context=certificate.for_client(), **options
    )


def test_https_goes_through_a_tunnel(certificate, tls):
    with HostileServer([read_head, CONNECTED, tls, ok, ok]) as proxy:
        client = tunnel_client(proxy, certificate)
        headers = {"Authorization": "secret"}
        assert get(client, "https://far.example/a", headers=headers) == b"2"
        assert get(client, "https://far.example/b") == b"3"
        assert proxy.connections == 1
        first, second, _ = proxy.requests
        assert (first.method, first.target) == ("CONNECT", "far.example:443")
        assert first.headers["host"] == "far.example:443"
        assert "authorization" not in first.headers
        assert second.target == "/a"
        assert second.headers["host"] == "far.example"


def test_a_tunnel_leads_to_addresses_too(certificate, tls):
    with HostileServer([read_head, answer(b"", "404 No"), close]) as proxy:
        with pytest.raises(StoreError):
            get(tunnel_client(proxy, certificate), "https://[::1]:8443/")
        assert proxy.requests[0].target == "[::1]:8443"


def test_the_certificate_behind_a_tunnel_is_checked(certificate, tls):
    with HostileServer([read_head, CONNECTED, tls, ok]) as proxy:
        with pytest.raises(StoreError, match=r"https://near\.example: the certificate is refused"):
            get(tunnel_client(proxy, certificate), "https://near.example/")
        assert len(proxy.requests) == 1


def test_a_tunnel_may_want_a_password(certificate, tls):
    no = answer(b"no", "407 Who?", Proxy_Authenticate='Basic realm="p"')
    with HostileServer([read_head, no, close], [read_head, CONNECTED, tls, ok]) as proxy:
        auth = handler(ProxyBasicAuthHandler, proxy.url, "proxy", "one")
        client = tunnel_client(proxy, certificate, auth)
        assert get(client, "https://far.example/") == b"3"
        first, second, third = proxy.requests
        assert "proxy-authorization" not in first.headers
        assert second.headers["proxy-authorization"] == basic("proxy", "one")
        # The server does not see it.
        assert "proxy-authorization" not in third.headers


def test_a_server_behind_a_tunnel_that_plays_the_proxy_learns_nothing(certificate, tls):
    no = answer(b"no", "407 Who?", Proxy_Authenticate='Basic realm="p"')
    with HostileServer([read_head, CONNECTED, tls, forever(read_head, no)]) as proxy:
        auth = handler(ProxyBasicAuthHandler, proxy.url, "proxy", "one")
        with pytest.raises(AuthorizationError):
            get(tunnel_client(proxy, certificate, auth), "https://far.example/")
        assert [request.method for request in proxy.requests] == ["CONNECT", "GET"]
        assert "proxy-authorization" not in proxy.requests[1].headers


def test_a_tunnel_whose_proxy_wants_another_password_each_time(certificate):
    class Fickle:
        count = 0

        def find_user_password(self, realm, url):
            self.count += 1
            return "name", str(self.count)

    auth = ProxyBasicAuthHandler()
    auth.passwd = Fickle()
    no = answer(b"no", "407 Who?", Proxy_Authenticate='Basic realm="p"')
    with HostileServer([read_head, no, close]) as proxy:
        with pytest.raises(AuthorizationError):
            get(tunnel_client(proxy, certificate, auth), "https://far.example/")
        assert len(proxy.requests) == 5


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (answer(b"no", "403 No"), AuthorizationError),
        (answer(b"no", "407 Who?"), AuthorizationError),
        (answer(b"no", "404 What?"), StoreError),
        (answer(b"no", "302 There", Location="http://h/"), StoreError),
        (answer(b"no", "502 Bad"), TemporaryError),
        (b"HTTP/1.1 100 Continue\r\n\r\n", StoreError),
        (b"garbage\r\n\r\n", StoreError),
        (b"HTTP/1.1 200 OK\r\n\r\nevil", StoreError),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000, StoreError),
        (b"", TemporaryError),
    ],
    ids=["403", "407", "404", "302", "502", "100", "garbage", "evil", "huge", "nothing"],
)
@pytest.mark.parametrize("end", [close, reset])
def test_a_tunnel_that_is_refused_did_nothing(certificate, data, error, end):
    with HostileServer([read_head, data, end]) as proxy:
        with pytest.raises(error) as caught:
            get(tunnel_client(proxy, certificate), "https://far.example/")
        assert caught.value.happened is False


def test_a_tunnel_in_silence_is_an_error_in_time(certificate):
    with HostileServer([silence]) as proxy, pytest.raises(TemporaryError, match="timed out"):
        get(tunnel_client(proxy, certificate, timeout=0.05), "https://far.example/")


def test_a_proxy_may_have_tls_itself(certificate, tls):
    with HostileServer([tls, ok]) as proxy:
        url = proxy.url.replace("http:", "https:")
        client = new_client(proxies={"http": url}, ssl_context=certificate.for_client())
        assert get(client, "http://far.example/") == b"1"
        assert proxy.requests[0].target == "http://far.example/"


def test_no_tls_by_way_of_tls(certificate, tls):
    with HostileServer([tls, ok]) as proxy:
        url = proxy.url.replace("http:", "https:")
        client = new_client(proxies={"https": url}, ssl_context=certificate.for_client())
        with pytest.raises(StoreError, match="no TLS by way of a proxy"):
            get(client, "https://far.example/")
        assert proxy.requests == []
