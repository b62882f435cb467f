"""Sigma rules as people publish them: reading them beside pySigma, and deciding beside asking each rule in turn."""

import json
import sys
import tarfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

from procmon import Policy, PolicyWarning, ProcessHelper
from procmon.policy.facts import Facts
from procmon.system.ancestry import Ancestry

from .measure import Row, row, seconds_of

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "sigma_backend" / "data"

sys.path.append(str(ROOT / "examples" / "sigma"))

from sigma.backends.procmon import ProcmonBackend  # noqa: E402 - the path is set only now
from sigma.collection import SigmaCollection  # noqa: E402


def rows() -> Iterator[Row]:
    """Measure, with the rules and the recorded processes of the tests of examples/sigma."""
    with TemporaryDirectory() as folder:
        files = _unpacked(Path(folder))
        text = ProcmonBackend(collect_errors=True).convert(SigmaCollection.load_ruleset(files))
        policy = _parse(text)
        yield row(
            f"reading {len(policy)} rules of SigmaHQ as a policy",
            lambda: seconds_of(lambda: _parse(text)),
            lambda: seconds_of(lambda: SigmaCollection.load_ruleset(files)),
            f"pySigma reading {len(files)} files of them",
            turns=3,
        )
    recorded = _recorded()
    yield row(
        f"deciding by them about {len(recorded)} recorded processes, each",
        lambda: seconds_of(lambda: [policy.decide(process) for process in recorded]),
        lambda: seconds_of(lambda: [_one_by_one(policy, process) for process in recorded]),
        "asking each rule in turn",
        count=len(recorded),
    )


def _unpacked(folder: Path) -> list[str | Path]:
    with tarfile.open(DATA / "rules.tar.xz") as archive:
        for member in archive:
            if content := archive.extractfile(member):
                (folder / Path(member.name).name).write_bytes(content.read())
    return [*sorted(folder.glob("*.yml"))]


def _parse(text: str) -> Policy:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PolicyWarning)
        return Policy.parse(text, lookup=lambda pid: None, details=_no_details)


def _no_details(process: ProcessHelper) -> object:
    """Nothing beyond the record is known."""
    return SimpleNamespace()


def _recorded() -> list[ProcessHelper]:
    events = [event["data"] for event in json.loads((DATA / "events.json").read_text(encoding="utf-8"))]
    return [
        ProcessHelper(
            pid=1000 + 4 * i,
            parent_pid=900_000 + i,
            image_name=str(event["Image"]).lower(),
            command_line=event["CommandLine"],
            start_key=i + 1,
        )
        for i, event in enumerate(events)
    ]


def _one_by_one(policy: Policy, process: ProcessHelper) -> bool:
    """What a policy without an index does."""
    facts = Facts(process, Ancestry(), _no_details)
    return any(rule.matches(facts) for rule in policy._rules.rules)
