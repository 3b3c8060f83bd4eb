"""The mechanism of ``python -m benchmarks``. What it finds out is no test."""

import json
import os
import re
import subprocess
import sys
from functools import partial
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
from benchmarks.suite import LEVELS, Row, Skip, both, loop, scratch

def took(seconds):
    return lambda: lambda count: count * seconds

def origin():
    import encore
    print("no answer", flush=True)
    return lambda count: 1.0 * (encore.__file__ == sys.path[0] + "/encore/__init__.py")

def skips():
    raise Skip("not here")

COUNTS = []

def times():
    def measure(count):
        COUNTS.append(count)
        return float(len(COUNTS))
    return measure

def place(memory, parent):
    def measure(count):
        directory = scratch(memory)
        (directory / "file").write_bytes(b"data")
        return float(str(directory.parents[2]) == parent)
    return lambda: measure

def others():
    def measure(count):
        directory = scratch()
        (directory / "file").write_bytes(b"data")
        return float(len(list(directory.parents[1].iterdir())))
    return measure

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
        (None, "/s", ""),
        (2.0, "B/s", "500 B/s"),
        (1e-6, "B/s", "1.00 GB/s"),
        (0.5, "/s", "2.00 thousand/s"),
        (0.0, "/s", "inf million/s"),
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

    assert value(number, unit, amount=1000.0) == text


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
        def __init__(self, suite, subject, path, places):
            self.subject = subject

        def ask(self, number, seconds, alone):
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


def no_pip(monkeypatch):
    from benchmarks import subjects

    commands = []

    def pip(command, **kwargs):
        commands.append(command)
        return subprocess.CompletedProcess(command, 1, "", "some words\nno such thing\n")

    monkeypatch.setattr(subjects, "subprocess", SimpleNamespace(run=pip))
    return commands


def test_a_peer_that_cannot_be_installed_is_skipped(run, monkeypatch, capfd):
    from benchmarks.subjects import PINS

    commands = no_pip(monkeypatch)
    status, data = run(
        "--row", "peer", more='Row("peer", {"rich": took(1.0), "limit": took(1.0)}),'
    )
    assert status == 0
    row = data["suites"]["fake"][-1]
    assert row["medians"] == {"limit": 1.0}
    reason = f"{PINS['rich']} could not be installed: no such thing"
    assert row["skipped"] == {"rich": reason}
    assert f"rich skipped: {reason}" in capfd.readouterr().out
    (command,) = commands
    assert command[-1] == PINS["rich"]
    assert command[-3] == "--target"


def test_without_0_8_its_rows_have_failed(run, monkeypatch):
    no_pip(monkeypatch)
    status, data = run("--row", "old", more='Row("old", both(took(1.0))),')
    assert status == 1
    assert "could not be installed" in data["suites"]["fake"][-1]["errors"]["encore08"]


def test_what_cannot_be_measured_here_is_told_and_no_failure(run, capfd):
    status, data = run("--row", "skip", more='Row("skip", {"encore": skips, "limit": took(1.0)}),')
    assert status == 0
    row = data["suites"]["fake"][-1]
    assert row["skipped"] == {"encore": "not here"}
    assert row["medians"] == {"limit": 1.0}
    assert "skipped: not here" in capfd.readouterr().out


def test_a_rate_is_shown_and_its_ratios_are_those_of_the_seconds(run, capfd):
    more = (
        'Row("rate", {"encore": took(2.0), "limit": took(1.0)}, {"L": 2}, unit="B/s", amount=1e6),'
    )
    status, data = run("--row", "rate", more=more)
    assert status == 0
    (row,) = data["suites"]["fake"]
    assert row["medians"] == {"encore": 2.0, "limit": 1.0}
    assert row["amount"] == 1e6
    cells = [re.split("  +", line) for line in capfd.readouterr().out.splitlines()]
    assert ["rate", "500 kB/s", "1.00 MB/s", "2.00", "L 2: reached"] in cells


def test_files_of_a_process_go_with_it(run):
    row = 'Row("files", {"limit": others}, count=1, alone=True, slices=3),'
    _, data = run("--row", "files", more=row)
    (result,) = data["suites"]["fake"]
    assert result["rounds"]["limit"] == [1.0, 1.0]


