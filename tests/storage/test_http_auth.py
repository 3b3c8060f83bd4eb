"""Names and passwords: Basic and Digest, to whom they are sent, and when."""

import base64
import hashlib
import itertools
import pickle
import re
import threading
from urllib.request import (
    HTTPBasicAuthHandler,
    HTTPDigestAuthHandler,
    HTTPPasswordMgrWithDefaultRealm,
    HTTPPasswordMgrWithPriorAuth,
)

import pytest
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
)
from http_clients import close_all, new_client

from encore.storage import _http_auth
from encore.storage._http_auth import Digest, Logins, challenges
from encore.storage.errors import AuthorizationError, StoreError, TemporaryError

REALM = "encore.storage"


@pytest.fixture(autouse=True)
def _close_clients():
    yield
    close_all()


def handler(url, kind=HTTPBasicAuthHandler, user="Jäsøn", password="pass:wörd", realm=REALM):
    made = kind()
    made.add_password(realm=realm, uri=url, user=user, passwd=password)
    return made


def basic(user="Jäsøn", password="pass:wörd"):
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def unauthorized(challenge, body=b"no"):
    return answer(body, "401 Who?", WWW_Authenticate=challenge)


BASIC = f'Basic realm="{REALM}"'


def wants_basic(peer):
    """Answer who has the password."""
    read(peer)
    good = peer.request.headers.get("authorization") == basic()
    peer.sock.sendall(answer(b"welcome") if good else unauthorized(BASIC))


class WantsDigest:
    """A server that lets in who knows the password, by a computation of its own."""

    def __init__(self, algorithm="MD5", qop="auth", uses=1000, stale=True, **more):
        self.algorithm = algorithm
        self.qop = qop
        self.uses = uses
        self.stale = stale
        self.more = more
        self.numbers = itertools.count(1)
        self.nonce = None
        self.used = []
        self.lock = threading.Lock()

    def challenge(self, stale=False):
        self.nonce = f'n"{next(self.numbers)}\\'
        self.used = []
        parts = [f'realm="{REALM}"', 'nonce="' + re.sub(r'(["\\])', r"\\\1", self.nonce) + '"']
        if self.algorithm is not None:
            parts.append(f"algorithm={self.algorithm}")
        if self.qop is not None:
            parts.append(f'qop="{self.qop}"')
        if stale:
            parts.append("stale=TRUE" if self.stale else "stale=false")
        parts += [f'{name}="{value}"' for name, value in self.more.items()]
        return "Digest " + ", ".join(parts)

    def __call__(self, peer):
        read(peer)
        with self.lock:
            reply = self.reply(peer.request)
        peer.sock.sendall(reply)

    def reply(self, request):
        header = request.headers.get("authorization")
        if header is None:
            return unauthorized(self.challenge())
        fields = dict(re.findall(r'(\w+)=("(?:[^"\\]|\\.)*"|[^",\s]+)', header))
        fields = {
            name: re.sub(r"\\(.)", r"\1", value[1:-1]) if value[0] == '"' else value
            for name, value in fields.items()
        }
        if fields["nonce"] != self.nonce or len(self.used) >= self.uses:
            return unauthorized(self.challenge(stale=True))
        assert self.expected(request, fields) == fields["response"]
        assert fields["uri"] == request.target
        assert fields.get("opaque") == self.more.get("opaque")
        assert fields.get("algorithm") == self.algorithm
        if self.qop is None:
            assert "qop" not in fields
        else:
            assert fields["qop"] == "auth"
            number = int(fields["nc"], 16)
            assert len(fields["nc"]) == 8
            assert number not in self.used
            self.used.append(number)
        return answer(b"welcome")

    def expected(self, request, fields):
        name = (self.algorithm or "MD5").upper()
        kind = {"MD5": "md5", "SHA-256": "sha256", "SHA-512-256": "sha512_256"}[
            name.removesuffix("-SESS")
        ]

        def hashed(*parts):
            return hashlib.new(kind, b":".join(parts)).hexdigest().encode()

        client, nonce = fields.get("cnonce", "").encode(), fields["nonce"].encode()
        one = hashed("Jäsøn".encode(), REALM.encode(), "pass:wörd".encode())
        if name.endswith("-SESS"):
            one = hashed(one, nonce, client)
        two = hashed(request.method.encode(), request.target.encode())
        if self.qop is None:
            return hashed(one, nonce, two).decode()
        return hashed(one, nonce, fields["nc"].encode(), client, b"auth", two).decode()


