"""Who may use the server: HTTP Basic, what is remembered, the file of users and its command."""

import base64
import hashlib
import io
import os
import stat
import sys
import time

import pytest
from served_stores import memory
from wsgi_client import WSGIClient

from encore.__main__ import main
from encore.storage import _passwords, _server_users
from encore.storage._server_users import UsersFile, Verified, set_password
from encore.storage.errors import AuthorizationError, StoreError, StoreOSError
from encore.storage.server import StoreApplication

LOCKED = 'Basic realm="encore.storage", charset="UTF-8"'


@pytest.fixture
def quick(monkeypatch):
    """Scrypt is slow on purpose."""
    monkeypatch.setattr(_passwords, "_N", 2)


@pytest.fixture
def path(tmp_path, quick):
    path = tmp_path / "users"
    set_password(path, "bob", "secret")
    return path


def age(path, seconds=60):
    """Make a file look as if it were written a while ago."""
    then = time.time() - seconds
    os.utime(path, (then, then))


def asked(authenticate, headers):
    application = StoreApplication(memory(k=b"data"), authenticate)
    return WSGIClient(application).get("/keys/k/data", headers)


def basic(text, scheme="Basic"):
    data = text if isinstance(text, bytes) else text.encode()
    return {"Authorization": f"{scheme} {base64.b64encode(data).decode()}"}


# HTTP Basic


@pytest.mark.parametrize(
    ("headers", "given"),
    [
        (basic("bob:secret"), ("bob", "secret")),
        (basic("bob:secret", "basic"), ("bob", "secret")),
        (basic("bob:secret", "BASIC  "), ("bob", "secret")),
        (basic("bob:a:b"), ("bob", "a:b")),
        (basic("bob:"), ("bob", "")),
        (basic("bób:\u20ac\U0001f600"), ("bób", "\u20ac\U0001f600")),
        (basic("bób:pä".encode("latin-1")), ("bób", "pä")),
        (basic("bob:\n\0"), ("bob", "\n\0")),
    ],
)
def test_name_and_password_are_taken_apart(headers, given):
    seen = []
    assert asked(lambda *pair: seen.append(pair) or True, headers).status == 200
    assert seen == [given]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Basic"},
        {"Authorization": "Basic !!!!"},
        {"Authorization": "Basic Ym9i"},  # no colon
        {"Authorization": "Bearer Ym9iOnNlY3JldA=="},
        {"Authorization": "Digest username=bob"},
        # Two headers, as a server puts them together
        {"Authorization": "Basic Ym9iOnNlY3JldA==,Basic Ym9iOnNlY3JldA=="},
        {"Authorization": "Basic Ym9iOnNlY3JldA==, Basic Ym9iOnNlY3JldA=="},
        {"Authorization": "Basic Ym9iOnNlY3JldA"},
        {"Authorization": "Basic \xe9"},
        basic(":secret"),
        basic("bob:" + "x" * 10_000),
    ],
)
def test_what_is_no_name_and_password_is_refused_unasked(headers):
    seen = []
    answer = asked(lambda *pair: seen.append(pair) or True, headers)
    assert (answer.status, answer["WWW-Authenticate"]) == (401, LOCKED)
    assert seen == []


def test_who_is_refused_is_not_told_why():
    def refuse(name, password):
        raise AuthorizationError(f"{name} is locked because of /secret")

    answers = [
        asked(lambda *_: False, basic("bob:wrong")),
        asked(lambda *_: None, basic("nobody:wrong")),
        asked(refuse, basic("bob:wrong")),
    ]
    assert {(each.status, each.body) for each in answers} == {(401, answers[0].body)}
    assert b"secret" not in answers[0].body


def test_nobody_is_let_in_by_an_error():
    def fail(name, password):
        raise StoreError("/secret cannot be read")

    def crash(name, password):
        raise ZeroDivisionError("/secret")

    for authenticate in (fail, crash):
        answer = asked(authenticate, basic("bob:secret"))
        assert answer.status == 500
        assert b"/secret" not in answer.body


# What is remembered