def test_what_is_alone_has_a_new_process_each_time_and_nothing_warms_it_up(run):
    more = 'Row("the same", {"limit": times}, count=1), '
    more += 'Row("the new", {"limit": times}, count=1, alone=True, slices=1),'
    _, data = run("--row", "the", more=more)
    rounds = {row["row"]: row["rounds"] for row in data["suites"]["fake"]}
    # The first is the warming up; of the two measurements of a round the least counts.
    assert rounds["the same"] == {"limit": [2.0, 4.0]}
    assert rounds["the new"] == {"limit": [1.0, 1.0]}


def test_slices_of_a_row_are_a_limit(run):
    more = 'Row("once", {"limit": times}, count=1, slices=1),'
    _, data = run("--row", "once", more=more)
    assert data["suites"]["fake"][0]["rounds"] == {"limit": [2.0, 3.0]}
    more = more.replace("slices=1", "slices=9")
    _, data = run("--row", "once", more=more)
    assert data["suites"]["fake"][0]["rounds"] == {"limit": [2.0, 4.0]}


@pytest.mark.parametrize(
    ("argv", "rows"),
    [
        (["--quick"], ["little", "some"]),
        ([], ["some", "much"]),
        (["--large"], ["some", "much", "most"]),
    ],
)
def test_rows_are_measured_at_their_levels(tmp_path, argv, rows):
    from benchmarks.__main__ import main

    (tmp_path / "fake.py").write_text(
        '"""Levels."""\nfrom benchmarks.suite import LEVELS, Row\nROWS = ['
        'Row("little", {"limit": lambda: float}, count=1, levels=LEVELS[:1]),'
        'Row("some", {"limit": lambda: float}, count=1),'
        'Row("much", {"limit": lambda: float}, count=1, levels=LEVELS[1:]),'
        'Row("most", {"limit": lambda: float}, count=1, levels=LEVELS[2:])]\n',
        "utf-8",
    )
    file = tmp_path / "figures.json"
    assert main([*argv, "--rounds", "1", "--json", str(file)], tmp_path) == 0
    data = json.loads(file.read_text("utf-8"))
    assert [row["row"] for row in data["suites"]["fake"]] == rows


def test_files_are_gone_when_all_is_measured(run, monkeypatch, tmp_path):
    from benchmarks import measure

    disk, memory = tmp_path / "disk", tmp_path / "memory"
    disk.mkdir()
    memory.mkdir()
    monkeypatch.setattr(measure, "disk", lambda: disk)
    monkeypatch.setattr(measure, "memory", lambda: memory)
    written = """Row("place on disk", {"limit": place(False, %r)}, count=1),
    Row("place in memory", {"limit": place(True, %r)}, count=1),"""
    _, data = run("--row", "place", more=written % (str(disk), str(memory)))
    figures = {row["row"]: row["medians"] for row in data["suites"]["fake"]}
    assert figures["place on disk"] == figures["place in memory"] == {"limit": 1.0}
    assert not [*disk.iterdir(), *memory.iterdir()]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_peak_is_what_was_needed_at_once_and_not_what_was_needed_before():
    from benchmarks.suite import peak

    # Larger than what an allocator may keep for the next one when it is freed (glibc: 32 MiB).
    size = 40 * 2**20
    assert peak(lambda: [bytearray(b"x") * size for _ in range(4)]) > 3.5 * size
    assert 0.8 * size < peak(lambda: bytearray(b"x") * size) < 2 * size


def test_each_takes_the_time_between_what_prepares_and_what_comes_after():
    from benchmarks.suite import each

    steps = []

    def prepare(count):
        steps.append("prepare")
        return range(count)

    measure = each(
        "do(k)\nif k: do(-k)", prepare, lambda keys: steps.append(list(keys)), do=steps.append
    )
    assert 0 < measure(3) < 60
    assert steps == ["prepare", 0, 1, -1, 2, -2, [0, 1, 2]]


@pytest.fixture(params=["in_threads", "in_processes"])
def together(request):
    import os

    from benchmarks import parallel

    if request.param == "in_processes" and not hasattr(os, "fork"):
        pytest.skip("needs fork")
    return getattr(parallel, request.param)


