"""StaticURLStore: the conformance kit, and the mixin of 0.8, over HTTP and over files."""

from __future__ import annotations

import io
import json
import tempfile
import unittest
from contextlib import ExitStack
from pathlib import Path

import pytest
from static_site import Site, serving

from encore.events.event_manager import EventManager
from encore.storage._http_server import Server
from encore.storage.dict_memory_store import DictMemoryStore
from encore.storage.server import StoreApplication
from encore.storage.static_url_store import StaticURLStore
from encore.storage.tests.abstract_test import TEST1, TEST1_METADATA, StoreReadTestMixin
from encore.testing.conformance import ReadOnlyStoreConformance


class Served:
    #: What the server can do, if not everything.
    options: dict[str, object] = {}

    def setUp(self):
        self.stack = ExitStack()
        self.addCleanup(self.stack.close)
        super().setUp()

    def make_filled_store(self, contents, event_manager=None):
        url = self.stack.enter_context(serving(Site(contents), **self.options))
        return StaticURLStore(url, "data/", "index.json", event_manager=event_manager)


class InFiles(Served):
    def make_filled_store(self, contents, event_manager=None):
        root = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        for key, (data, _) in contents.items():
            path = root / "data" / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        index = {key: metadata for key, (_, metadata) in contents.items()}
        (root / "index.json").write_text(json.dumps(index))
        return StaticURLStore(f"file:{root}/", "data/", "index.json", event_manager=event_manager)


class TestOverHTTP(Served, ReadOnlyStoreConformance, unittest.TestCase):
    pass


@pytest.mark.slow
class TestOverHTTP10(Served, ReadOnlyStoreConformance, unittest.TestCase):
    """A server that knows no ranges, no HEAD, no etags, and closes each connection."""

    options = {"ranges": False, "head": False, "etags": False, "keep_alive": False}


@pytest.mark.slow
class TestWithoutLengths(Served, ReadOnlyStoreConformance, unittest.TestCase):
    """A server that answers HEAD alone with a Content-Length."""

    options = {"lengths": "head", "ranges": False, "keep_alive": False}


@pytest.mark.slow
class TestOverOurServer(Served, ReadOnlyStoreConformance, unittest.TestCase):
    def make_filled_store(self, contents, event_manager=None):
        inner = DictMemoryStore(event_manager=EventManager())
        for key, (data, metadata) in contents.items():
            inner.set(key, (io.BytesIO(data), metadata))
        server = self.stack.enter_context(Server(StoreApplication(inner, static=True), port=0))
        return StaticURLStore(server.url, "data/", "index.json", event_manager=event_manager)


class TestInFiles(InFiles, ReadOnlyStoreConformance, unittest.TestCase):
    pass


class Mixin(StoreReadTestMixin):
    resolution = "second"

    def setUp(self):
        super().setUp()
        contents = {
            f"key{number}": (
                b"value%d" % number,
                {
                    "query_test1": "value",
                    "query_test2": number,
                    **({} if number % 2 else {"optional": True}),
                },
            )
            for number in range(10)
        }
        self.store = self.make_filled_store({"test1": (TEST1, TEST1_METADATA), **contents})


class TestMixinOverHTTP(Served, Mixin, unittest.TestCase):
    pass


class TestMixinInFiles(InFiles, Mixin, unittest.TestCase):
    pass
