"""What the tests of StaticURLStore share."""

import pytest
from static_site import PATHS, Site, serving

from encore.events.event_manager import EventManager
from encore.storage.events import StoreModificationEvent
from encore.storage.static_url_store import StaticURLStore


@pytest.fixture
def site():
    return Site({"a": (b"data of a", {"n": 1}), "b/c": (b"data of b/c", {"n": 2})})


@pytest.fixture
def url(site):
    with serving(site) as url:
        yield url


@pytest.fixture
def make():
    """A function that makes stores, which are disconnected at the end."""
    stores = []

    def make(url, *, connect=True, **options):
        defaults = {"poll": 0, "event_manager": EventManager(), "timeout": 5.0}
        store = StaticURLStore(url, *PATHS, **{**defaults, **options})
        stores.append(store)
        if connect:
            store.connect()
        return store

    yield make
    for store in stores:
        store.disconnect()


@pytest.fixture
def told():
    """A function that returns a list of what a store tells."""

    def record(store):
        found = []

        def listener(event):
            assert event.source is store
            found.append((event.action, event.key, event.metadata, event.remote))

        store.event_manager.connect(StoreModificationEvent, listener)
        return found

    return record
