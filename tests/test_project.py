"""What holds for the project as a whole: set-up, imports, README, examples."""

from __future__ import annotations

import ast
import importlib.util
import os
import runpy
import shutil
import subprocess
import sys
import textwrap
import types
import unittest
import zipfile
from pathlib import Path

import pytest

import encore
from encore.testing.conformance import StoreConformance

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path(encore.__file__).resolve().parent
README = ROOT / "README.rst"

# The paths that code written for EnCore 0.8 imports.
SURFACE = [
    "encore.events.api",
    "encore.events.abstract_event_manager",
    "encore.events.event_manager",
    "encore.events.progress_events",
    "encore.events.heartbeat",
    "encore.events.package_globals",
    "encore.storage.abstract_store",
    "encore.storage.string_value",
    "encore.storage.file_value",
    "encore.storage.url_value",
    "encore.storage.static_url_store",
    "encore.storage.dict_memory_store",
    "encore.storage.sqlite_store",
    "encore.storage.filesystem_store",
    "encore.storage.events",
    "encore.storage.utils",
    "encore.storage.tests.abstract_test",
    "encore.concurrent.threadtools",
    "encore.concurrent.futures",
    "encore.concurrent.futures.synchronous",
    "encore.concurrent.futures.enhanced_thread_pool_executor",
    "encore.concurrent.futures.future",
    "encore.concurrent.futures.abc_work_scheduler",
    "encore.concurrent.futures.asynchronizer",
    "encore.concurrent.futures.delayed_asynchronizer",
    "encore.concurrent.futures.serializer",
    "encore.concurrent.futures.serializing_asynchronizer",
    "encore.terminal.api",
    "encore.terminal.progress_display",
    "encore.terminal.utils",
    "encore.testing.asserts",
    "encore.util.human_date",
]

source_tree = pytest.mark.skipif(
    not (ROOT / "encore").is_dir(), reason="an installed package is tested, without its sources"
)


def child(*arguments, cwd=None, **environment):
    """Run this interpreter; the package under test can be imported whatever the directory."""
    return run(sys.executable, "-W", "error", *arguments, cwd=cwd, **environment)


