"""What decisions of policies cost, and what that is compared with.

What must not grow is counted, and not timed, in
tests/unit/test_policy_index.py: the rules that are asked.
"""

import fnmatch
import gc
import random
import re
import time
import warnings
from collections.abc import Callable, Iterator

from procmon import ALLOW, DecidedBy, Decision, Policy, PolicyWarning, ProcessHelper
from procmon.policy.literals import Literals

from .measure import Row, row

LINE = (
    r'"c:\program files\example vendor\application\updater.exe" --type=renderer --lang=de --field-trial-handle=1718,i '
    r"--enable-features=abc,def --device-scale-factor=1.25 --num-raster-threads=4 --x=zz /prefetch:1"
)
"""A command line of 205 characters that matches no rule below."""

MIXED = (
    "image = 'c:/vendor{0}/program{0}.exe'", "image = 'tool{0}.exe'", "image = '**/folder{0}/**'",
    "image = 'c:/x{0}/*.exe'", "command_line = '*--option{0}*'", "command_line.contains_all = ['-word{0}', 'value{0}']",
    "image = '*x{0}*.exe'\ncommand_line = '*{0}--z*'", "parent = 'parent{0}.exe'",
)  # fmt: skip
"""Kinds of rules; half of them go by the path."""


def rows() -> Iterator[Row]:
    """Measure; each row is what it is named, beside what is measured in turns with it."""
    yield from _growth("decide, exact paths", ["image = 'c:/v{0}/a{0}.exe'"], {10: 8, 1000: 8, 100_000: 8})
    yield from _growth("decide, mixed kinds", MIXED, {10: 25, 1000: 50, 5000: 60})
    decides, one_by_one = _decides(_policy(MIXED, 1000), _process(LINE)), _loop(MIXED, 1000)
    yield _row("decide, 1,000 rules of mixed kinds", decides, one_by_one, "a loop of re", other_times=3, turns=30)
    words = _words(4800)
    four = ["command_line.contains_all = " + repr(words[i : i + 4]) for i in range(0, 4800, 4)]
    large, small = _parse(four), _parse(four[:10])
    process = _process(LINE)
    decides, of_ten = _decides(large, process), _decides(small, process)
    yield _row("decide, 1,200 rules of 4 substrings", decides, of_ten, "10 rules", at_most=40)
    near = "".join(f"{word[:-1]}#" for word in words)
    short, long = _process(near[:200]), _process((near * 4)[:32_767])
    decides, of_200 = _decides(large, long), _decides(large, short)
    yield _row("a line of 32,767 near misses", decides, of_200, "a line of 200", times=3, other_times=30, turns=9)
    found = Literals({word: [i] for i, word in enumerate(words[:1000])})
    first_words = words[:1000]
    yield _row(
        "search of 205 characters for 1,000 literals",
        lambda: list(found.find(LINE)),
        lambda: [word for word in first_words if word in LINE],
        "one by one",
    )
    loads, fewer = (lambda: _parse(four)), (lambda: _parse(four[:120]))
    yield _row("load 1,200 rules of 4 substrings", loads, fewer, "120 rules", times=1, turns=3)


def _process(line: str) -> ProcessHelper:
    image = r"c:\program files\example vendor\application\updater.exe"
    return ProcessHelper(pid=1000, parent_pid=4, image_name=image, command_line=line, start_key=9)


def _policy(kinds: tuple[str, ...] | list[str], count: int) -> Policy:
    return _parse([kinds[i % len(kinds)].format(i) for i in range(count)])


def _parse(bodies: list[str]) -> Policy:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PolicyWarning)
        return Policy.parse("".join(f"[[rule]]\n{body}\nverdict = 'block'\n" for body in bodies), lookup=lambda _: None)


def _words(count: int) -> list[str]:
    """Literals as detection rules have them: options, parts of paths, words."""
    pick = random.Random(1)
    letters = "abcdefghijklmnopqrstuvwxyz"
    starts, ends = (" -", " /", "\\", "--", "", " "), ("", " ", "=", ".exe")
    return [
        pick.choice(starts) + "".join(pick.choices(letters, k=pick.randint(4, 14))) + pick.choice(ends)
        for _ in range(count)
    ]


def _loop(kinds: tuple[str, ...], count: int) -> Callable[[], object]:
    """The same rules as regular expressions, tried one by one: what people write first."""
    image = _process(LINE).image_name.replace("\\", "/")
    tests = []
    for i in range(count):
        body = kinds[i % len(kinds)].format(i)
        [key, *_], [glob, *_] = body.split(), re.findall(r"'([^']*)'", body)
        match = re.compile(fnmatch.translate(glob), re.IGNORECASE).match
        tests.append((match, LINE if key.startswith("command_line") else image))
    return lambda: [match for match, text in tests if match(text)]


def _decides(policy: Policy, process: ProcessHelper) -> Callable[[], object]:
    return lambda: policy.decide(process)


def _growth(name: str, kinds: tuple[str, ...] | list[str], goals: dict[int, float]) -> Iterator[Row]:
    """A row for each number of rules, with its goal in microseconds, beside the number before."""
    process = _process(LINE)
    compared: Callable[[], object] = lambda: Decision(process=process, verdict=ALLOW, by=DecidedBy.DEFAULT)  # noqa: E731
    compared_with = "making a Decision"
    for count, goal in goals.items():
        decides = _decides(_policy(kinds, count), process)
        yield _row(f"{name}, {count:,} rules", decides, compared, compared_with, at_most=goal)
        compared, compared_with = decides, f"{count:,} rules"


def _row(
    name: str,
    action: Callable[[], object],
    other: Callable[[], object],
    compared_with: str,
    *,
    times: int = 30,
    other_times: int = 0,
    turns: int = 100,
    at_most: float | None = None,
) -> Row:
    """Measure so many calls in a turn; a turn is short, so that the fastest is one that nothing else interrupted."""

    def seconds(call: Callable[[], object], count: int) -> float:
        begin = time.perf_counter()
        for _ in range(count):
            call()
        return (time.perf_counter() - begin) / count

    gc.freeze()  # what there is by now is not looked through in each turn
    measured, compared = (lambda: seconds(action, times)), (lambda: seconds(other, other_times or times))
    return row(name, measured, compared, compared_with, turns=turns, at_most=at_most)
