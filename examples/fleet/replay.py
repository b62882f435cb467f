r"""What would this policy have done to last month, on all machines? A replay of many audit logs on Dask.

Each worker replays whole logs and returns only counts, so the number of logs has no limit but the disk. Without
--scheduler the script starts a cluster on this machine. With it, it uses a real one, whose workers must see the logs by
the same paths (a share) and have procmon-gate installed.

Needs: this folder's own requirements (`pip install examples/fleet`: dask and distributed). procmon itself has none.

    $ python examples/fleet/replay.py POLICY LOGS...
    3 logs, 3,000 decisions: 412 would change, 2,588 would not
        397 x  allow -> block  c:\users\ada\downloads\setup.exe by rule no programs from downloads
         15 x  block -> allow  c:\games\chess.exe by default
    not in the logs: signer, for 88 processes
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from distributed import Client, LocalCluster, as_completed

import procmon
from procmon import audit


@dataclass
class Outcome:
    """The results of some logs; they can be added."""

    logs: int = 0
    decisions: int = 0
    changes: Counter[str] = field(default_factory=Counter)
    missing: Counter[str] = field(default_factory=Counter)
    damaged: int = 0
    failures: list[str] = field(default_factory=list)

    def add(self, other: "Outcome") -> None:
        """Add the results of other logs."""
        self.logs += other.logs
        self.decisions += other.decisions
        self.changes += other.changes
        self.missing += other.missing
        self.damaged += other.damaged
        self.failures += other.failures


def replay_one(path: Path, policy: procmon.Policy) -> Outcome:
    """Replay one log; this runs on a worker. A log that cannot be read becomes a line of the result, not an error."""
    try:
        found = audit.replay(path, policy)
    except (procmon.ProcmonError, OSError) as error:
        return Outcome(failures=[f"{path}: {error}"])
    return Outcome(1, found.decisions, Counter(map(str, found.changes)), Counter(found.missing), len(found.damaged))


def replay(client: Client, paths: Iterable[Path], policy: procmon.Policy) -> Outcome:
    """Replay all logs on the cluster's workers."""
    shared = client.scatter(policy, broadcast=True)
    total = Outcome()
    for done in as_completed(client.map(replay_one, list(paths), policy=shared, pure=False)):
        total.add(done.result())
    return total


def logs_in(places: Iterable[Path]) -> Iterator[Path]:
    """The logs: the given files, and every *.jsonl below a folder. A log's older files are read with it."""
    for place in places:
        yield from sorted(place.rglob("*.jsonl")) if place.is_dir() else [place]


def lines(total: Outcome, most: int) -> Iterator[str]:
    """The results, for people."""
    changed = total.changes.total()
    same = total.decisions - changed
    yield f"{total.logs:,} logs, {total.decisions:,} decisions: {changed:,} would change, {same:,} would not"
    for text, count in total.changes.most_common(most):
        yield f"{count:>7,} x  {text}"
    for fact, count in sorted(total.missing.items()):
        yield f"not in the logs: {fact.replace('_', ' ')}, for {count:,} processes"
    if total.damaged:
        yield f"{total.damaged:,} damaged lines of the logs are left out"
    yield from total.failures


def main() -> int:
    """Replay, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy", type=Path)
    parser.add_argument("logs", type=Path, nargs="+", help="audit logs, and folders of them")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="of a running cluster, tcp://HOST:8786")
    parser.add_argument("--workers", type=int, help="of the cluster on this machine (default: one a core)")
    parser.add_argument("--most", type=int, default=20, help="how many kinds of changes are listed (default: 20)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    policy = procmon.Policy.load(options.policy)
    cluster = options.scheduler or LocalCluster(
        n_workers=options.workers, threads_per_worker=1, dashboard_address=None, host="127.0.0.1"
    )
    with Client(cluster) as client:
        began = time.perf_counter()
        total = replay(client, logs_in(options.logs), policy)
        seconds = time.perf_counter() - began
    if options.json:
        counts = {"logs": total.logs, "decisions": total.decisions, "damaged": total.damaged, "seconds": seconds}
        lists = {"failures": total.failures, "changes": total.changes, "missing": total.missing}
        print(json.dumps({**counts, **lists}))
    else:
        print("\n".join(lines(total, options.most)))
    return 1 if total.failures else 0


if __name__ == "__main__":
    sys.exit(main())