def test_works_begin_when_all_are_ready(together, tmp_path):
    def work(number):
        (tmp_path / f"ready{number}").touch()

        def see():
            ready = len(list(tmp_path.glob("ready*")))
            (tmp_path / f"saw{number}-{ready}").touch()

        return see

    assert 0 < together([partial(work, number) for number in range(3)]) < 60
    assert {path.name for path in tmp_path.glob("saw*")} == {f"saw{n}-3" for n in range(3)}


def test_a_work_that_fails_is_told_and_holds_up_nobody(together):
    def bad():
        raise ValueError("no")

    def worse():
        return bad

    with pytest.raises((ValueError, RuntimeError), match=r"no$"):
        together([lambda: lambda: None, bad])
    with pytest.raises((ValueError, RuntimeError), match=r"no$"):
        together([lambda: lambda: None, worse])


def a_library(**more):
    from benchmarks.stores import Library

    return Library(
        lambda path: {"d": {}},
        set="d[k] = m",
        get="d[k]",
        exists="k in d",
        delete="del d[k]",
        fill=lambda names, found: names["d"].update(found),
        query="[k for k, m in d.items() if m['subject'] == subject]",
        **more,
    )


@pytest.fixture
def places(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("BENCHMARKS_MEMORY", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("way", ["getting", "asking", "setting", "overwriting", "deleting"])
def test_each_measurement_finds_the_same_keys(places, way):
    library = a_library()
    names = library.filled(1000, overwritten=way == "overwriting")
    before = sorted(names["d"])
    measure = getattr(library, way)(1000)
    for _ in range(2):
        assert measure(7) > 0
        assert sorted(names["d"]) == before


@pytest.mark.parametrize("count", [1000, 5000])
def test_a_query_finds_as_many_keys_in_any_store_also_after_others_were_overwritten(places, count):
    library = a_library()
    library.overwriting(count)(50)
    assert library.querying(count)(2) > 0  # which would tell if there were not 100


def test_a_query_that_finds_something_else_is_an_error(places):
    library = a_library()
    library.filled(1000)["d"].pop("key0000007")
    with pytest.raises(AssertionError, match="99 keys were found, not 100"):
        library.querying(1000)


def test_nothing_is_left_of_what_set_many_keys(places):
    assert a_library().setting_many()(200) > 0
    assert not list(places.rglob("store"))


@pytest.fixture
def quick_port(monkeypatch):
    """The port of a quick server that ends with the test."""
    from benchmarks import serving

    ends = []
    monkeypatch.setattr(
        serving, "atexit", SimpleNamespace(register=lambda *call: ends.append(call))
    )
    serving._started.cache_clear()
    yield serving.quick_server()
    serving._started.cache_clear()
    for end, process in ends:
        end(process)
        assert process.returncode == 0


def test_clients_of_a_row_get_whole_answers_of_the_quick_server(quick_port):
    from benchmarks.serving import answered, request, together

    wanted = request("/data/key", "Range: bytes=10-19")
    clients = [answered(quick_port, wanted, 10) for _ in range(3)]
    assert together(clients, wanted, 7) > 0
    size = 3 * 2**20 + 1
    assert clients[0].ask(request(f"/keys/large-{size}/data")) == size
    assert clients[0].ask(request("/keys/k/data", method="PUT", body=bytes(size))) == 2
    assert clients[0].ask(request("/index.json")) > 100_000
    for client in clients:
        client.sock.close()


def test_a_server_ends_with_the_process_that_has_started_it():
    from benchmarks import serving

    script = "from benchmarks.serving import site_server; print(site_server('encore', 'nothing'))"
    script += "; import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
    )
    # Its output ends when nobody has it any more: the server had its own.
    port = int(done.stdout)
    try:
        sock = serving.socket.create_connection((serving.HOST, port), timeout=30)
    except OSError:
        return
    with sock:
        try:
            assert sock.recv(1) == b""
        except ConnectionResetError:
            pass


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


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_what_a_killed_run_left_is_removed(tmp_path):
    from benchmarks.places import own_prefix

    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    kept = [f"benchmarks-{os.getpid()}-x", "benchmarks-x", "other"]
    for name in (*kept, f"benchmarks-{dead.pid}-x"):
        (tmp_path / name / "sub").mkdir(parents=True)
    assert own_prefix(tmp_path) == f"benchmarks-{os.getpid()}-"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)
