"""What decisions of policies cost, and what that is compared with.

What must not grow is counted, and not timed, in
tests/unit/test_policy_index.py: the rules that are asked.
"""

import fnmatch
import random
import re
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import pairwise

from procmon import Policy, PolicyWarning, ProcessHelper
from procmon.policy.literals import Literals

from .measure import TURNS, Row, row

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
    yield from _growth("decide, exact paths", [_policy(["image = 'c:/v{0}/a{0}.exe'"], n) for n in (10, 1000, 100_000)])
    yield from _growth("decide, mixed kinds", [_policy(MIXED, n) for n in (10, 1000, 5000)])
    yield _against("decide, 1,000 rules of mixed kinds", _policy(MIXED, 1000), _loop(MIXED, 1000), "a loop of re")
    words = _words(4800)
    four = ["command_line.contains_all = " + repr(words[i : i + 4]) for i in range(0, 4800, 4)]
    large, small = _parse(four), _parse(four[:10])
    process = _process(LINE)
    yield _row("decide, 1,200 rules of 4 substrings", _decides(large, process), _decides(small, process), "10 rules")
    near = "".join(f"{word[:-1]}#" for word in words)
    short, long = _process(near[:200]), _process((near * 4)[:32_767])
    yield _row("a line of 32,767 near misses", _decides(large, long), _decides(large, short), "a line of 200", 10)
    found = Literals({word: [i] for i, word in enumerate(words[:1000])})
    one_by_one = words[:1000]
    yield _row(
        "search of 205 characters for 1,000 literals",
        lambda: list(found.find(LINE)),
        lambda: [word for word in one_by_one if word in LINE],
        "one by one",
    )
    yield _row("load 1,200 rules of 4 substrings", lambda: _parse(four), lambda: _parse(four[:120]), "120 rules", 1)


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


def _growth(name: str, policies: list[Policy]) -> Iterator[Row]:
    process = _process(LINE)
    for few, many in pairwise(policies):
        title = f"{name}, {len(many):,} rules"
        yield _row(title, _decides(many, process), _decides(few, process), f"{len(few):,} rules")


def _against(name: str, policy: Policy, other: Callable[[], object], compared_with: str) -> Row:
    return _row(name, _decides(policy, _process(LINE)), other, compared_with)


def _row(
    name: str, action: Callable[[], object], other: Callable[[], object], compared_with: str, times: int = 100
) -> Row:
    def seconds(call: Callable[[], object], count: int) -> float:
        begin = time.perf_counter()
        for _ in range(count):
            call()
        return (time.perf_counter() - begin) / count

    fewer = max(times // 10, 1)
    turns = TURNS if times > 1 else 3
    return row(name, lambda: seconds(action, times), lambda: seconds(other, fewer), compared_with, turns=turns)