def run(*command, cwd, **environment):
    path = os.pathsep.join([str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def imported_with(module):
    code = f"import sys; old = set(sys.modules); import {module}; print(*set(sys.modules) - old)"
    return set(child("-c", code).split())


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(("encore", *path.relative_to(PACKAGE).with_suffix("").parts))
        yield name.removesuffix(".__init__"), path


@pytest.fixture(scope="module")
def metadata():
    """What setup.py gives to setuptools, and the modules that it imported meanwhile."""
    given = {}
    setuptools = types.ModuleType("setuptools")
    setuptools.setup = lambda **arguments: given.update(arguments)
    setuptools.find_packages = lambda **arguments: arguments
    command = types.ModuleType("setuptools.command")
    sdist = types.ModuleType("setuptools.command.sdist")
    sdist.sdist = object
    stand_ins = {m.__name__: m for m in (setuptools, command, sdist)}
    before = {
        name: module
        for name, module in sys.modules.items()
        if name.split(".")[0] in ("encore", "setuptools")
    }
    for name in before:
        del sys.modules[name]
    sys.modules.update(stand_ins)
    try:
        runpy.run_path(str(ROOT / "setup.py"))
        given["imported"] = [name for name in sys.modules if name.split(".")[0] == "encore"]
    finally:
        for name in stand_ins:
            del sys.modules[name]
        sys.modules.update(before)
    return given


@source_tree
def test_version_is_read_without_importing_the_package(metadata):
    assert metadata["version"] == encore.__version__
    assert metadata["imported"] == []


@source_tree
def test_nothing_is_needed_to_run_and_only_pytest_to_test(metadata):
    assert not metadata.get("install_requires")
    assert set(metadata["extras_require"]) == {"test", "peers", "docs"}
    assert metadata["extras_require"]["test"] == ["pytest"]
    assert metadata["python_requires"] == ">=3.10"


@source_tree
def test_type_information_is_shipped(metadata):
    assert "py.typed" in metadata["package_data"]["encore"]
    assert (PACKAGE / "py.typed").exists()


@source_tree
def test_every_folder_with_modules_is_a_package(metadata):
    assert metadata["packages"] == {"include": ["encore", "encore.*"]}
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


def test_importing_encore_imports_nothing_else():
    assert imported_with("encore") == {"encore"}


def test_import_paths_of_0_8():
    code = "import sys, importlib\nfor name in sys.argv[1:]: importlib.import_module(name)"
    child("-c", code, *SURFACE)


def test_each_module_can_be_imported_first():
    # In one child by forgetting: a process for each module would take minutes.
    code = textwrap.dedent(
        """
        import importlib, sys
        failed = []
        for name in sys.argv[1:]:
            for other in [other for other in sys.modules if other.split('.')[0] == 'encore']:
                del sys.modules[other]
            try:
                importlib.import_module(name)
            except BaseException as error:
                failed.append(f'{name}: {error!r}')
        print(*failed, sep='\\n', end='')
        """
    )
    names = [name for name, _ in modules() if not name.endswith("__main__")]
    assert child("-c", code, *names) == ""


def test_importing_starts_nothing():
    code = textwrap.dedent(
        """
        import importlib, sys, threading
        for name in sys.argv[1:]:
            importlib.import_module(name)
        assert threading.active_count() == 1, threading.enumerate()
        from encore.events import package_globals
        assert package_globals._event_manager is None
        if 'logging' in sys.modules:
            import logging
            loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict]
            assert not any(logger.handlers for logger in [logging.root, *loggers])
        """
    )
    child("-c", code, *(name for name, _ in modules() if not name.endswith("__main__")))


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("encore.events.api", {"logging", "json", "uuid", "inspect", "concurrent.futures"}),
        ("encore.storage.abstract_store", {"logging", "json", "uuid", "sqlite3", "inspect"}),
        ("encore.storage.dict_memory_store", {"logging", "sqlite3", "urllib.request", "inspect"}),
        ("encore.storage.url_value", {"urllib.request"}),
        (
            "encore.storage.static_url_store",
            {"urllib.parse", "http.client", "ssl", "socket", "json", "threading", "logging"},
        ),
        ("encore.terminal.api", {"logging", "shutil", "inspect"}),
        ("encore.testing", {"unittest", "tempfile"}),
    ],
)
def test_heavy_modules_wait_for_their_first_use(module, heavy):
    assert heavy.isdisjoint(imported_with(module))


def imported(tree, module, is_package):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                parts = module.split(".")
                base = parts[: len(parts) - node.level + is_package]
                yield ".".join([*base, *filter(None, [node.module])])
            else:
                yield node.module


@pytest.fixture(scope="module")
def imports():
    return [
        (name, target)
        for name, path in modules()
        for target in imported(ast.parse(path.read_text("utf-8")), name, path.name == "__init__.py")
    ]


def test_only_the_standard_library_is_imported(imports):
    allowed = {*sys.stdlib_module_names, "encore"}
    assert [pair for pair in imports if pair[1].split(".")[0] not in allowed] == []


def test_packages_depend_on_each_other_in_one_direction(imports):
    may = {
        "events": set(),
        "util": set(),
        "storage": {"events", "concurrent"},
        "terminal": {"events"},
        "concurrent": set(),
        "testing": {"events", "storage"},
        # 0.8's test mixins live inside the storage package.
        "storage.tests": {"events", "storage", "testing"},
    }
    wrong = []
    for name, target in imports:
        here, there = name.split(".")[1:], target.split(".")[1:]
        if not here or not there or here[0].startswith("_") or there[0].startswith("_"):
            continue
        if target.split(".")[0] != "encore":
            continue
        rule = "storage.tests" if here[:2] == ["storage", "tests"] else here[0]
        if there[0] != here[0] and there[0] not in may[rule]:
            wrong.append((name, target))
    assert wrong == []


