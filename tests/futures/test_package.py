from __future__ import annotations

import importlib

import pytest

import encore.concurrent.futures as package

HOMES = {
    "ABCWorkScheduler": "abc_work_scheduler",
    "Asynchronizer": "asynchronizer",
    "DelayedAsynchronizer": "delayed_asynchronizer",
    "EnhancedThreadPoolExecutor": "enhanced_thread_pool_executor",
    "Future": "future",
    "Serializer": "serializer",
    "SerializingAsynchronizer": "serializing_asynchronizer",
    "SynchronousExecutor": "synchronous",
}


def test_every_name_is_the_one_of_its_module():
    assert sorted(package.__all__) == sorted(HOMES)
    for name, home in HOMES.items():
        module = importlib.import_module(f"encore.concurrent.futures.{home}")
        assert getattr(package, name) is getattr(module, name)
        assert name in module.__all__


def test_other_names_are_missing():
    with pytest.raises(AttributeError, match="nonsense"):
        package.nonsense  # noqa: B018


def test_importing_the_package_loads_none_of_it(child):
    program = """
import sys
before = set(sys.modules)
import encore.concurrent.futures
print(*sorted({"concurrent.futures", "logging", "threading"} & (set(sys.modules) - before)))
print("lazily")
from encore.concurrent.futures import SynchronousExecutor
print("encore.concurrent.futures.serializer" in sys.modules)
"""
    assert child(program) == (0, ["lazily", "False"])
