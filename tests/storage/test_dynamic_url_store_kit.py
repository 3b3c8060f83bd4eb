"""The conformance kit on stores behind a server."""

from __future__ import annotations

import unittest

import pytest
from application_transport import APPLICATIONS, store_on
from store_kits import DictKit, SqliteKit

from encore.events.event_manager import EventManager
from encore.storage._http_server import Server
from encore.storage._http_session import SessionTransport
from encore.storage.dict_memory_store import DictMemoryStore
from encore.storage.dynamic_url_store import DynamicURLStore
from encore.storage.server import StoreApplication
from encore.testing.conformance import Conditional, Events, Overwriting, StoreConformance


class DictMembers:
    """As DictKit, for a part of the kit."""

    def make_store(self, event_manager):
        return DictMemoryStore(event_manager=event_manager)


class Served:
    """The kit of a store on the same behind a server; mixed in before the kit."""

    def serve(self, store, event_manager=None):
        if not store.is_connected():
            store.connect()
        self.addCleanup(store.disconnect)
        served = store_on(StoreApplication(store), event_manager=event_manager)
        self.addCleanup(APPLICATIONS.clear)
        return served

    def make_store(self, event_manager):
        return self.serve(super().make_store(EventManager()), event_manager)

    def make_handle(self, store):
        return type(store)(store.base_url, store.query_url)

    def process_store(self, store):
        # Other processes do not have the application, but what is pickled here finds it again.
        return store if self._testMethodName == "test_pickling" else None

    def make_relative_store(self, event_manager):
        return None

    failing_commit = StoreConformance.failing_commit


class TestDynamicURLStore(Served, DictKit, unittest.TestCase):
    pass


class Relayed(Served):
    """The same behind two servers: the first has a DynamicURLStore on the second."""

    def serve(self, store, event_manager=None):
        return super().serve(super().serve(store, EventManager()), event_manager)


class TestRelayInShort(Relayed, DictMembers, Conditional, Events, Overwriting, unittest.TestCase):
    """The whole kit is among the slow ones."""


@pytest.mark.slow
class TestRelay(Relayed, DictKit, unittest.TestCase):
    pass


class OverSockets(Served):
    """The same with a server of its own, which other processes reach too."""

    kills = 2
    kind = DynamicURLStore

    def serve(self, store, event_manager=None):
        if not store.is_connected():
            store.connect()
        self.addCleanup(store.disconnect)
        server = Server(StoreApplication(store), "127.0.0.1", 0).start()
        self.addCleanup(server.stop, 0)
        return self.kind(f"{server.url}keys", f"{server.url}query", event_manager=event_manager)

    def process_store(self, store):
        return store if store.info()["durable"] != "none" else None

    def test_disconnect_ends_threads(self):
        self.skipTest("threads of the server, which is in this process, wait for more")

    def test_pickling(self):
        if self.info["durable"] == "none":
            self.skipTest("two handles, but no two processes, share it")
        super().test_pickling()


class RelayedOverSockets(OverSockets):
    def test_large_values_stream_through(self):
        self.skipTest("the memory of three processes is that of one here")

    def serve(self, store, event_manager=None):
        return super().serve(super().serve(store, EventManager()), event_manager)


@pytest.mark.slow
class TestRelayOfSqliteStoreOverSockets(RelayedOverSockets, SqliteKit, unittest.TestCase):
    damage = StoreConformance.damage


@pytest.mark.slow
class TestDynamicURLStoreOverSockets(OverSockets, DictKit, unittest.TestCase):
    pass


@pytest.mark.slow
class TestDynamicURLStoreOfSqliteStoreOverSockets(OverSockets, SqliteKit, unittest.TestCase):
    damage = StoreConformance.damage


class RequestsStore(DynamicURLStore):
    """A store whose requests go by a session of its own, which nobody has to give."""

    def _transport(self, credentials):
        requests = pytest.importorskip("requests", reason="requests is not installed")
        session = requests.Session()
        session.trust_env = False
        return "me", SessionTransport(session)


@pytest.mark.slow
class TestDynamicURLStoreByRequests(OverSockets, DictKit, unittest.TestCase):
    kind = RequestsStore