def test_every_public_module_lists_its_names():
    missing = []
    for name, path in modules():
        last = name.rsplit(".", 1)[-1]
        if last.startswith("_") or path.name == "__init__.py":
            continue
        names = {
            target.id
            for node in ast.parse(path.read_text("utf-8")).body
            if isinstance(node, ast.Assign | ast.AnnAssign)
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
            if isinstance(target, ast.Name)
        }
        if "__all__" not in names:
            missing.append(name)
    assert missing == []


def literal_blocks(text, opening):
    """The indented blocks that follow the lines `opening`."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if line == opening:
            block = []
            for following in lines[number + 1 :]:
                if following and not following.startswith("    "):
                    break
                block.append(following)
            yield textwrap.dedent("\n".join(block)).strip() + "\n"


def test_tour_of_the_readme_runs_and_prints_what_it_says(tmp_path):
    text = README.read_text("utf-8")
    (tour,) = literal_blocks(text, ".. code-block:: python")
    (output,) = literal_blocks(text, "It prints::")
    assert child("-c", tour, cwd=tmp_path) == output


@pytest.mark.skipif(os.name != "posix", reason="the commands are for a POSIX shell")
def test_commands_of_the_readme_run_one_after_the_other(tmp_path):
    (commands,) = literal_blocks(README.read_text("utf-8"), "::")
    (tmp_path / "photos" / "2024").mkdir(parents=True)
    (tmp_path / "photos" / "2024" / "lake.png").write_bytes(b"pixels")
    (tmp_path / "notes.txt").write_text("the contents of notes.txt")
    script = 'python() { "$PYTHON" -W error "$@"; }\n' + commands
    out = run("sh", "-euc", script, cwd=tmp_path, PYTHON=sys.executable)
    assert out.count("2024/lake.png") == 2
    assert "the contents of notes.txt" in out


@pytest.mark.skipif(os.name != "posix", reason="the commands are for a POSIX shell")
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_served_store_of_the_readme_can_be_used(tmp_path):
    (block,) = literal_blocks(README.read_text("utf-8"), ".. code-block:: sh")
    serve, *commands = block.splitlines()
    python = 'python() { "$PYTHON" -W error "$@"; }\n'
    (tmp_path / "lake.png").write_bytes(b"pixels")
    put = "python -m encore put sqlite:photos.db 2024/lake.png lake.png type=image/png"
    run("sh", "-euc", python + put, cwd=tmp_path, PYTHON=sys.executable)
    arguments = [*serve.removesuffix(" &").split(), "--port", "0"]
    server = subprocess.Popen(
        [sys.executable, *arguments[1:]],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        url = server.stdout.readline().split()[-1]
        script = python + "\n".join(commands).replace("http://127.0.0.1:8080/", url)
        out = run("sh", "-euc", script, cwd=tmp_path, PYTHON=sys.executable)
    finally:
        server.terminate()
        server.communicate(timeout=60)
    assert out.startswith("pixels2024/lake.png\t")
    assert (tmp_path / "mirror").is_dir()
    assert server.returncode == 0


def test_readme_sets_up_and_tests_in_one_line():
    # .ci/run executes this very line.
    lines = [line.strip() for line in README.read_text("utf-8").splitlines()]
    (line,) = [line for line in lines if line.startswith("python3 -m venv")]
    assert ".[test]" in line
    assert line.endswith("-m pytest")


def test_table_of_the_readme_says_what_the_stores_say(tmp_path):
    from encore.storage.api import open_store

    rows = [line.split() for line in README.read_text("utf-8").splitlines() if "Store   " in line]
    stores = {row[0]: row[1:] for row in rows if row[0] != "Store"}
    network = {"StaticURLStore", "DynamicURLStore"}
    files = {"SqliteStore", "FileSystemStore", "DirectoryStore"}
    assert set(stores) == {"DictMemoryStore", *files, *network}
    for kind, (name, transactional, conditional, streaming, durable) in stores.items():
        name = name.strip("`").replace("PATH", str(tmp_path / kind))
        name = name.replace("HOST", "127.0.0.1").replace("URL", "http://127.0.0.1/")
        if kind == "DirectoryStore":
            (tmp_path / kind).mkdir()
        info = open_store(name, create="read-only" not in (transactional, conditional)).info()
        assert info["type"] == kind
        said = {"yes": True, "no": False, "read-only": False}
        assert info["readonly"] == (transactional == "read-only")
        assert info["transactional"] == said[transactional]
        # What a server can do is known when it was asked.
        if (conditional, streaming, durable) != ("varies",) * 3:
            assert info["conditional"] == said[conditional]
            assert info["streaming"] == said[streaming]
            assert (info["durable"] != "none") == said[durable]


def archive(folder):
    path = folder / "archive.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "first line\nsecond line\n")
        file.writestr("folder/", "")
        file.writestr("folder/data.bin", bytes(10))
    return path


def tree(folder):
    (folder / "tree" / "sub").mkdir(parents=True)
    (folder / "tree" / "a.txt").write_text("a")
    (folder / "tree" / "sub" / "b.txt").write_text("b")
    return folder / "tree"


def run_example(name, *arguments, cwd):
    return child(str(ROOT / "examples" / name), *map(str, arguments), cwd=cwd)


@pytest.mark.parametrize("store", ["memory:", "sqlite:letters.db"])
def test_example_documents(store, tmp_path):
    out = run_example("documents.py", store, cwd=tmp_path)
    assert "letters/2 by cassim: Dear brother" in out
    assert out.endswith("now dated 1706: letters/3\n")


def test_example_backup(tmp_path):
    from encore.storage.sqlite_store import SqliteStore

    source = tree(tmp_path)
    first = run_example("backup.py", source, "backup.db", cwd=tmp_path)
    assert first == "2 copied, 0 skipped, 0 failed\n"
    (source / "a.txt").write_text("changed")
    second = run_example("backup.py", source, "backup.db", cwd=tmp_path)
    assert second == "1 copied, 1 skipped, 0 failed\n"
    with SqliteStore(str(tmp_path / "backup.db")) as store:
        assert sorted(store.query_keys()) == ["a.txt", "sub/b.txt"]
        assert store.to_bytes("a.txt") == b"changed"


def test_example_progress(tmp_path):
    expected = "20000000 bytes stored; 0 operations running\n"
    assert run_example("progress.py", cwd=tmp_path) == expected


def test_example_custom_store(tmp_path):
    out = run_example("custom_store.py", archive(tmp_path), "*.txt", cwd=tmp_path)
    assert out.startswith("readme.txt {'size': 23")
    assert out.endswith("first line\n")
    assert "data.bin" not in out


def test_example_leaf_store(tmp_path):
    expected = "zeros 1000000 bytes, kept in fewer: True\n"
    assert run_example("leaf_store.py", cwd=tmp_path) == expected


class TestExampleLeafStoreKeepsTheContract(StoreConformance, unittest.TestCase):
    def make_store(self, event_manager):
        # By a name under which it can be found again, as pickling needs.
        module = sys.modules.get("leaf_store")
        if module is None:
            spec = importlib.util.spec_from_file_location(
                "leaf_store", ROOT / "examples" / "leaf_store.py"
            )
            module = importlib.util.module_from_spec(spec)
            sys.modules["leaf_store"] = module
            self.addCleanup(sys.modules.pop, "leaf_store")
            spec.loader.exec_module(module)
        return module.CompressedStore(event_manager=event_manager)


def test_every_example_has_a_test():
    names = {path.name for path in (ROOT / "examples").glob("*.py")}
    assert names == {"backup.py", "custom_store.py", "documents.py", "leaf_store.py", "progress.py"}
