"""The cost of a process does not depend on the number of live processes: 100,000 against 1,000.

driver/host/costs.cpp measures two tables side by side, in turn, once with warm and once with cold caches. Because other
load can spoil even that, a few attempts are allowed.
"""

import subprocess

import pytest

from core.harness import build

LIMIT = 1.5
ATTEMPTS = 5


@pytest.mark.parametrize(("caches", "rounds"), [("warm", 600), ("cold", 300)])
def test_create_find_and_exit_cost_as_much_among_100000_as_among_1000(caches: str, rounds: int) -> None:
    program = build().host_program("costs")
    report = ""
    for _ in range(ATTEMPTS):
        output = subprocess.check_output([str(program), caches, "1000", "100000", str(rounds)], text=True)
        few, many = ([float(word) for word in line.split()[1:]] for line in output.splitlines())
        if all(b <= LIMIT * a for a, b in zip(few, many, strict=True)):
            return
        report += f"create, find, exit: {few} ns among 1,000, {many} ns among 100,000\n"
    raise AssertionError(f"a process costs more than {LIMIT} times as much, {caches} caches:\n{report}")
