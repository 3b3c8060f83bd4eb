"""Modules whose names are imported when they are first used."""

import ast
import importlib
import inspect

import pytest

MODULES = [
    importlib.import_module(name)
    for name in (
        "encore.concurrent.futures",
        "encore.events.api",
        "encore.storage.api",
        "encore.terminal",
    )
]


def homes_for_the_checker(module):
    """What a type checker is told: name -> module."""
    (block,) = (node for node in ast.parse(inspect.getsource(module)).body if type(node) is ast.If)
    return {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
class TestEveryModule:
    def test_a_name_stands_in_all_places(self, module):
        assert sorted(homes_for_the_checker(module)) == sorted(module.__all__)
        assert len(set(module.__all__)) == len(module.__all__)
        assert set(module.__all__) <= set(dir(module))

    def test_each_name_is_that_of_its_home(self, module):
        is_package = hasattr(module, "__path__")
        package = module.__name__ if is_package else module.__name__.rpartition(".")[0]
        for name, home in homes_for_the_checker(module).items():
            found = importlib.import_module(f"{package}.{home}")
            assert getattr(module, name) is getattr(found, name)
            assert name in found.__all__

    def test_a_star_import_gives_every_name(self, module):
        names = {}
        exec(f"from {module.__name__} import *", names)
        assert set(module.__all__) <= set(names)

    def test_an_unknown_name_is_an_attribute_error(self, module):
        with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
            module.Nothing  # noqa: B018 - it raises
        with pytest.raises(ImportError):
            exec(f"from {module.__name__} import Nothing")
