"""How long things take: ``python3 dev.py bench``. Prints what it measured; asserts nothing.

Machines are shared and noisy, so each number is the best of several rounds, and what is compared is measured in
turns within one run: believe the ratios.
"""

import functools
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import bench_policy
import procmon
from procmon.driver import protocol
from procmon.driver.info import DEVICE
from procmon.win32.device import Device

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = 5


def best(action: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Seconds of the fastest of `rounds` runs."""
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        action()
        times.append(time.perf_counter() - begin)
    return min(times)


def in_turns(*actions: Callable[[], object], rounds: int = ROUNDS) -> list[float]:
    """Seconds of each action's fastest run; the actions take turns, so that noise meets all of them."""
    fastest = [float("inf")] * len(actions)
    for _ in range(rounds):
        for index, action in enumerate(actions):
            fastest[index] = min(fastest[index], best(action, 1))
    return fastest


def report(what: str, value: str) -> None:
    """One line."""
    print(f"{what:<66} {value:>16}", flush=True)


def processes(count: int) -> list[procmon.ProcessHelper]:
    """Records of invented processes."""
    return [
        procmon.ProcessHelper(pid=1000 + 4 * n, parent_pid=4, start_key=n + 1, image_name=rf"c:\tools\bin\tool{n}.exe")
        for n in range(count)
    ]


# ---------------------------------------------------------------------------------------------------- any system


RULES = {
    "path": 'image = "c:/apps/vendor{0}/app{0}.exe"',
    "parent": 'parent = "c:/apps/vendor{0}/app{0}.exe"',
    "hash": 'sha256 = "{0:064x}"',
}
"""Kinds of rules that are found by dictionary."""


def policy_text(kind: str, count: int) -> str:
    """Rules of one kind, none of which matches any of `processes`."""
    return "".join(f'[[rule]]\n{RULES[kind].format(n)}\nverdict = "block"\n' for n in range(count))


def measure_policy() -> None:
    """Decisions a second, by the kind and the number of rules."""
    asked = processes(2000)
    shell = procmon.ProcessHelper(pid=4, parent_pid=0, image_name=r"c:\windows\explorer.exe")
    details = SimpleNamespace(sha256="f" * 64)
    for kind in RULES:
        policies = {
            count: procmon.Policy.parse(policy_text(kind, count), lookup=lambda pid: shell, details=lambda _: details)
            for count in (10, 1_000, 100_000)
        }
        decides = [lambda policy=policy: [policy.decide(process) for process in asked] for policy in policies.values()]
        for count, seconds in zip(policies, in_turns(*decides), strict=True):
            report(f"Policy.decide, {count:,} rules by {kind}", f"{seconds / len(asked) * 1e6:,.1f} us")
    for row in bench_policy.rows():
        report(f"{row.name}: {row.ratio:.2f} x {row.compared_with}", f"{row.microseconds:,.1f} us")


def measure_policy_reading() -> None:
    """Time and memory to read policies, and how long decisions wait for a reload."""
    for kind in RULES:
        text = policy_text(kind, 100_000)
        seconds = best(functools.partial(procmon.Policy.parse, text), 3)
        report(f"Policy.parse, 100,000 rules by {kind}", f"{seconds:.1f} s")
        tracemalloc.start()
        policy = procmon.Policy.parse(text)
        kept, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        report("  memory at most; kept", f"{peak / 1e6:,.0f} MB; {kept / 1e6:,.0f} MB")
    del policy
    for count in (100, 10_000, 100_000):
        median, worst = while_reloading(policy_text("path", count))
        report(f"a start's verdict while {count:,} rules are reloaded, median", f"{median * 1e3:,.1f} ms")
        report("  worst", f"{worst * 1e3:,.0f} ms")


def while_reloading(text: str) -> tuple[float, float]:
    """Seconds from when a decision is due to when it is there, while another thread reloads: median and worst."""
    with TemporaryDirectory() as folder:
        file = Path(folder, "policy.toml")
        file.write_text(text, encoding="utf-8")
        policy = procmon.Policy.load(file)
        asked = processes(1)[0]
        delays = []
        end = time.monotonic() + 3
        with ThreadPoolExecutor(1) as pool:
            while time.monotonic() < end:
                reloading = pool.submit(policy.reload)
                while not reloading.done():
                    due = time.perf_counter() + 0.002
                    time.sleep(0.002)
                    policy.decide(asked)
                    delays.append(time.perf_counter() - due)
                reloading.result()
    return statistics.median(delays), max(delays)


def measure_monitor() -> None:
    """Starts a second through a monitor, and the time from a start to its verdict."""
    count = 2000

    def run() -> None:
        gate = procmon.SimulatedGate()
        monitor = procmon.Monitor(gate)
        monitor.subscribe(lambda process: procmon.ALLOW)
        with monitor:
            for started in [gate.start(rf"c:\tools\tool{n}.exe") for n in range(count)]:
                gate.verdict_of(started)

    report("Monitor on SimulatedGate, starts decided by a callback", f"{count / best(run):,.0f} /s")

    gate = procmon.SimulatedGate()
    delays = []
    with procmon.Monitor(gate):
        for n in range(500):
            begin = time.perf_counter()
            gate.verdict_of(gate.start(rf"c:\tools\tool{n}.exe"))
            delays.append(time.perf_counter() - begin)
    report("  from a start to its verdict, one at a time, median", f"{statistics.median(delays) * 1e6:,.0f} us")


def measure_wire() -> None:
    """Records a second, from the bytes of a FETCH reply to what callbacks get."""
    records = tuple(protocol.Record(pid=p.pid, start_key=p.start_key, image_name=p.image_name) for p in processes(2000))
    reply = protocol.encode_records(protocol.Records(records))
    seconds = best(lambda: [record.process() for record in protocol.decode_records(reply).records])
    report("wire: records of a FETCH reply decoded", f"{len(records) / seconds:,.0f} /s")


# ------------------------------------------------------------------------------------------------------- Windows


def measure_debug_gate() -> None:
    """Ten short children of one command: free, and under a gate with a callback."""
    command = ["cmd", "/c", " & ".join(["hostname"] * 10)]

    def free() -> None:
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)

    def gated() -> None:
        gate = procmon.DebugGate.run(command, stdout=subprocess.DEVNULL)
        with procmon.Monitor(gate) as monitor:
            monitor.subscribe(lambda process: procmon.ALLOW)
            if not monitor.wait(120):
                raise RuntimeError("the command did not end")

    plain, held = in_turns(free, gated)
    report("ten children of one cmd, free", f"{plain * 1e3:,.0f} ms")
    report("ten children of one cmd, each held by DebugGate and allowed", f"{held * 1e3:,.0f} ms")
    report("  ratio", f"{held / plain:.2f}")


