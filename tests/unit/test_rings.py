"""The rings of dev.py: an interrupted run, or a run without tests, fails and says so."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import rings
from patience import PATIENCE
from rings import Count, Job, Result, Ring
from setup import programs
from setup.project import ROOT

UNIT, CORE = (next(ring for ring in rings.RINGS if ring.name == name) for name in ("unit", "core"))


def ran(tmp_path: Path, source: str, *options: str) -> tuple[Count, int]:
    """The record of a pytest run on `source`, and the exit status of that run."""
    (tmp_path / "test_it.py").write_text(source)
    record = tmp_path / "record"
    command = [sys.executable, "-m", "pytest", "-p", "ring_record", f"--ring-record={record}", *options, str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, env=programs.with_paths(), timeout=PATIENCE)
    return Count.read(record), done.returncode


def result(count: Count, status: int, is_selection: bool = False) -> Result:
    return Result(Job(UNIT, "unit", ("tests/unit",), is_selection), count, status, 1.0)


EVERY_END = """
import pytest
@pytest.fixture
def broken():
    yield
    raise ValueError
@pytest.fixture
def missing():
    raise ValueError
def test_passes(): pass
def test_fails(): assert False
def test_fails_twice(broken): assert False
def test_cannot_be_set_up(missing): pass
def test_cannot_be_torn_down(broken): pass
def test_skips(): getattr(pytest, "skip")("why")
"""


def test_a_record_has_each_test_once(tmp_path: Path) -> None:
    count, status = ran(tmp_path, EVERY_END)
    assert (count.passed, count.collected, count.ended, count.ran, status) == (1, 6, True, 6, 1)
    names = [name.partition("::")[2] for name in count.failed]
    assert names == ["test_fails", "test_fails_twice", "test_cannot_be_set_up", "test_cannot_be_torn_down"]
    assert [name.partition("::")[2] for name in count.skipped] == ["test_skips"]


@pytest.mark.parametrize("end", ["import os; os._exit(3)", "raise KeyboardInterrupt"])
def test_a_run_that_is_cut_off_says_after_how_many_tests(tmp_path: Path, end: str) -> None:
    source = f"def test_one(): pass\ndef test_two():\n    {end}\ndef test_three(): pass\n"
    complaints = result(*ran(tmp_path, source)).complaints
    assert len(complaints) == 1
    assert complaints[0].startswith("ring unit: CUT OFF after 1 of 3 tests (pytest's status: ")


def test_a_file_that_cannot_be_collected_fails_and_cuts_the_ring_off(tmp_path: Path) -> None:
    complaints = result(*ran(tmp_path, "import no_such_module\n")).complaints
    assert ["test_it.py" in complaints[0], "CUT OFF" in complaints[1]] == [True, True]


def test_a_user_may_stop_at_the_first_failure(tmp_path: Path) -> None:
    complaints = result(*ran(tmp_path, EVERY_END, "-x")).complaints
    assert len(complaints) == 1 and complaints[0].endswith("::test_fails")


@pytest.mark.parametrize(
    ("count", "status", "is_selection", "complaint"),
    [
        (Count(passed=3, ended=True), 0, False, None),
        (Count(passed=3, failed=["a"], ended=True), 1, False, "failed: a"),
        (Count(passed=3, skipped=["a"], ended=True), 0, False, "skipped: a"),
        (Count(ended=True), 5, False, "ran no test"),
        (Count(ended=True), 5, True, None),
        (Count(ended=True), 4, True, "CUT OFF"),
        (Count(), 139, False, "CUT OFF after 0 tests"),
        (Count(passed=3, collected=9), 0, False, "CUT OFF after 3 of 9 tests"),
        (Count(passed=3, ended=True), 2, False, "CUT OFF"),
        (Count(passed=3, ended=True), 1, False, "pytest failed, and no test did"),
    ],
)
def test_a_ring_has_to_run_to_its_end(count: Count, status: int, is_selection: bool, complaint: str | None) -> None:
    complaints = result(count, status, is_selection).complaints
    assert len(complaints) == (complaint is not None)
    assert complaint is None or complaint in complaints[0]


def test_the_summary_names_what_failed_and_what_was_cut_off(capsys: pytest.CaptureFixture[str]) -> None:
    good = result(Count(passed=1000, ended=True), 0)
    bad = result(Count(passed=17, failed=["test_a.py::test_b"], collected=20), 2)
    assert rings.summary([good], []) == 0
    assert capsys.readouterr().out == "1000 passed, 0 failed\n"
    assert rings.summary([good, bad], []) == 1
    out, err = capsys.readouterr()
    assert out == "1017 passed, 2 failed\n"
    assert "failed: test_a.py::test_b\n" in err and "CUT OFF after 18 of 20 tests" in err
    assert "CUT OFF" in str(bad) and "CUT OFF" not in str(good)


def test_arguments_that_select_no_test_at_all_are_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert rings.summary([result(Count(ended=True), 5, True)], ["-k", "none"]) == 1
    assert "no test has these names" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------- which jobs


def test_arguments_that_name_files_choose_their_rings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert rings.arguments_for(UNIT, ["-x", "-k", "held"]) == ["-x", "-k", "held", "tests/unit"]
    chosen = ["tests/unit/test_dev.py::test_name", "-x"]
    assert rings.arguments_for(UNIT, chosen) == ["-x", "tests/unit/test_dev.py::test_name"]
    assert rings.arguments_for(CORE, chosen) is None
    assert [job.name for job in rings.jobs_for(chosen)] == ["unit"]


@pytest.mark.parametrize("ring", rings.RINGS, ids=lambda ring: ring.name)
def test_the_jobs_of_a_ring_have_each_of_its_files_once(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    jobs = rings.divided(ring)
    assert len(jobs) == ring.jobs
    if ring.jobs > 1:
        files = [path.relative_to(ROOT).as_posix() for path in ring.files()]
        assert sorted(name for job in jobs for name in job.arguments) == files
    assert rings.divided(ring) == jobs


def test_every_folder_of_tests_is_a_ring() -> None:
    with_tests = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert with_tests == {ring.name for ring in rings.RINGS}


def test_jobs_run_side_by_side_and_the_log_of_one_that_fails_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each job waits until the other one begins."""
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    meeting = "import pathlib, time\ndef test_it():\n    folder = pathlib.Path(__file__).parent\n"
    meeting += "    (folder / '{me}').touch()\n    while not (folder / '{other}').exists(): time.sleep(0.01)\n"
    (tmp_path / "test_a.py").write_text(meeting.format(me="a", other="b"))
    (tmp_path / "test_b.py").write_text(meeting.format(me="b", other="a") + "    assert False, 'so it is'\n")
    jobs = [Job(UNIT, f"meeting-{name}", (str(tmp_path / f"test_{name}.py"),)) for name in "ab"]
    results = rings.run(jobs)
    assert [one.count.passed for one in results] == [1, 0]
    assert [len(one.complaints) for one in results] == [0, 1]
    out, err = capfd.readouterr()
    assert "so it is" in out and out.count("test session") == 0
    assert "ring meeting-a: 1 passed, 0 failed" in err
    for job in jobs:
        assert not job.record.exists()
        job.log.unlink()


# ------------------------------------------------------------------------------------------- pytest without dev.py


def test_a_ring_without_its_programs_fails_with_one_line_that_names_the_command(tmp_path: Path) -> None:
    environment = programs.with_paths() | {"PATH": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/core/test_scaling.py"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1
    assert "spin: python3 dev.py test tests/core installs" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("1 failed in ")


def test_a_ring_without_its_modules_fails_with_one_line_that_names_the_command(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['_tkinter'] = None\n")
    environment = programs.with_paths()
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), environment["PYTHONPATH"]])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/examples"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1
    assert "python3-tk: python3 dev.py test tests/examples installs" in done.stdout.replace(", xvfb", "")
    assert done.stdout.splitlines()[-1].startswith("1 failed in ")


def test_rings_that_need_another_python_are_left_out_and_named() -> None:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-p", "no:cacheprovider", "tests"]
    command += ["--ignore=tests/unit", "--ignore=tests/core"]
    done = subprocess.run(command, cwd=ROOT, env=programs.with_paths(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
    assert "not collected here, but run by python3 dev.py test: " in done.stdout
