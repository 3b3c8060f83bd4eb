"""SimpleAuthStores that the conformance kit can use: connect() logs in without being told who."""

from __future__ import annotations

import hashlib
import io

from encore.storage.simple_auth_store import SimpleAuthStore

CREDENTIALS = {"username": "user", "password": "secret"}


def quick_encoder(password):
    """Scrypt is slow on purpose."""
    return hashlib.sha256(b"salt" + password).digest()


class LoggedInStore(SimpleAuthStore):
    def connect(self, credentials=CREDENTIALS):
        super().connect(credentials)


class DecidingStore(LoggedInStore):
    """One whose check_permissions() is asked."""

    def check_permissions(self, key=None):
        return ["exists", "get", "set", "delete", "connect"]


def logged_in(store, event_manager=None, kind=LoggedInStore):
    """Return a store around another that has, or will get, the user of CREDENTIALS."""
    wrapped = kind(store, quick_encoder, event_manager=event_manager)
    try:
        wrapped.add_user(**{"name": CREDENTIALS["username"], "password": CREDENTIALS["password"]})
    except ValueError:
        # That is another handle on the same data.
        pass
    return wrapped


# And what the tests of it share.

BOB = {"username": "bob", "password": "pw"}


def contents(store):
    return {key: (store.to_bytes(key), store.get_metadata(key)) for key in store.query_keys()}


def stream():
    return io.BytesIO(b"new")


def raised(call, *args):
    """Return what a call raises, None if it does not."""
    try:
        call(*args)
    except Exception as error:
        return error
    return None
