from __future__ import annotations

import json
import os

import pytest

from encore.testing.asserts import assert_python_ok, strip_python_stderr

SHOW = "import json, os, sys; print(json.dumps([dict(os.environ), sys.flags.ignore_environment]))"


def environment_of_a_child(**env):
    _, out, _ = assert_python_ok("-c", SHOW, **env)
    return json.loads(out)


def test_status_and_output_are_returned():
    program = "import sys; print(' out '); print(' err ', file=sys.stderr)"
    status, out, err = assert_python_ok("-c", program)
    assert (status, out.replace(b"\r", b""), err) == (0, b" out \n", b"err")


def test_a_failing_child_is_an_assertion_error_with_its_stderr():
    with pytest.raises(AssertionError, match=r"exit status 3(.|\n)*what went wrong"):
        assert_python_ok("-c", "import sys; print('what went wrong', file=sys.stderr); sys.exit(3)")
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        assert_python_ok("-c", "1/0")


def test_arguments_reach_the_child():
    _, out, _ = assert_python_ok("-c", "import sys; print(sys.argv[1:])", "a b", "-x")
    assert out.strip() == b"['a b', '-x']"


def test_the_child_ignores_python_variables_where_no_environment_is_given(monkeypatch):
    monkeypatch.setenv("ENCORE_TEST", "inherited")
    variables, ignored = environment_of_a_child()
    assert ignored
    assert variables["ENCORE_TEST"] == "inherited"


def test_keywords_become_environment_variables(monkeypatch):
    monkeypatch.setenv("ENCORE_TEST", "inherited")
    variables, ignored = environment_of_a_child(ENCORE_MORE="more", PYTHONHASHSEED="7")
    assert not ignored
    assert variables["ENCORE_TEST"] == "inherited"
    assert variables["ENCORE_MORE"] == "more"
    assert variables["PYTHONHASHSEED"] == "7"
    assert "ENCORE_MORE" not in os.environ


def test_a_clean_environment_has_the_keywords_and_nothing_else(monkeypatch):
    monkeypatch.setenv("ENCORE_TEST", "inherited")
    variables, ignored = environment_of_a_child(__cleanenv=True, ENCORE_MORE="more")
    assert not ignored
    assert "ENCORE_TEST" not in variables
    assert "__cleanenv" not in variables
    assert variables["ENCORE_MORE"] == "more"


def test_a_clean_environment_that_is_not_asked_for_stays_as_it_is(monkeypatch):
    monkeypatch.setenv("ENCORE_TEST", "inherited")
    variables, _ = environment_of_a_child(__cleanenv=False)
    assert variables["ENCORE_TEST"] == "inherited"


@pytest.mark.parametrize("env", [{}, {"ENCORE_MORE": "more"}])
def test_modules_of_the_current_directory_can_be_imported(tmp_path, monkeypatch, env):
    (tmp_path / "just_here.py").write_text("word = 'found'\n")
    monkeypatch.chdir(tmp_path)
    _, out, _ = assert_python_ok("-c", "import just_here; print(just_here.word)", **env)
    assert out.strip() == b"found"


def test_the_child_has_nothing_to_read():
    _, out, _ = assert_python_ok("-c", "import sys; print(repr(sys.stdin.read()))")
    assert out.strip() == b"''"


@pytest.mark.parametrize(
    ("written", "left"),
    [
        (b"", b""),
        (b"  words\n\n", b"words"),
        (b"words\n[12345 refs]\n", b"words"),
        (b"[12345 refs, 678 blocks]\n", b""),
        (b"[1 refs] words", b"[1 refs] words"),
        (b"\xff\xfe\n", b"\xff\xfe"),
    ],
)
def test_what_a_debug_build_adds_is_left_out(written, left):
    assert strip_python_stderr(written) == left