def get(client, url):
    return client.request("GET", url).read()


# Basic


def test_a_password_is_sent_when_it_is_asked_for_and_then_at_once():
    with HostileServer([forever(wants_basic)]) as server:
        client = new_client(handler(server.url))
        assert get(client, server.url) == b"welcome"
        assert get(client, server.url + "a/b") == b"welcome"
        assert ["authorization" in each.headers for each in server.requests] == [False, True, True]
        # One connection was enough.
        assert server.connections == 1


def test_without_a_password_there_is_an_error():
    with HostileServer([forever(wants_basic)]) as server:
        with pytest.raises(AuthorizationError) as caught:
            get(new_client(attempts=3), server.url)
        assert caught.value.status == 401
        assert len(server.requests) == 1


def test_a_wrong_password_is_sent_once():
    with HostileServer([forever(wants_basic)]) as server:
        client = new_client(handler(server.url, password="wrong"), attempts=3)
        with pytest.raises(AuthorizationError) as caught:
            get(client, server.url)
        assert "wrong" not in str(caught.value)
        assert len(server.requests) == 2
        with pytest.raises(AuthorizationError):
            get(client, server.url)
        assert len(server.requests) == 3


@pytest.mark.parametrize(
    "challenge",
    [
        'Basic realm="other"',
        "Basic",
        "",
        "Negotiate",
        "Bearer realm=x",
        f'Digest realm="{REALM}"',
        f'Digest realm="{REALM}", nonce="x", algorithm=ROT13',
        f'Digest realm="{REALM}", nonce="x", qop="auth-int"',
        'Basic realm="' + "x" * 60_000 + '"',
        '"' * 5000,
        "a=" * 5000,
        ", " * 5000,
    ],
)
def test_challenges_that_cannot_be_answered_are_errors(challenge):
    with HostileServer([forever(read, unauthorized(challenge))]) as server:
        with pytest.raises(AuthorizationError):
            get(new_client(handler(server.url)), server.url)
        assert len(server.requests) == 1


def test_a_server_that_asks_for_another_password_each_time_is_left():
    class Fickle:
        def __init__(self):
            self.numbers = itertools.count()

        def find_user_password(self, realm, url):
            return "name", f"password{next(self.numbers)}"

    made = HTTPBasicAuthHandler()
    made.passwd = Fickle()
    with HostileServer([forever(read, unauthorized(BASIC))]) as server:
        with pytest.raises(AuthorizationError):
            get(new_client(made), server.url)
        assert len(server.requests) == 5


def test_a_header_of_the_caller_stays():
    with HostileServer([forever(read, unauthorized(BASIC))]) as server:
        with pytest.raises(AuthorizationError):
            new_client(handler(server.url)).request(
                "GET", server.url, headers={"authorization": "mine"}
            )
        [request] = server.requests
        assert request.headers["authorization"] == "mine"


def test_a_password_is_for_the_url_that_it_was_given_for():
    with HostileServer([forever(read, unauthorized(BASIC))]) as server:
        with pytest.raises(AuthorizationError):
            get(new_client(handler(server.url + "private/")), server.url + "public/x")
        assert len(server.requests) == 1


def test_two_places_of_one_server_may_have_passwords_of_their_own():
    passwords = {"/a": basic("ann", "1"), "/b": basic("bob", "2")}

    def place(peer):
        read(peer)
        good = peer.request.headers.get("authorization") == passwords[peer.request.target]
        peer.sock.sendall(
            answer(b"welcome") if good else unauthorized(f'Basic realm="{peer.request.target}"')
        )

    with HostileServer([forever(place)]) as server:
        made = handler(server.url + "a", user="ann", password="1", realm="/a")
        made.add_password("/b", server.url + "b", "bob", "2")
        client = new_client(made)
        for _ in range(2):
            assert get(client, server.url + "a") == get(client, server.url + "b") == b"welcome"