def test_what_was_verified_is_remembered_for_a_minute(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(_server_users, "Verified", lambda: Verified(lambda: now[0]))
    seen = []
    application = StoreApplication(memory(k=b""), lambda *pair: seen.append(pair) or True)
    get = WSGIClient(application, ("bob", "secret"))
    for _ in range(3):
        assert get.get("/keys/k/data").status == 200
    assert len(seen) == 1
    now[0] += 59
    get.get("/keys/k/data")
    assert len(seen) == 1
    now[0] += 2
    get.get("/keys/k/data")
    assert len(seen) == 2


def test_only_the_same_pair_is_remembered():
    seen = []

    def valid(name, password):
        seen.append((name, password))
        return (name, password) == ("bob", "secret")

    application = StoreApplication(memory(k=b""), valid)
    for name, password, status in (
        ("bob", "secret", 200),
        ("bob", "secret2", 401),
        ("bobs", "ecret", 401),
        ("eve", "secret", 401),
        ("bob", "wrong", 401),
        ("bob", "wrong", 401),
        ("bob", "secret", 200),
    ):
        assert WSGIClient(application, (name, password)).get("/keys/k/data").status == status
    # What was refused is not remembered.
    assert len(seen) == 6


def test_no_more_than_so_many_are_remembered():
    now = [0.0]
    verified = Verified(lambda: now[0])
    digests = [verified.digest(str(i).encode()) for i in range(3000)]
    for digest in digests:
        now[0] += 0.001
        verified.add(digest)
        assert verified.knows(digest)
    assert len(verified._until) <= 1000
    now[0] += 60
    verified.add(digests[0])
    assert not verified.knows(digests[-1])


def test_no_password_is_remembered():
    verified = Verified()
    digest = verified.digest(b"bob", b"secret")
    verified.add(digest)
    assert Verified().digest(b"bob", b"secret") != digest
    assert hashlib.blake2b(b"secret").digest() != digest
    assert verified.digest(b"bobs", b"ecret") != digest


# The file of users


def test_the_users_of_a_file_may_log_in(path):
    users = UsersFile(path)
    assert users("bob", "secret")
    assert users("bob", "secret")
    assert not users("bob", "wrong")
    assert not users("Bob", "secret")
    assert not users("nobody", "secret")
    assert not users("", "")
    assert asked(users, basic("bob:secret")).status == 200
    assert asked(users, basic("bob:wrong")).status == 401


def test_an_unknown_user_costs_as_much_as_a_wrong_password(path, monkeypatch):
    users = UsersFile(path)
    hashed = []
    monkeypatch.setattr(
        _server_users, "verify", lambda token, password: hashed.append(token) or True
    )
    assert not users("nobody", "secret")
    assert users("bob", "secret")
    parameters = {token.split(b"$")[1:4][0] for token in hashed}
    assert (len(hashed), parameters) == (2, {b"2"})


def test_a_verified_user_is_not_hashed_again(path, monkeypatch):
    users = UsersFile(path)
    assert users("bob", "secret")
    monkeypatch.setattr(_server_users, "verify", lambda *_: pytest.fail("it was hashed"))
    assert users("bob", "secret")


def test_what_another_thread_has_verified_meanwhile_is_not_hashed_again(path, monkeypatch):
    class Semaphore:
        def __enter__(self):
            digest = users._verified.digest(b"bob", b"secret", users._tokens()["bob"])
            users._verified.add(digest)

        def __exit__(self, *exc_info):
            pass

    users = UsersFile(path)
    users._hashing = Semaphore()
    monkeypatch.setattr(_server_users, "verify", lambda *_: pytest.fail("it was hashed"))
    assert users("bob", "secret")


def test_a_change_of_the_file_counts_at_once(path):
    users = UsersFile(path)
    assert users("bob", "secret")
    set_password(path, "bob", "other")
    assert not users("bob", "secret")
    assert users("bob", "other")
    set_password(path, "eve", "hers")
    assert users("eve", "hers")
    path.write_text("")
    assert not users("bob", "other")
    path.unlink()
    with pytest.raises(StoreOSError):
        users("bob", "other")


def test_a_change_within_the_same_tick_of_the_clock_counts_too(path):
    users = UsersFile(path)
    assert users("bob", "secret")
    status = os.stat(path)
    # In place, of the same size.
    path.write_bytes(path.read_bytes().replace(b"bob", b"eve"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert not users("bob", "secret")
    assert users("eve", "secret")


def test_a_file_that_has_settled_is_not_read_again(path, monkeypatch):
    age(path)
    users = UsersFile(path)
    monkeypatch.setattr(_server_users, "_lines_of", lambda *_: pytest.fail("it was read"))
    assert users("bob", "secret")


@pytest.mark.parametrize(
    "text",
    [
        b"bob",
        b"bob:",
        b"bob:secret",
        b":TOKEN",
        b"bob:TOKEN\nbob:TOKEN",
        b"bob TOKEN",
        b"bob:$2b$12$abcdefghijklmnopqrstuv",
        b"bob:TOKEN:more",
        b"\xff:TOKEN",
    ],
)
def test_a_line_that_is_none_is_told_of_without_its_text(path, text):
    token = path.read_bytes().strip().partition(b":")[2]
    path.write_bytes(b"# users\n\n" + text.replace(b"TOKEN", token))
    with pytest.raises(StoreError, match="UTF-8" if b"\xff" in text else r"line [34] of") as error:
        UsersFile(path)
    assert "secret" not in str(error.value)
    with pytest.raises(StoreError):
        set_password(path, "eve", "hers")


def test_a_file_that_is_damaged_later_lets_nobody_in(path):
    get = WSGIClient(StoreApplication(memory(k=b"data"), UsersFile(path)), ("bob", "secret"))
    assert get.get("/keys/k/data").status == 200
    path.write_bytes(path.read_bytes() + b"\neve")
    answer = get.get("/keys/k/data")
    assert answer.status == 500
    assert str(path) not in answer.body.decode()
    assert get.get("/alive").status == 200


def test_comments_and_empty_lines_are_kept(path):
    path.write_bytes(b"\xef\xbb\xbf# who\r\n\r\n  # may\r\n" + path.read_bytes() + b"\n\n")
    users = UsersFile(path)
    assert users("bob", "secret")
    assert set_password(path, "eve", "hers") is True
    assert set_password(path, "bob", "new") is False
    lines = path.read_text().split("\n")
    assert [line.strip().partition(":")[0] for line in lines] == [
        *("# who", "", "# may", "bob", "eve", "")
    ]
    assert users("bob", "new")
    assert users("eve", "hers")


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
def test_a_new_file_is_for_its_owner_alone(path):
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    path.chmod(0o640)
    set_password(path, "eve", "hers")
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o640
    assert os.listdir(path.parent) == ["users"]


@pytest.mark.parametrize("name", ["", "a:b", "a\nb", " a", "a ", "#a", "\0", "\x1b", "\u2028"])
def test_names_that_no_line_can_have_are_refused(path, name):
    before = path.read_bytes()
    with pytest.raises(ValueError, match="no name"):
        set_password(path, name, "secret")
    assert path.read_bytes() == before


def test_arguments_are_checked(path):
    with pytest.raises(ValueError, match="empty"):
        set_password(path, "eve", "")
    with pytest.raises(ValueError, match="UTF-8"):
        set_password(path, "eve", "\ud800")
    with pytest.raises(TypeError, match="a name is a str"):
        set_password(path, b"eve", "secret")
    with pytest.raises(StoreOSError):
        UsersFile(path.parent / "none")
    assert repr(UsersFile(path)) == f"UsersFile({str(path)!r})"


def test_the_file_is_found_after_chdir(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    users = UsersFile("users")
    monkeypatch.chdir("/")
    assert users("bob", "secret")


# The command


class Terminal(io.TextIOWrapper):
    def __init__(self, data, tty=False):
        super().__init__(io.BytesIO(data))
        self.tty = tty

    def isatty(self):
        return self.tty


def user(path, name, monkeypatch, data):
    monkeypatch.setattr(sys, "stdin", Terminal(data))
    return main(["user", str(path), name])


def test_the_command_adds_users_and_changes_passwords(path, monkeypatch, capsys):
    assert user(path, "eve", monkeypatch, b"hers\r\nmore") == 0
    assert user(path, "eve", monkeypatch, "h\u20acrs".encode()) == 0
    assert capsys.readouterr().out == "eve: added\neve: has a new password\n"
    users = UsersFile(path)
    assert users("eve", "h\u20acrs")
    assert users("bob", "secret")


@pytest.mark.parametrize(
    ("name", "data"), [("eve", b""), ("eve", b"\n"), ("e:ve", b"secret"), ("eve", b"\xff\n")]
)
def test_the_command_says_what_is_wrong(path, name, data, monkeypatch, capsys):
    before = path.read_bytes()
    assert user(path, name, monkeypatch, data) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("typed", "status"), [(["hers", "hers"], 0), (["hers", "other"], 2), (["", ""], 2)]
)
def test_at_a_terminal_the_command_asks_twice(path, typed, status, monkeypatch, capsys):
    import getpass

    answers = iter(typed)
    monkeypatch.setattr(sys, "stdin", Terminal(b"", tty=True))
    monkeypatch.setattr(getpass, "getpass", lambda prompt: next(answers))
    assert main(["user", str(path), "eve"]) == status
    assert UsersFile(path)("eve", "hers") == (status == 0)
    assert "hers" not in "".join(capsys.readouterr())


def test_an_end_at_the_terminal_is_no_password(path, monkeypatch, capsys):
    import getpass

    def end(prompt):
        raise EOFError

    monkeypatch.setattr(sys, "stdin", Terminal(b"", tty=True))
    monkeypatch.setattr(getpass, "getpass", end)
    assert main(["user", str(path), "eve"]) == 2


def test_a_file_that_is_none_of_users_is_left_alone(path, monkeypatch, capsys):
    path.write_text("something else")
    assert user(path, "eve", monkeypatch, b"hers") == 1
    assert path.read_text() == "something else"
    assert "line 1" in capsys.readouterr().err
