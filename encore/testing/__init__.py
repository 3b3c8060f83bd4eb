"""What tests of programs that use encore need."""

from .capture import capture_events

__all__ = ["capture_events"]
