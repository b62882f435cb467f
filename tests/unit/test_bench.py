"""dev.py bench: its arguments, and how it makes a row. Measured values are not tested."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import bench
from bench import rivals
from bench.measure import resident_bytes, row, row_of

ROOT = Path(__file__).resolve().parents[2]


def test_each_group_is_a_module_that_gives_rows() -> None:
    for name in bench.names():
        source = (ROOT / "tests" / "bench" / f"{name}.py").read_text(encoding="utf-8")
        assert re.search(r"^def rows\(\) -> Iterator\[Row\]:$", source, re.MULTILINE), name


def test_a_group_is_measured_in_each_place_where_it_belongs() -> None:
    assert [place for place in bench.PLACES if bench.groups(place, ["imports"])] == ["here", "windows"]
    assert [bench.groups(place, ["policy", "debug"]) for place in bench.PLACES] == [["policy"], [], ["debug"]]
    assert bench.groups("sigma", []) == ["sigma"]


def test_an_unknown_group_is_refused_with_the_known_ones() -> None:
    ended = subprocess.run([sys.executable, "dev.py", "bench", "polices"], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr == f"dev.py: 'polices' is no benchmark; there are {', '.join(bench.names())}\n"


def test_every_program_to_compare_with_is_built_from_a_source_that_is_there() -> None:
    for command in rivals.commands():
        [source] = [word for word in command if word.endswith(".cpp")]
        assert Path(source).is_file()


@pytest.mark.parametrize(
    ("at_most", "at_most_ratio", "met", "goal"),
    [
        (2.0, None, True, "2 ms"),
        (1.9, None, False, "1.9 ms"),
        (None, 0.5, True, "0.5x"),
        (2.0, 0.4, False, "2 ms and 0.4x"),
    ],
)
def test_a_goal_is_for_the_fastest_turn_and_for_the_median_of_the_ratios(
    at_most: float | None, at_most_ratio: float | None, met: bool, goal: str
) -> None:
    made = row_of("a", [2, 3, 9], [4, 6, 6], "b", unit="ms", at_most=at_most, at_most_ratio=at_most_ratio)
    assert (made.best, made.median, made.ratio, made.met, made.goal) == (2, 3, 0.5, met, goal)
    assert str(made).endswith(f"0.50x (0.50-1.50) of b; goal {goal}: {'met' if met else 'NOT MET'}")


def test_what_is_compared_takes_turns_and_the_first_turn_does_not_count() -> None:
    calls: list[str] = []

    def seconds(name: str, first: float) -> float:
        calls.append(name)
        return first if calls.count(name) == 1 else 2e-6

    made = row("a", lambda: seconds("one", 9.0), lambda: seconds("other", 9.0), "b", count=2, turns=3)
    assert calls == ["other", "one"] * 4
    assert (made.median, made.best, made.ratio, made.met) == (1.0, 1.0, 1.0, None)
    assert str(made).endswith("of b"), "no goal, no word about it"


def test_the_memory_of_a_process_is_read_from_outside_too() -> None:
    megabyte = 1 << 20
    code = f"kept = bytes(range(256)) * {100 * megabyte // 256}; print(); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None and child.stdout is not None
        child.stdout.readline()
        assert 100 * megabyte < resident_bytes(child) < 200 * megabyte
        print(file=child.stdin, flush=True)
    assert megabyte < resident_bytes()
