"""What the tests of several packages share."""

import gc
import sys

import pytest


def run_with_interruption(call, where, number, action=None, *, event="line"):
    """Call a function, and another one in the middle of it, as a signal handler or a finalizer would be.

    Parameters
    ----------
    call : callable
        The function under test.
    where : callable or collection of str
        What counts: a predicate of the frame, or the files of the code.
    number : int
        The action comes before the `number`-th line in these frames, counted from 1.
    action : callable, optional
        Called with the frame. Without it the call is ended there by a KeyboardInterrupt.
    event : {'line', 'call'}
        What is counted: lines, or calls of functions.

    Returns
    -------
    bool
        Whether there were so many, so that the action came.
    """
    if not callable(where):
        files = frozenset(where)

        def where(frame):
            return frame.f_code.co_filename in files

    left = number

    def trace(frame, kind, argument):
        nonlocal left
        if left < 1:
            return None
        if kind == event and where(frame):
            left -= 1
            if not left:
                if action is None:
                    raise KeyboardInterrupt
                action(frame)
        return trace

    before = sys.gettrace()
    # What is raised in a callback of the garbage collection is only told.
    collects = gc.isenabled() and action is None
    if collects:
        gc.disable()
    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        if action is not None:
            raise
    finally:
        sys.settrace(before)
        if collects:
            gc.enable()
    return left < 1


@pytest.fixture(scope="session")
def interrupted():
    return run_with_interruption
