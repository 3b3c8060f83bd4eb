"""Measures encore side by side with EnCore 0.8, other libraries and a limit: see ``--help``."""
