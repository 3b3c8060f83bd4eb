"""The errors carry facts, and survive what is done with errors."""

from __future__ import annotations

import copy
import errno
import pickle

import pytest

from encore.storage import abstract_store
from encore.storage.errors import (
    AuthorizationError,
    PreconditionError,
    StoreError,
    StoreOSError,
    from_os_error,
    os_errors,
    shown,
)


@pytest.mark.parametrize("kind", [StoreError, AuthorizationError, PreconditionError])
def test_a_store_error_is_a_runtime_error_with_a_key(kind):
    error = kind("text", key="k")
    assert isinstance(error, RuntimeError)
    assert isinstance(error, StoreError)
    assert error.key == "k"
    assert str(error) == "text"
    assert kind("text").key is None
    assert not isinstance(error, OSError)


def test_the_contract_has_them_too():
    assert abstract_store.StoreError is StoreError
    assert abstract_store.AuthorizationError is AuthorizationError
    assert abstract_store.PreconditionError is PreconditionError


def test_a_store_os_error_is_an_os_error():
    error = from_os_error(OSError(errno.ENOSPC, "No space", "/x"), key="k")
    assert isinstance(error, StoreError)
    assert isinstance(error, OSError)
    assert (error.errno, error.strerror, error.filename, error.key) == (
        errno.ENOSPC,
        "No space",
        "/x",
        "k",
    )
    assert str(error) == f"[Errno {errno.ENOSPC}] No space: '/x'"
    assert from_os_error(OSError("just text")).errno is None
    assert str(from_os_error(OSError("just text"))) == "just text"
    assert from_os_error(OSError()).key is None


@pytest.mark.parametrize(
    "error",
    [
        StoreError("a", 1, key="k"),
        PreconditionError("a"),
        StoreOSError(5, "b", "/c", key="k"),
        StoreOSError("x"),
    ],
    ids=repr,
)
def test_errors_can_be_pickled_and_copied(error):
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(twin) is type(error)
        assert (str(twin), twin.key, twin.args) == (str(error), error.key, error.args)
        assert getattr(twin, "filename", None) == getattr(error, "filename", None)


def test_os_errors_turns_os_errors_into_store_errors():
    with pytest.raises(StoreOSError) as caught, os_errors("k"):
        open("/no such folder/x")  # noqa: SIM115 - it raises
    assert caught.value.errno == errno.ENOENT
    assert caught.value.filename == "/no such folder/x"
    assert caught.value.key == "k"
    assert isinstance(caught.value.__cause__, FileNotFoundError)


@pytest.mark.parametrize(
    "error",
    [StoreError("a"), StoreOSError(5, "b"), KeyError("k"), ValueError(), KeyboardInterrupt()],
    ids=repr,
)
def test_os_errors_lets_everything_else_through(error):
    with pytest.raises(type(error)) as caught, os_errors("k"):
        raise error
    assert caught.value is error


def test_shown_is_short_and_never_raises():
    class Broken:
        def __repr__(self):
            raise RecursionError

    assert shown([1]) == "list: [1]"
    assert shown(Broken()) == "Broken: ..."
    assert shown(10**5000).startswith("int: ")
    for value in (b"x" * 10**6, bytearray(10**6), "x" * 10**6, 10**5000, [10**5000]):
        assert len(shown(value)) < 100