@pytest.mark.parametrize("realm", ["Räume", 'a "quoted" one', "a, b=c", ""])
def test_a_realm_may_have_any_name(realm):
    quoted = re.sub(r'(["\\])', r"\\\1", realm).encode().decode("latin-1")
    script = [read, unauthorized(f'Basic realm="{quoted}"'), ok]
    with HostileServer(script) as server:
        assert get(new_client(handler(server.url, realm=realm)), server.url) == b"2"


def test_a_realm_may_be_any():
    made = HTTPBasicAuthHandler(HTTPPasswordMgrWithDefaultRealm())
    with HostileServer([forever(wants_basic)]) as server:
        made.add_password(None, server.url, "Jäsøn", "pass:wörd")
        assert get(new_client(made), server.url) == b"welcome"


def test_a_password_may_be_sent_without_being_asked_for():
    manager = HTTPPasswordMgrWithPriorAuth()
    with HostileServer([forever(wants_basic)]) as server:
        manager.add_password(None, server.url, "Jäsøn", "pass:wörd", is_authenticated=True)
        assert get(new_client(HTTPBasicAuthHandler(manager)), server.url) == b"welcome"
        assert len(server.requests) == 1


def test_anything_that_knows_passwords_will_do():
    class Passwords:
        def find_user_password(self, realm, url):
            return ("Jäsøn", "pass:wörd") if realm == REALM else (None, None)

    class Handler:
        passwd = Passwords()

    with HostileServer([forever(wants_basic)]) as server:
        assert get(new_client(Handler()), server.url) == b"welcome"


def test_a_password_may_stand_in_the_url():
    with HostileServer([forever(wants_basic)]) as server:
        client = new_client()
        url = f"http://J%C3%A4s%C3%B8n:pass%3Aw%C3%B6rd@127.0.0.1:{server.port}/"
        assert get(client, url) == get(client, url) == b"welcome"
        assert "@" not in server.requests[0].headers["host"]
        assert len(server.requests) == 3


# Digest


@pytest.mark.parametrize(
    "algorithm", [None, "MD5", "md5", "SHA-256", "MD5-sess", "SHA-256-sess", "SHA-512-256"]
)
@pytest.mark.parametrize("qop", ["auth", "auth-int, auth", "AUTH", None])
def test_digest(algorithm, qop):
    if algorithm == "SHA-512-256" and "sha512_256" not in hashlib.algorithms_available:
        pytest.skip("this Python has no SHA-512/256")
    server_side = WantsDigest(algorithm, qop, opaque="o p")
    with HostileServer([forever(server_side)]) as server:
        client = new_client(handler(server.url, HTTPDigestAuthHandler))
        for path in ("a", "b?c=%20d", "c"):
            assert get(client, server.url + path) == b"welcome"
        if qop is not None:
            assert server_side.used == [1, 2, 3]
        assert len(server.requests) == 4
        assert server.connections == 1


@pytest.mark.parametrize("kind", [HTTPBasicAuthHandler, HTTPDigestAuthHandler])
@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_digest_of_what_is_written(kind, method):
    with HostileServer([forever(WantsDigest("SHA-256"))]) as server:
        client = new_client(handler(server.url, kind))
        assert client.request(method, server.url, body=b"abc").read() == b"welcome"
        assert [each.body for each in server.requests] == [b"abc", b"abc"]


@pytest.mark.parametrize("stale", [True, False])
def test_a_number_that_is_stale_is_renewed(stale):
    # Some servers forget to say why.
    server_side = WantsDigest(uses=2, stale=stale)
    with HostileServer([forever(server_side)]) as server:
        client = new_client(handler(server.url, HTTPDigestAuthHandler))
        for _ in range(6):
            assert get(client, server.url) == b"welcome"
        assert len(server.requests) == 9


def test_numbers_that_are_stale_at_once_are_not_renewed_for_ever():
    with HostileServer([forever(WantsDigest(uses=0))]) as server:
        with pytest.raises(AuthorizationError):
            get(new_client(handler(server.url, HTTPDigestAuthHandler)), server.url)
        assert len(server.requests) == 5


