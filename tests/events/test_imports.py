import subprocess
import sys

import pytest

import encore.events.api


def loaded(statement):
    """The modules that a statement loads into a fresh interpreter."""
    code = (
        "import sys; before = set(sys.modules)\n"
        f"{statement}\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return set(result.stdout.split())


def test_importing_encore_imports_nothing_else():
    assert loaded("import encore") == {"encore"}


def test_importing_the_events_loads_no_heavy_modules():
    modules = loaded("import encore.events.api; encore.events.api.EventManager()")
    heavy = {"logging", "uuid", "threading", "typing", "inspect", "dataclasses", "weakref", "types"}
    assert not modules & heavy
    ours = {name for name in modules if name.startswith("encore.")}
    assert {name for name in ours if "events" not in name} == {"encore._lazy"}


@pytest.mark.parametrize("name", encore.events.api.__all__)
def test_every_public_name_is_documented(name):
    assert getattr(encore.events.api, name).__doc__
