"""What a process costs does not depend on how many others live: 100,000 against 1,000.

Measured by driver/host/costs.cpp on two tables side by side, by turns, the best of many rounds; and since a shared
machine can spoil even that, a few attempts may be made.
"""

import subprocess

from core.harness import build

LIMIT = 1.5
ATTEMPTS = 5


def test_create_find_and_exit_cost_as_much_among_100000_as_among_1000() -> None:
    program = build().host_program("costs")
    report = ""
    for _ in range(ATTEMPTS):
        output = subprocess.check_output([str(program), "1000", "100000", "600"], text=True)
        few, many = ([float(word) for word in line.split()[1:]] for line in output.splitlines())
        ratios = [b / a for a, b in zip(few, many, strict=True)]
        report += f"create, find, exit: {few} ns among 1,000, {many} ns among 100,000\n"
        if max(ratios) <= LIMIT and sum(many) / sum(few) <= LIMIT:
            return
    raise AssertionError(f"a process costs more than {LIMIT} times as much:\n{report}")
