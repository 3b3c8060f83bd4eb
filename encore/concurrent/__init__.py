"""Tools for code that runs in several threads."""