@pytest.mark.parametrize("is_new", [True, False])
def test_a_wrong_password_is_shown_once(is_new):
    """Nobody is locked out by one call."""
    numbers = itertools.count()

    def refuse(peer):
        read(peer)
        number = next(numbers) if is_new else "same"
        peer.sock.sendall(unauthorized(f'Digest realm="{REALM}", nonce="{number}", qop="auth"'))

    with HostileServer([forever(refuse)]) as server:
        client = new_client(handler(server.url, HTTPDigestAuthHandler))
        for _ in range(2):
            with pytest.raises(AuthorizationError):
                get(client, server.url)
        # The second call could not know that the old number was not the reason.
        assert len(server.requests) == 4


def test_numbers_of_threads_differ():
    server_side = WantsDigest()
    with HostileServer([forever(server_side)]) as server:
        client = new_client(handler(server.url, HTTPDigestAuthHandler))
        get(client, server.url)
        found = []

        def work():
            found.extend(get(client, server.url) for _ in range(20))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert found == [b"welcome"] * 80
        assert sorted(server_side.used) == list(range(1, 82))


def test_who_has_chosen_digest_never_sends_the_password():
    with HostileServer([forever(wants_basic)]) as server:
        with pytest.raises(AuthorizationError):
            get(new_client(handler(server.url, HTTPDigestAuthHandler)), server.url)
        assert len(server.requests) == 1


@pytest.mark.parametrize("is_one_header", [True, False])
def test_the_strongest_of_several_ways_is_taken(is_one_header):
    ways = [
        f'Basic realm="{REALM}", charset="UTF-8"',
        f'Digest realm="{REALM}", nonce="1", qop="auth", algorithm=MD5',
        f'Digest realm="{REALM}", nonce="2", qop="auth", algorithm=SHA-256',
        f'Digest realm="{REALM}", nonce="3", qop="auth", algorithm=SHA-3',
    ]
    for order in (ways, ways[::-1]):
        if is_one_header:
            first = unauthorized(", ".join(order))
        else:
            lines = "".join(f"WWW-Authenticate: {each}\r\n" for each in order)
            first = f"HTTP/1.1 401 No\r\n{lines}Content-Length: 0\r\n\r\n".encode()
        with HostileServer([read, first, ok]) as server:
            get(new_client(handler(server.url)), server.url)
            sent = server.requests[1].headers["authorization"]
            assert "algorithm=SHA-256" in sent
            assert 'nonce="2"' in sent


