import ast
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.sdist import sdist

HERE = Path(__file__).resolve().parent


def version():
    """The package's __version__, found without importing the package."""
    for node in ast.parse((HERE / "encore" / "__init__.py").read_text("utf-8")).body:
        if isinstance(node, ast.Assign):
            names, value = node.targets, node.value
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            names, value = [node.target], node.value
        else:
            continue
        if any(isinstance(name, ast.Name) and name.id == "__version__" for name in names):
            return ast.literal_eval(value)
    raise RuntimeError("encore/__init__.py assigns no __version__")


class SourceDistribution(sdist):
    """An sdist that can be tested and documented (the top level has no MANIFEST.in)."""

    def make_release_tree(self, base_dir, files):
        more = {"tox.ini"}
        for folder in ("tests", "docs", "examples", "benchmarks"):
            for path in (HERE / folder).rglob("*"):
                if path.is_file() and not {"__pycache__", "_build"}.intersection(path.parts):
                    more.add(str(path.relative_to(HERE)))
        super().make_release_tree(base_dir, sorted(more.union(files)))


setup(
    name="encore",
    version=version(),
    description="Events, key-value stores, executors and progress display on the standard library",
    long_description=(HERE / "README.rst").read_text("utf-8"),
    long_description_content_type="text/x-rst",
    author="the encore developers",
    license="BSD-3-Clause",
    license_files=["LICENSE.txt"],
    python_requires=">=3.10",
    packages=find_packages(include=["encore", "encore.*"]),
    package_data={"encore": ["py.typed"]},
    zip_safe=False,
    # An editable install by a path: type checkers do not find what an import hook finds.
    options={"editable_wheel": {"mode": "compat"}},
    extras_require={
        "test": ["pytest"],
        # What the stores over HTTP are tested with, where it is there.
        "peers": ["gunicorn; os_name == 'posix'", "requests", "waitress"],
        "docs": ["sphinx"],
    },
    cmdclass={"sdist": SourceDistribution},
    keywords="events key-value store sqlite filesystem progress executor",
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Operating System :: OS Independent",
        "Programming Language :: Python",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: Implementation :: CPython",
        "Topic :: Database",
        "Topic :: Software Development :: Libraries :: Python Modules",
        "Topic :: System :: Archiving",
        "Typing :: Typed",
    ],
)
