"""Imported rules decide like an independent evaluator of Sigma, for every rule and every recorded process."""

import json
import ntpath
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

import procmon
from procmon import DecidedBy, Policy, ProcessHelper
from procmon.util.paths import lowercase

from .conftest import BACKEND, DATA

pytestmark = pytest.mark.filterwarnings("ignore::procmon.errors.PolicyWarning")  # of what rules hardly mean

Recorded = Mapping[str, str | int | None]

RECORDINGS = json.loads((DATA / "events.json").read_text(encoding="utf-8"))
RECORDED: list[Recorded] = [each["data"] for each in RECORDINGS]
MOST_LEFT_OUT = 16


@pytest.fixture(scope="module")
def imported(rules: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The policy of all rules, and the output of convert.py."""
    policy = tmp_path_factory.mktemp("policy") / "policy.toml"
    command = [sys.executable, str(BACKEND / "convert.py"), str(rules), "-o", str(policy)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    return policy.read_text(encoding="utf-8"), ended.stderr


def details(event: Recorded) -> SimpleNamespace:
    """Sysmon's record, with the names of a policy's facts; ``-`` is Sysmon's mark for an unknown fact."""
    known = {field: value for field, value in event.items() if value != "-"}
    hashes = dict(each.split("=", 1) for each in str(known["Hashes"]).split(",")) if "Hashes" in known else {}
    return SimpleNamespace(
        parent_command_line=known.get("ParentCommandLine"),
        user=known.get("User"),
        parent_user=known.get("ParentUser"),
        current_directory=known.get("CurrentDirectory"),
        integrity=known.get("IntegrityLevel"),
        logon_id=known.get("LogonId"),
        session=known.get("TerminalSessionId"),
        original_file_name=known.get("OriginalFileName"),
        product=known.get("Product"),
        company=known.get("Company"),
        description=known.get("Description"),
        file_version=known.get("FileVersion"),
        **{kind.lower(): digest for kind, digest in hashes.items()},
    )


def process(event: Recorded, number: int) -> ProcessHelper:
    """The process of a recording, as a gate gives it."""
    line = event.get("CommandLine")
    image = lowercase(str(event.get("Image", "")))
    return ProcessHelper(
        pid=1000 + 4 * number,
        parent_pid=900_000 + number,
        image_name=image,
        command_line=None if line is None else str(line),
        start_key=number + 1,
    )


def judge(policy_text: str, events: Sequence[Recorded] = RECORDED) -> Callable[[int], procmon.Decision]:
    """The decisions of a policy about events, by number."""
    now: Recorded = {}

    def parent(pid: int) -> ProcessHelper | None:
        image = now.get("ParentImage", "-")
        return None if image == "-" else ProcessHelper(pid=pid, parent_pid=0, image_name=lowercase(str(image)))

    policy = Policy.parse(policy_text, lookup=parent, details=lambda _: details(now))

    def decide(number: int) -> procmon.Decision:
        nonlocal now
        now = events[number]
        return policy.decide(process(now, number))

    return decide


def single_rules(policy_text: str) -> list[tuple[str, str]]:
    """Identifier and text of each rule."""
    texts = policy_text.split("\n\n[[rule]]\n")[1:]
    last, _, _ = texts[-1].partition("\n\n# left out")
    texts[-1] = last
    return [(text.split("\n", 1)[0].rpartition("(")[2].rstrip(")'\""), f"[[rule]]\n{text}") for text in texts]


def test_almost_every_rule_can_be_said(imported: tuple[str, str]) -> None:
    policy, printed = imported
    first, second, *reasons = printed.splitlines()
    assert len(reasons) <= MOST_LEFT_OUT
    assert first.startswith(f"{403 - len(reasons)} rules in ")
    assert second == f"{len(reasons)} left out:"
    assert all(reason.startswith("  proc_creation_win_") and "regular expression" in reason for reason in reasons)
    assert len(single_rules(policy)) == 403 - len(reasons)


@pytest.mark.promise("An imported Sigma rule agrees with an independent evaluator on every recording", gate="Policy")
def test_each_rule_agrees_with_the_evaluator_on_every_recording(imported: tuple[str, str]) -> None:
    wrong = []
    for identifier, text in single_rules(imported[0]):
        decide = judge(text)
        for number, recording in enumerate(RECORDINGS):
            matched = decide(number).by is DecidedBy.RULE
            if matched != (identifier in recording["matches"]):
                wrong.append((text.split("\n")[1], ntpath.basename(recording["data"]["Image"]), matched))
    assert wrong == []


def test_the_whole_policy_decides_by_a_rule_exactly_where_one_matches(imported: tuple[str, str]) -> None:
    decide = judge(imported[0])
    identifiers = {identifier for identifier, _ in single_rules(imported[0])}
    for number, recording in enumerate(RECORDINGS):
        expected = [each for each in recording["matches"] if each in identifiers]
        decision = decide(number)
        if expected:
            assert decision.who.rpartition("(")[2].rstrip(")") in expected
            assert (decision.verdict, decision.audited) == (procmon.BLOCK, True)
        else:
            assert decision.by is DecidedBy.DEFAULT, decision.who
