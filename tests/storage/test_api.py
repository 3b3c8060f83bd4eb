"""encore.storage.api: every public name, found where it lives when it is first used."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys

import pytest

from encore.storage import api


@pytest.mark.parametrize("name", api.__all__)
def test_each_name_is_that_of_its_module(name):
    home = importlib.import_module(f"encore.storage.{api._MODULES[name]}")
    assert getattr(api, name) is getattr(home, name)
    assert name in home.__all__


def test_a_name_stands_in_all_three_places():
    tree = ast.parse(inspect.getsource(api))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imported = {
        (node.module, alias.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported == {(module, name) for module, names in api._HOME.items() for name in names}
    assert sorted(api.__all__) == sorted(api._MODULES)
    assert len(set(api.__all__)) == len(api.__all__)
    assert dir(api) == sorted(api.__all__)


def test_a_star_import_gives_every_name():
    names = {}
    exec("from encore.storage.api import *", names)
    assert set(api.__all__) <= set(names)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'NoSuchStore'"):
        api.NoSuchStore  # noqa: B018 - it raises
    with pytest.raises(ImportError):
        exec("from encore.storage.api import NoSuchStore")


def test_importing_the_api_imports_no_store():
    code = (
        "import sys, encore.storage.api as api\n"
        "loaded = [name for name in sys.modules if name.startswith('encore')]\n"
        "assert sorted(loaded) == ['encore', 'encore.storage', 'encore.storage.api'], loaded\n"
        "api.StringValue\n"
        "assert 'encore.storage.string_value' in sys.modules\n"
        "assert 'encore.storage.sqlite_store' not in sys.modules\n"
        "assert 'StringValue' in vars(api)\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)
