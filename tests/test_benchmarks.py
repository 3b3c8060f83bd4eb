"""The mechanism of ``python -m benchmarks``. What it finds out is no test."""

import json
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.skipif(
    not (ROOT / "benchmarks").is_dir(),
    reason="an installed package is tested, without the benchmarks",
)

SUITE = '''\
"""A suite of tests.

More about it.
"""
import sys
import time
from benchmarks.suite import Row, both, loop

def took(seconds):
    return lambda: lambda count: count * seconds

def origin():
    import encore
    print("no answer", flush=True)
    return lambda count: 1.0 * (encore.__file__ == sys.path[0] + "/encore/__init__.py")

def missing():
    import encore

def crashes():
    import os
    os._exit(3)

def hangs():
    import threading
    threading.Event().wait()

ROWS = [
    Row("sum", {{"encore": took(2.0), "limit": took(1.0)}}, {{"L": 2, "S": 3}}, "half"),
    Row("more", {{"encore": took(5.0)}}, {{"G": 2}}, base="sum"),
    Row("timed", {{"encore": lambda: loop("f()", f=int)}}),
    {more}
]
'''


@pytest.fixture(autouse=True)
def _importable(monkeypatch, tmp_path_factory):
    monkeypatch.syspath_prepend(str(ROOT))
    # One for all tests: it has the byte code.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def run(tmp_path):
    """Runs the command on a suite with some more rows; returns the status and the JSON."""
    from benchmarks.__main__ import main

    folder = tmp_path / "suites"
    folder.mkdir()

    def call(*argv, more=""):
        (folder / "fake.py").write_text(SUITE.format(more=more), "utf-8")
        file = tmp_path / "figures.json"
        status = main(["--quick", "--json", str(file), *argv], folder)
        return status, json.loads(file.read_text("utf-8")) if file.exists() else None

    return call


def a_result(goals=None, base=None, **rounds):
    from benchmarks.measure import Result
    from benchmarks.suite import Row

    return Result(Row("row", {}, goals or {}, "little"), rounds, base=base)


def test_ratio_is_the_median_of_the_ratios_of_the_rounds():
    result = a_result(encore=[1.0, 10.0, 2.0], encore08=[3.0, 50.0, 4.0], limit=[1.0, 1.0, 1.0])
    assert result.ratio("S") == 3.0  # of 3, 5 and 2: the quotient of the medians is 2
    assert result.ratio("L") == 2.0
    assert result.ratio("V") == result.median("encore") == 2.0


def test_growth_is_compared_with_the_base_round_by_round():
    base = a_result(encore=[1.0, 10.0, 1.0])
    assert a_result(base=base, encore=[2.0, 20.0, 3.0]).ratio("G") == 2.0


def test_ratio_without_figures_is_none():
    assert a_result(encore=[1.0]).ratio("S") is None
    assert a_result(encore08=[1.0]).ratio("S") is None
    assert a_result(encore=[1.0]).ratio("G") is None
    assert a_result().ratio("V") is None


@pytest.mark.parametrize(
    ("goals", "words"),
    [
        ({"S": 4}, "S 4: reached"),
        ({"S": 4.5}, "S: not reached: 4.00 instead of 4.5"),
        ({"L": 2}, "L 2: reached"),
        ({"L": 1.9, "S": 3}, "L: not reached: 2.00 instead of 1.9; S 3: reached"),
        ({"V": 1.5}, "V: not reached: 2.00 s instead of 1.50 s"),
        ({"V": 2}, "V 2.00 s: reached"),
        ({"G": 1.5}, "G 1.5: not measured"),
        ({}, ""),
    ],
)
def test_verdict_names_what_was_wanted_and_what_came(goals, words):
    from benchmarks.report import verdict

    assert verdict(a_result(goals, encore=[2.0], encore08=[8.0], limit=[1.0])) == words


def test_verdict_goes_by_the_digits_that_are_shown():
    from benchmarks.report import verdict

    assert verdict(a_result({"S": 4}, encore=[1.0], encore08=[3.996])) == "S 4: reached"
    assert "not reached: 3.99" in verdict(a_result({"S": 4}, encore=[1.0], encore08=[3.99]))


