from __future__ import annotations

import sys
from pathlib import Path

# The checkout's own package is documented, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import encore

project = "encore"
author = "the encore developers"
copyright = f"2026, {author}"
version = release = encore.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.doctest", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "alabaster"
html_show_sourcelink = False
html_theme_options = {"description": "Events, stores, executors, progress", "page_width": "1060px"}

# A method is documented once, in the contract; a store's page shows what is the store's own.
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_custom_sections = [("Events", "notes_style")]

# Each page is a session of its own: an empty current directory, no event manager yet.
doctest_global_setup = """
import os as _os, tempfile as _tempfile
import encore.events.package_globals as _package_globals
_package_globals._event_manager = None
_home = _os.getcwd()
_folder = _tempfile.TemporaryDirectory()
_os.chdir(_folder.name)
"""
doctest_global_cleanup = """
_os.chdir(_home)
_folder.cleanup()
"""
