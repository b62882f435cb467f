"""Shared by the tests of the Sigma backend: pySigma finds the backend, and rules become policies."""

import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BACKEND = ROOT / "examples" / "sigma"
DATA = Path(__file__).resolve().parent / "data"

sys.path.insert(0, str(BACKEND))

from sigma.backends.procmon import ProcmonBackend  # noqa: E402 - the path is set only now
from sigma.collection import SigmaCollection  # noqa: E402

Convert = Callable[..., tuple[str, dict[str, str]]]

RULE = """\
title: {title}
id: 99c8be4f-3087-4f9f-9c24-8c7e257b442e
author: Ada, Bob
level: {level}
logsource: {{category: process_creation, product: windows}}
detection:
{detection}
"""


@pytest.fixture(scope="session")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of SigmaHQ's rules."""
    folder = tmp_path_factory.mktemp("rules")
    with tarfile.open(DATA / "rules.tar.xz") as archive:
        for member in archive:
            if content := archive.extractfile(member):
                (folder / Path(member.name).name).write_bytes(content.read())
    return folder


@pytest.fixture
def convert() -> Convert:
    """Convert the text of rules: the policy, and the reason for each that is left out, by its title."""

    def convert(*texts: str, block: str = "", ask: str = "") -> tuple[str, dict[str, str]]:
        backend = ProcmonBackend(collect_errors=True, block=block, ask=ask)
        policy = backend.convert(
            SigmaCollection.merge([SigmaCollection.from_yaml(text, True, collect_filters=True) for text in texts])
        )
        return policy, {rule.title: str(error.args[0]) for rule, error in backend.errors}

    return convert


def rule(detection: str, title: str = "A rule", level: str = "high") -> str:
    """The text of a rule with this detection."""
    lines = "\n".join(f"  {line}" for line in detection.splitlines())
    return RULE.format(title=title, level=level, detection=lines)
