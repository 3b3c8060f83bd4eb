"""What is measured and where it comes from: pinned versions, each in a directory of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

__all__ = ["PINS", "ROOT", "Unavailable", "cache", "path_of"]

#: The checkout.
ROOT = Path(__file__).resolve().parent.parent

#: The requirement of each subject that has to be installed. All but ``encore08`` are peers.
PINS = {
    "encore08": "encore==0.8.0",
    "blinker": "blinker==1.9.0",
    "psygnal": "psygnal==0.16.1",
    "pyee": "pyee==13.0.1",  # the last one for Python before 3.12
    "tqdm": "tqdm==4.70.1",
    "rich": "rich==15.0.0",
    "diskcache": "diskcache==5.6.3",
    "lmdb": "lmdb==3.0.0",
    "simplekv": "simplekv==0.14.1",
    "fsspec": "fsspec==2026.9.0",
    "obstore": "obstore==0.12.1",
    "requests": "requests==2.34.2",
    "urllib3": "urllib3==2.8.0",
    "waitress": "waitress==3.0.2",
    "gunicorn": "gunicorn==27.0.1",
    "http.server": "http.server",  # which comes with Python
}


class Unavailable(Exception):
    """A subject could not be installed."""


def cache() -> Path:
    """Where subjects and byte code are kept from run to run."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "encore-benchmarks"


def path_of(subject: str) -> Path | None:
    """The directory from which a subject is imported. It is installed if it is not there."""
    if "==" not in PINS.get(subject, ""):
        return ROOT if subject == "encore" else None
    target = cache() / str(sys.implementation.cache_tag) / PINS[subject]
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        # Renamed when it is complete, so that a directory that is there is good.
        with tempfile.TemporaryDirectory(dir=target.parent) as directory:
            _install(subject, Path(directory) / "new")
            try:
                Path(directory, "new").rename(target)
            except OSError as error:
                if not target.exists():  # another run was faster
                    raise Unavailable(f"{target} could not be made: {error}") from error
    return target


def _install(subject: str, target: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if subject == "encore08":  # what it requires is for Python 2
        command.append("--no-deps")
    command += ["--target", str(target), PINS[subject]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().rpartition("\n")[2]
        raise Unavailable(f"{PINS[subject]} could not be installed: {reason}")
