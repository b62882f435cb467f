"""examples/fleet on a real Dask cluster of two processes on this machine."""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from distributed import Client, LocalCluster

import procmon
from fleet import replay as example
from procmon import ALLOW, AuditLog, DecidedBy, Decision, ProcessHelper

ROOT = Path(__file__).resolve().parents[2]
POLICY = '[[rule]]\nname = "no downloads"\nimage = "**/downloads/**"\nverdict = "block"\n'


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1") as cluster,
        Client(cluster) as client,
    ):
        yield client


def write_log(path: Path, count: int) -> None:
    """A log in which every fifth process comes from downloads."""
    with AuditLog(path) as log:
        for number in range(count):
            folder = "downloads" if number % 5 == 0 else "tools"
            process = ProcessHelper(
                pid=8 + 4 * number, parent_pid=4, image_name=f"c:\\{folder}\\a.exe", start_key=number + 1
            )
            log.write(Decision(process=process, verdict=ALLOW, by=DecidedBy.DEFAULT, at=datetime.now(UTC)))


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    for machine in range(7):
        folder = tmp_path / "logs" / f"pc-{machine}"
        folder.mkdir(parents=True)
        write_log(folder / "guard.jsonl", 50)
    return tmp_path / "logs"


def test_the_sum_over_all_machines_is_that_of_each(client: Client, logs: Path) -> None:
    total = example.replay(client, example.logs_in([logs]), procmon.Policy.parse(POLICY))
    assert (total.logs, total.decisions, total.changes.total()) == (7, 350, 70)
    assert [*total.changes] == ["allow -> block  c:\\downloads\\a.exe by rule no downloads"]


def test_a_log_that_cannot_be_read_is_named_and_ends_nothing(client: Client, logs: Path) -> None:
    paths = [*example.logs_in([logs]), logs / "none.jsonl"]
    total = example.replay(client, paths, procmon.Policy.parse(POLICY))
    assert total.logs == 7 and len(total.failures) == 1 and "none.jsonl" in total.failures[0]


def test_the_script_starts_a_cluster_of_its_own_and_prints_the_sum(logs: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY)
    command = [sys.executable, str(ROOT / "examples" / "fleet" / "replay.py"), str(policy), str(logs), "--workers", "2"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=300)
    assert done.stdout.splitlines() == [
        "7 logs, 350 decisions: 70 would change, 280 would not",
        "     70 x  allow -> block  c:\\downloads\\a.exe by rule no downloads",
    ]


def test_as_json_it_is_one_object(client: Client, logs: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY)
    script = str(ROOT / "examples" / "fleet" / "replay.py")
    address = str(client.scheduler_info()["address"])
    command = [sys.executable, script, str(policy), str(logs), "--json", "--scheduler", address]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=300)
    found = json.loads(done.stdout)
    assert (found["logs"], found["decisions"]) == (7, 350)


def test_damaged_lines_are_counted_and_a_locked_log_ends_nothing(logs: Path) -> None:
    log = next(iter(example.logs_in([logs])))
    log.write_text('{"process": \n' + log.read_text(encoding="utf-8"), encoding="utf-8")
    found = example.replay_one(log, procmon.Policy.parse(POLICY))
    assert (found.logs, found.damaged) == (1, 1)
    assert "1 damaged lines of the logs are left out" in list(example.lines(found, 20))
    log.with_name("guard.jsonl.1").mkdir()
    assert "it cannot be read" in example.replay_one(log, procmon.Policy.parse(POLICY)).failures[0]
