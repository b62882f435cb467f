"""What the driver's core spends on the handshake of a process; handshake.cpp measures it."""

import subprocess
from collections.abc import Iterator

from .measure import Row, row_of
from .rivals import HANDSHAKE

FEW, MANY, ROUNDS = 1_000, 100_000, 2_000


def rows() -> Iterator[Row]:
    """Measure."""
    command = [str(HANDSHAKE), str(FEW), str(MANY), str(ROUNDS)]
    *lines, few, many = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    of_few, of_many, of_map = zip(*([int(word) / 1000 for word in line.split()] for line in lines), strict=True)
    yield row_of(
        f"core: a whole handshake, {FEW:,} live", of_few, of_map, "in and out of an unordered_map", at_most=1.7
    )
    yield row_of(
        f"core: a whole handshake, {MANY:,} live", of_many, of_few, f"{FEW:,} live", at_most=1.7, at_most_ratio=1.3
    )
    print(f"  ns with {FEW:,}: {few}\n  ns with {MANY:,}: {many}", flush=True)
