r"""Decide by the rules of a file, and follow its changes: edit examples/policy.toml while this runs.

A file with mistakes changes nothing: each mistake is printed with its place, and the old rules stay in force.

Needs: nothing as it stands; --gate debug COMMAND needs Windows, --gate driver the driver and an administrator.

    $ python examples/policy_with_reload.py
    <Policy ...policy.toml: 2 rules, enforced, no default>
    allow  cmd.exe       rule what belongs to Windows
    allow  hostname.exe  rule what belongs to Windows
    block  whoami.exe    rule no questions about who I am
    allow  hostname.exe  rule what belongs to Windows
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # an embeddable Python does not search here by itself
import _gate
import procmon


class Printer:
    """An audit that prints. `procmon.AuditLog` writes JSON lines to a file."""

    def write(self, decision: procmon.Decision) -> None:
        """Called for each decision, once its verdict was sent."""
        print(f"{decision.verdict.value:6} {decision.process.name:13} {decision.by.value} {decision.who}", flush=True)


def main(gate: procmon.Gate, path: Path = Path(__file__).with_name("policy.toml")) -> None:
    """Decide by the rules of `path` until the gate has ended."""
    policy = procmon.Policy.load(path)
    print(policy)
    monitor = procmon.Monitor(gate, audit=Printer())
    monitor.subscribe(policy)
    with monitor:
        while not monitor.wait(0.5):
            if policy.has_changed():
                try:
                    policy.reload()
                    print(policy, flush=True)
                except procmon.PolicyError as error:
                    print(error, flush=True)


if __name__ == "__main__":
    _gate.run(main, __doc__)