def measure_driver() -> None:
    """The driver: one request, and one hold from the image notification to its release (the Wine build alone takes
    notifications by request)."""
    driver = ROOT / "build" / "driver" / "wine" / "procmon.sys"
    service = procmon.DriverService()
    service.install(driver)
    try:
        service.start()
        try:
            with procmon.DriverGate() as gate, closing(Device(DEVICE)) as notifier:
                measure_requests(gate)
                measure_holds(gate, notifier)
        finally:
            service.stop()
    finally:
        service.delete()


def measure_requests(gate: procmon.DriverGate) -> None:
    """INFO: a request that does next to nothing."""
    requests = 500
    seconds = best(lambda: [gate.info() for _ in range(requests)])
    report("driver: INFO, one DeviceIoControl round trip", f"{seconds / requests * 1e6:,.0f} us")


def measure_holds(gate: procmon.DriverGate, notifier: Device) -> None:
    """From the notification of an invented process to the end of its hold."""
    delays = []
    with procmon.Monitor(gate):
        for pid in range(500_000, 500_800, 4):
            notifier.request(protocol.NOTE_CREATED, protocol.encode_note_created(pid, 4), 4)
            image = protocol.encode_note_image(pid, r"\Device\HarddiskVolume1\tools\tool.exe")
            begin = time.perf_counter()
            notifier.request(protocol.NOTE_IMAGE, image, protocol.NOTE_VERDICT.size)
            delays.append(time.perf_counter() - begin)
            notifier.request(protocol.NOTE_EXITED, protocol.encode_note_exited(pid, 0))
    report("driver: a start held, decided in Python, released; median", f"{statistics.median(delays) * 1e3:,.2f} ms")


def main() -> int:
    """Measure what can be measured on this system."""
    print(f"Python {sys.version.split()[0]} on {sys.platform}", flush=True)
    measure_wire()
    measure_policy()
    measure_policy_reading()
    measure_monitor()
    if sys.platform == "win32":
        measure_debug_gate()
        if (ROOT / "build" / "driver" / "wine").is_dir():
            measure_driver()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