@pytest.mark.parametrize(
    ("algorithm", "response"),
    [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
def test_the_examples_of_the_standard(algorithm, response, monkeypatch):
    """RFC 7616, 3.9.1."""
    client = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
    monkeypatch.setattr(_http_auth, "_new_number", lambda: client)
    challenge = {
        "realm": "http-auth@example.org",
        "qop": "auth, auth-int",
        "algorithm": algorithm,
        "nonce": "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v",
        "opaque": "FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS",
    }
    header = Digest("Mufasa", "Circle of Life", challenge).header("GET", "/dir/index.html")
    assert header == (
        'Digest username="Mufasa", realm="http-auth@example.org", '
        'nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", uri="/dir/index.html", '
        f'response="{response}", algorithm={algorithm}, '
        'opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS", qop=auth, nc=00000001, '
        f'cnonce="{client}"'
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Basic", [("basic", {})]),
        ('Basic realm="a"', [("basic", {"realm": "a"})]),
        ("basic REALM=a", [("basic", {"realm": "a"})]),
        ('Basic realm = "a \\"b\\" , c" ', [("basic", {"realm": 'a "b" , c'})]),
        ('A x=1, y="2", B, C z=3', [("a", {"x": "1", "y": "2"}), ("b", {}), ("c", {"z": "3"})]),
        ("Basic realm=a, realm=b", [("basic", {"realm": "a"})]),
        ('Basic realm="', [("basic", {"realm": ""})]),
        ("x=1, Basic", [("basic", {})]),
        ("", []),
        ("!!! ???", [("!!!", {})]),
    ],
)
def test_challenges_are_taken_apart(text, expected):
    found = list(challenges(text))
    assert [
        (scheme, {k: v for k, v in fields.items() if k != "x" or scheme == "a"})
        for scheme, fields in found
    ] == expected


# To whom


def test_another_server_gets_no_password_though_it_asks_for_one():
    with (
        HostileServer([forever(wants_basic)]) as other,
        HostileServer([forever(read, answer(b"", "302 There", Location=other.url))]) as home,
    ):

        class Careless:
            """It tells the password to anybody."""

            def find_user_password(self, realm, url):
                return "Jäsøn", "pass:wörd"

        made = HTTPBasicAuthHandler()
        made.passwd = Careless()
        with pytest.raises(AuthorizationError):
            get(new_client(made), home.url)
        assert [each.headers.get("authorization") for each in other.requests] == [None]


def test_another_server_gets_no_password_though_it_is_known_there():
    with (
        HostileServer([forever(wants_basic)]) as other,
        HostileServer([forever(read, answer(b"", "302 There", Location=other.url))]) as home,
    ):
        made = handler(other.url)
        client = new_client(made)
        assert get(client, other.url) == b"welcome"
        with pytest.raises(AuthorizationError):
            get(client, home.url)
        assert "authorization" not in other.requests[-1].headers


def test_the_same_server_gets_the_password_after_a_redirect():
    def script(peer):
        read(peer)
        if peer.request.target == "/":
            peer.sock.sendall(answer(b"", "302 There", Location="/there"))
        else:
            good = peer.request.headers.get("authorization") == basic()
            peer.sock.sendall(answer(b"welcome") if good else unauthorized(BASIC))

    with HostileServer([forever(script)]) as server:
        assert get(new_client(handler(server.url)), server.url) == b"welcome"


# Bodies


class Stream:
    """A stream that cannot go back."""

    def __init__(self, data):
        self.data = [data]

    def read(self, size):
        return self.data.pop() if self.data else b""


def test_a_stream_is_not_begun_before_the_password_is_known():
    def script(peer):
        read_head(peer)
        assert peer.request.headers["expect"] == "100-continue"
        if "authorization" in peer.request.headers:
            peer.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            peer.body(peer.request)
            peer.sock.sendall(answer(b"welcome"))
        else:
            peer.sock.sendall(unauthorized(BASIC))

    with HostileServer([script, close], [script, close]) as server:
        client = new_client(handler(server.url), continue_wait=10.0)
        response = client.request(
            "PUT", server.url, body=Stream(b"abc"), headers={"Content-Length": "3"}
        )
        assert response.read() == b"welcome"
        assert server.requests[1].body == b"abc"


def test_a_stream_that_is_gone_when_the_password_is_asked_for_is_an_error():
    with HostileServer([forever(wants_basic)]) as server:
        with pytest.raises(AuthorizationError):
            new_client(handler(server.url), continue_wait=0.0).request(
                "PUT", server.url, body=Stream(b"abc")
            )
        assert len(server.requests) == 1


def test_a_server_that_hangs_up_instead_of_listening_to_the_password():
    with HostileServer([read, unauthorized(BASIC), read, reset], [ok]) as server:
        # As with every connection that was kept: once more.
        assert get(new_client(handler(server.url)), server.url) == b"3"
    with (
        HostileServer([read, unauthorized(BASIC), read, reset], [ok]) as server,
        pytest.raises(TemporaryError),
    ):
        new_client(handler(server.url)).request("POST", server.url, body=b"x")


def test_a_refusal_without_end_is_not_read_to_its_end():
    head = f"HTTP/1.1 401 No\r\nWWW-Authenticate: {BASIC}\r\n\r\n".encode()
    with HostileServer([read, head, forever(b"x" * 65536)], [ok]) as server:
        assert get(new_client(handler(server.url)), server.url) == b"2"


def test_a_refusal_in_silence_is_an_error_in_time():
    head = f"HTTP/1.1 401 No\r\nContent-Length: 5\r\nWWW-Authenticate: {BASIC}\r\n\r\n".encode()
    with HostileServer([read, head, silence]) as server, pytest.raises(StoreError):
        get(new_client(handler(server.url), timeout=0.05), server.url)


def test_logins_can_be_pickled_without_what_they_found_out():
    with HostileServer([forever(WantsDigest())]) as server:
        client = new_client(handler(server.url, HTTPDigestAuthHandler))
        get(client, server.url)
        logins = pickle.loads(pickle.dumps(client._transport._logins))
        assert isinstance(logins, Logins)
        assert logins._known == {}
        assert logins._handlers[0].passwd.find_user_password(REALM, server.url)[0] == "Jäsøn"
        assert "Jäsøn" not in repr(logins)