@pytest.mark.parametrize(
    ("number", "unit", "text"),
    [
        (None, "s", ""),
        (4.56789e-8, "s", "45.7 ns"),
        (0.99996e-6, "s", "1.00 us"),
        (0.0123, "s", "12.3 ms"),
        (345.6, "s", "346 s"),
        (0, "s", "0.00 ns"),
        (3 * 2**20, "B", "3.00 MiB"),
    ],
)
def test_figures_have_a_unit_and_three_digits(number, unit, text):
    from benchmarks.report import value

    assert value(number, unit) == text


def test_prints_a_table_and_writes_json(run, capfd):
    status, data = run()
    assert status == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == "fake: A suite of tests"
    cells = [re.split("  +", line) for line in lines]
    assert ["sum", "2.00 s", "1.00 s (half)", "2.00", "L 2: reached; S 3: not measured"] in cells
    assert ["more", "5.00 s", "2.50", "G: not reached: 2.50 instead of 2"] in cells
    first, second, third = data["suites"]["fake"]
    assert first["medians"] == {"encore": 2.0, "limit": 1.0}
    assert first["rounds"] == {"encore": [2.0, 2.0], "limit": [1.0, 1.0]}
    assert first["ratios"] == {"S": None, "L": 2.0, "G": None}
    assert second["ratios"]["G"] == 2.5
    assert third["medians"]["encore"] > 0
    assert data["rounds"] == 2
    assert data["python"]


def test_a_missed_goal_is_an_error_only_if_it_is_to_be_one(run):
    assert run("--row", "more")[0] == 0
    assert run("--strict", "--row", "sum")[0] == 0
    assert run("--strict")[0] == 1


def test_subjects_take_turns_and_the_least_of_a_round_counts(monkeypatch):
    from benchmarks import measure
    from benchmarks.suite import Row

    asked = []

    class Process:
        def __init__(self, suite, subject, path):
            self.subject = subject

        def ask(self, number, seconds):
            asked.append((self.subject, number, seconds))
            return {"value": float(10 - len(asked) % 5)}

        def end(self, patience):
            asked.append((self.subject, "end"))

    monkeypatch.setattr(measure, "_Process", Process)
    row = Row("row", {"encore": None, "limit": None}, slice=0.5)
    effort = measure.Effort(rounds=2, slices=2, scale=0.1)
    (result,) = measure.measure(Path("suite"), [(3, row)], ["encore", "pyee", "limit"], effort)
    assert asked[:8] == [("encore", 3, 0.05), ("limit", 3, 0.05)] * 4
    assert sorted(asked[8:]) == [("encore", "end"), ("limit", "end")]
    assert result.rounds == {"encore": [7.0, 8.0], "limit": [6.0, 7.0]}


def test_rounds_are_as_many_as_asked_for(run):
    assert (
        run("--rounds", "3", "--row", "sum")[1]["suites"]["fake"][0]["rounds"]["limit"] == [1] * 3
    )


def test_the_subject_is_this_checkout_and_its_output_is_no_answer(run):
    status, data = run("--row", "origin", more='Row("origin", {"encore": origin}),')
    assert status == 0
    assert data["suites"]["fake"][0]["medians"] == {"encore": 1.0}


def test_the_limit_can_import_no_subject(run, capfd):
    status, data = run("--row", "none", more='Row("none", {"limit": missing}),')
    assert status == 1
    error = "ModuleNotFoundError: No module named 'encore'"
    assert data["suites"]["fake"][0]["errors"] == {"limit": error}
    assert f"failed: {error}" in capfd.readouterr().out


def test_a_process_that_ends_fails_its_row_and_no_other(run):
    more = 'Row("crash", {"encore": crashes, "limit": took(1.0)}), Row("after", both(took(1.0))),'
    status, data = run("--against", "none", more=more)
    assert status == 1
    rows = {row["row"]: row for row in data["suites"]["fake"]}
    assert rows["crash"]["errors"] == {"encore": "its process ended with status 3"}
    assert rows["crash"]["medians"] == {"limit": 1.0}
    assert rows["after"]["medians"] == {"encore": 1.0}


