"""encore.storage.api: every public name, found where it lives when it is first used."""

from __future__ import annotations

import subprocess
import sys


def test_importing_the_api_imports_no_store():
    code = (
        "import sys, encore.storage.api as api\n"
        "loaded = [name for name in sys.modules if name.startswith('encore')]\n"
        "assert sorted(loaded) == ['encore', 'encore._lazy', 'encore.storage', 'encore.storage.api'], loaded\n"
        "api.StringValue\n"
        "assert 'encore.storage.string_value' in sys.modules\n"
        "assert 'encore.storage.sqlite_store' not in sys.modules\n"
        "assert 'StringValue' in vars(api)\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)
