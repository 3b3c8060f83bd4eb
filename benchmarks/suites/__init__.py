"""The suites, one a module."""