def test_a_process_that_hangs_is_ended(run, monkeypatch):
    from benchmarks import measure

    monkeypatch.setattr(measure, "PATIENCE", 0.1)
    status, data = run("--row", "hang", more='Row("hang", {"encore": hangs}),')
    assert status == 1
    assert data["suites"]["fake"][0]["errors"]["encore"].startswith("its process ended with status")


def test_peers_are_installed_once_and_asked_only_if_wanted(run, monkeypatch):
    from benchmarks import subjects

    made = []

    def install(subject, target):
        made.append(subject)
        target.mkdir()
        (target / "pyee.py").write_text("number = 7.0", "utf-8")

    monkeypatch.setattr(subjects, "_install", install)
    peer = 'Row("peer", {"pyee": lambda: took(__import__("pyee").number)(), "tqdm": took(2.0)}),'
    for _ in range(2):
        _, data = run("--against", "pyee", "--row", "peer", more=peer)
        assert data["suites"]["fake"][0]["medians"] == {"pyee": 7.0}
    assert made == ["pyee"]


def test_a_subject_that_cannot_be_installed_fails_its_rows(run, monkeypatch):
    from benchmarks import subjects

    commands = []

    def pip(command, **kwargs):
        commands.append(command)
        return subprocess.CompletedProcess(command, 1, "", "some words\nno such thing\n")

    monkeypatch.setattr(subjects, "subprocess", SimpleNamespace(run=pip))
    status, data = run(more='Row("peer", {"rich": took(1.0), "limit": took(1.0)}),')
    assert status == 1
    row = data["suites"]["fake"][-1]
    assert row["medians"] == {"limit": 1.0}
    assert row["errors"] == {
        "rich": f"{subjects.PINS['rich']} could not be installed: no such thing"
    }
    (command,) = commands
    assert command[-1] == subjects.PINS["rich"]
    assert command[-3] == "--target"


def test_list_measures_nothing(run, capsys):
    status, data = run("--list")
    assert (status, data) == (0, None)
    assert capsys.readouterr().out.splitlines()[1:3] == ["    sum [L 2] [S 3]", "    more [G 2]"]


def test_writes_the_page_of_the_documentation(run, monkeypatch, tmp_path):
    import benchmarks.__main__ as command

    monkeypatch.setattr(command, "PAGE", tmp_path / "benchmarks.rst")
    run("--write-docs", more='Row("a_b* |c|", {"limit": took(3e-6)}, limit="`d`"),')
    text = (tmp_path / "benchmarks.rst").read_text("utf-8")
    assert "A suite of tests\n----------------\n\n.. list-table::\n" in text
    cells = ["a\\_b\\* \\|c\\|", "", "", "3.00 us (\\`d\\`)", "", "", "", ""]
    assert "   * - " + "\n     - ".join(cells).replace("- \n", "-\n").rstrip() in text
    assert "In each of 2 rounds" in text


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--suite", "none"], "no suite 'none'; there are fake"),
        (["--against", "nobody"], "no subject 'nobody'; there are encore08, peers"),
        (["--row", "nothing"], "no row has 'nothing' in its name"),
        (["--rounds", "0"], "invalid"),
        (["--write-docs", "--suite", "fake"], "leave out --suite"),
        (["more"], "unrecognized"),
    ],
)
def test_wrong_use_is_told(run, capsys, argv, message):
    with pytest.raises(SystemExit) as error:
        run(*argv)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_suites_of_the_project_can_be_read_without_any_subject():
    from benchmarks.__main__ import SUITES
    from benchmarks.subjects import PINS
    from benchmarks.suite import load

    subjects = {"encore", "encore08", "limit", *PINS}
    for file in SUITES.glob("[!_]*.py"):
        rows = load(file).ROWS
        names = [row.name for row in rows]
        assert len(set(names)) == len(names)
        for row in rows:
            assert "encore" in row.setups
            assert row.setups.keys() <= subjects
            assert row.goals.keys() <= set("SLGV")
            assert row.base is None or row.base in names
