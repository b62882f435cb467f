"""The driver's core as a Python object, through the library in build/driver/host/, for the tests of this folder.

    >>> with Core() as core:
    ...     controller = core.controller()
    ...     core.create(44, parent_pid=4)
    ...     thread = core.image(44, "\\Device\\HarddiskVolume2\\Tools\\A.exe")
    ...     [record] = controller.fetch().records
    ...     controller.allow(record)
    ...     thread.verdict()

Notifications and requests run one by one. Only `advance` moves the clock. `close` fails the test if the core left
anything behind or made a call that driver/core/port.h forbids.
"""

import ctypes
import importlib.util
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from procmon.driver import protocol

PROJECT = Path(__file__).resolve().parents[2]
START_FILETIME = 133_000_000_000_000_000  # in 2022

SUCCESS = 0
INFO_LENGTH_MISMATCH = 0xC0000004
INVALID_HANDLE = 0xC0000008
INVALID_PARAMETER = 0xC000000D
INVALID_DEVICE_REQUEST = 0xC0000010
BUFFER_TOO_SMALL = 0xC0000023
OBJECT_TYPE_MISMATCH = 0xC0000024
SHARING_VIOLATION = 0xC0000043
REVISION_MISMATCH = 0xC0000059
INSUFFICIENT_RESOURCES = 0xC000009A
DEVICE_NOT_READY = 0xC00000A3
INVALID_DEVICE_STATE = 0xC0000184

FAILED, DIED, CRITICAL = range(3)
"""The result of an attempt to terminate."""

SYSTEM_DIRECTORY = "C:\\Windows\\System32"
VOLUMES = {"\\Device\\HarddiskVolume1": "D", "\\Device\\HarddiskVolume2": "C"}
"""The options with which `Core` starts."""

TOOL = "\\Device\\HarddiskVolume2\\Tools\\A.exe"
SYSTEM32 = "\\Device\\HarddiskVolume2\\Windows\\System32\\"


@cache
def build() -> ModuleType:
    """driver/build.py as a module."""
    spec = importlib.util.spec_from_file_location("procmon_driver_build", PROJECT / "driver" / "build.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@cache
def library() -> ctypes.CDLL:
    """The host library, built first if it is out of date."""
    dll = ctypes.CDLL(str(build().build(["host"])["host"]))
    u32, u64, size, pointer, number = (
        ctypes.c_uint32, ctypes.c_uint64, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int,
    )  # fmt: skip
    text = (ctypes.c_char_p, size)
    prototypes: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "host_new": (pointer, (ctypes.c_int64,)),
        "host_delete": (u64, (pointer,)),
        "host_advance": (None, (pointer, u64)),
        "host_fail_allocation": (None, (pointer, u64, number)),
        "host_allocations": (u64, (pointer,)),
        "host_live_bytes": (u64, (pointer,)),
        "host_leftovers": (u64, (pointer,)),
        "host_worker_wakes": (u64, (pointer,)),
        "host_breaches": (u64, (pointer,)),
        "host_event_new": (u64, (pointer, number)),
        "host_event_sets": (u64, (pointer, u64)),
        "host_event_wait": (number, (pointer, u64, u32)),
        "gate_start": (u32, (pointer, u32)),
        "gate_stop": (None, (pointer,)),
        "gate_quiesce": (None, (pointer,)),
        "gate_destroy": (None, (pointer,)),
        "gate_holds_in_flight": (u32, (pointer,)),
        "gate_set_features": (None, (pointer, u32)),
        "gate_volumes_begin": (u32, (pointer,)),
        "gate_volumes_add": (u32, (pointer, *text, ctypes.c_uint16)),
        "gate_volumes_commit": (None, (pointer,)),
        "gate_set_system_directory": (u32, (pointer, *text)),
        "gate_on_create": (number, (pointer, u32, u32, u32, u32, ctypes.c_int64, *text, *text, u32, u32, number)),
        "gate_on_thread": (None, (pointer, u32)),
        "gate_on_exit": (None, (pointer, u32, u32)),
        "gate_dispatch": (u32, (pointer, u64, u32, u32, pointer, size, pointer, size, ctypes.POINTER(size))),
        "gate_handle_closed": (None, (pointer, u64)),
        "gate_next_to_terminate": (number, (pointer, ctypes.POINTER(u32), ctypes.POINTER(u64), ctypes.POINTER(u32))),
        "gate_terminated": (None, (pointer, u32, u64, number)),
        "hold_begin": (pointer, (pointer, u32, *text, *text, number)),
        "hold_begin_thread": (pointer, (pointer, u32, number)),
        "hold_signaled": (number, (pointer,)),
        "hold_slice_ms": (u32, (pointer,)),
        "hold_still_held": (number, (pointer, number)),
        "hold_end": (u32, (pointer,)),
        "hold_through": (u32, (pointer, u32, *text, u32)),
    }
    for name, (result, arguments) in prototypes.items():
        function = getattr(dll, name)
        function.restype, function.argtypes = result, arguments
    return dll


def _utf16(text: str) -> tuple[bytes, int]:
    data = text.encode("utf-16-le", "surrogatepass")
    return data + b"\0\0", len(data) // 2


class Held:
    """A held thread: the test runs its wait step by step."""

    def __init__(self, core: "Core", pid: int, pointer: int) -> None:
        self.core, self.pid, self._pointer = core, pid, pointer

    @property
    def signaled(self) -> bool:
        """The core has woken it."""
        return bool(self.core.dll.hold_signaled(self._pointer))

    @property
    def slice_ms(self) -> int:
        """How long the thread may wait before it checks again."""
        return int(self.core.dll.hold_slice_ms(self._pointer))

    def waits(self, *, dying: bool = False) -> bool:
        """The result of the thread's check after a slice; `dying`: the thread itself has been terminated."""
        return bool(self.core.dll.hold_still_held(self._pointer, dying))

    def end(self) -> int:
        """Leave the hold, which must be over, and return the verdict."""
        pointer, self._pointer = self._pointer, 0
        assert pointer, "this hold has ended before"
        self.core.holds.remove(self)
        return int(self.core.dll.hold_end(pointer))

    def verdict(self) -> int:
        """Check again, which must end the hold, and leave it."""
        assert not self.waits(), f"process {self.pid} is still held"
        assert self.signaled, f"process {self.pid} was not woken"
        return self.end()


class Caller:
    """An open handle of the device, and its process."""

    def __init__(self, core: "Core", owner: int, pid: int) -> None:
        self.core, self.owner, self.pid = core, owner, pid
        self.event = 0

    def request(self, code: int, data: bytes = b"", room: int = 0, *, overlap: bool = True) -> tuple[int, bytes]:
        """(status, reply). Input and output are one buffer, as with METHOD_BUFFERED, unless `overlap` is false."""
        size = max(len(data), room, 1)
        buffer = (ctypes.c_uint64 * (size // 8 + 1))()
        ctypes.memmove(buffer, data, len(data))
        output = buffer if overlap else (ctypes.c_uint64 * (size // 8 + 1))(*[0xAAAAAAAAAAAAAAAA] * (size // 8 + 1))
        if overlap:  # the bytes after the input are noise too
            ctypes.memset(ctypes.addressof(buffer) + len(data), 0xAA, ctypes.sizeof(buffer) - len(data))
        written = ctypes.c_size_t(12345)
        status = self.core.dll.gate_dispatch(
            self.core.host, self.owner, self.pid, code, buffer, len(data), output, room, written
        )
        assert written.value <= room and (status == SUCCESS or written.value == 0)
        return status, bytes(memoryview(output).cast("B")[: written.value])

    def must(self, code: int, data: bytes = b"", room: int = 0) -> bytes:
        """The reply of a request that succeeds."""
        status, reply = self.request(code, data, room)
        assert status == SUCCESS, f"request 0x{code:08x}: 0x{status:08x}"
        return reply

    def register(self, **options: Any) -> int:
        """REGISTER with an event of its own; the status."""
        self.event = options.pop("event", None) or self.core.event()
        return self.request(protocol.REGISTER, protocol.encode_register(self.event, **options))[0]

    def fetch(self, room: int = 1 << 20) -> protocol.Records:
        return protocol.decode_records(self.must(protocol.FETCH, room=room))

    def listing(self, after_key: int = 0, room: int = 1 << 20) -> protocol.Records:
        return protocol.decode_records(self.must(protocol.LIST, protocol.encode_list(after_key), room))

    def records(self) -> dict[int, protocol.Record]:
        """The records of LIST by pid; of two for one pid the later."""
        return {record.pid: record for record in self.listing().records}

    def answer(self, code: int, targets: Sequence[protocol.Record | tuple[int, int]]) -> list[int]:
        """ALLOW or BLOCK; the results."""
        identities = [(t.pid, t.start_key) if isinstance(t, protocol.Record) else t for t in targets]
        reply = self.must(code, protocol.encode_targets(identities), 4 * len(identities))
        return list(memoryview(reply).cast("I"))

    def allow(self, *targets: protocol.Record | tuple[int, int]) -> list[int]:
        return self.answer(protocol.ALLOW, targets)

    def block(self, *targets: protocol.Record | tuple[int, int]) -> list[int]:
        return self.answer(protocol.BLOCK, targets)

    def set_rules(self, *rules: tuple[str, Any]) -> int:
        return self.request(protocol.SET_RULES, protocol.encode_rules(rules), 8 + 4 * len(rules))[0]

    def inert_rules(self, *rules: tuple[str, Any]) -> list[int]:
        """SET_RULES; the indices of the rules that can never act."""
        reply = self.must(protocol.SET_RULES, protocol.encode_rules(rules), 8 + 4 * len(rules))
        return protocol.decode_rules(reply)

    def info(self) -> dict[str, int]:
        """INFO, with its counters in the same dictionary."""
        reply = self.must(protocol.INFO, room=protocol.INFO_REPLY.size)
        return protocol.INFO_REPLY.unpack(reply) | protocol.COUNTERS.unpack(
            reply, protocol.INFO_REPLY.offsets["counters"]
        )

    def wake_ups(self) -> int:
        """How often its event has been set."""
        return int(self.core.dll.host_event_sets(self.core.host, self.event))

    def close(self) -> None:
        self.core.dll.gate_handle_closed(self.core.host, self.owner)


class Core:
    """A gate that has been started, and the system under it."""

    def __init__(self, *, start: bool = True, volumes: dict[str, str] | None = None) -> None:
        self.dll = library()
        self.host = self.dll.host_new(START_FILETIME)
        self.holds: list[Held] = []
        self._owners = 0
        self._volumes = VOLUMES if volumes is None else volumes
        if start:
            assert self.start() == SUCCESS

    def start(self, features: int = protocol.FEATURE_CREATE_EX) -> int:
        """`Gate::start`, then the volumes and the system directory; return the first status that is no success."""
        status = self.dll.gate_start(self.host, features)
        return status or self.set_volumes(self._volumes) or self.set_system_directory(SYSTEM_DIRECTORY)

    def set_volumes(self, volumes: dict[str, str]) -> int:
        status = self.dll.gate_volumes_begin(self.host)
        for prefix, drive in volumes.items():
            status = status or self.dll.gate_volumes_add(self.host, *_utf16(prefix), ord(drive))
        if status == SUCCESS:
            self.dll.gate_volumes_commit(self.host)
        return int(status)

    def set_system_directory(self, path: str) -> int:
        return int(self.dll.gate_set_system_directory(self.host, *_utf16(path)))

    def __enter__(self) -> "Core":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()

    def close(self) -> None:
        """Stop, let every held thread leave, free everything, and fail if anything was left behind."""
        self.stop()
        self.work()
        for held in list(self.holds):
            held.verdict()
        assert self.holds_in_flight == 0
        self.dll.gate_destroy(self.host)
        assert self.breaches == 0, "memory or an event's object was acquired or released under the lock"
        assert self.dll.host_delete(self.host) == 0, "the core left something behind"

    @property
    def breaches(self) -> int:
        return int(self.dll.host_breaches(self.host))

    @property
    def holds_in_flight(self) -> int:
        return int(self.dll.gate_holds_in_flight(self.host))

    @property
    def live_bytes(self) -> int:
        return int(self.dll.host_live_bytes(self.host))

    def event(self, *, is_event: bool = True) -> int:
        return int(self.dll.host_event_new(self.host, is_event))

    def advance(self, milliseconds: int) -> None:
        self.dll.host_advance(self.host, milliseconds)

    def fail_allocation(self, n: int, *, forever: bool = False) -> None:
        """The n-th allocation from now fails; 0 = none fails."""
        self.dll.host_fail_allocation(self.host, n, forever)

    def use_up_the_reserve(self) -> None:
        """Create processes without memory until the reserve is empty."""
        self.fail_allocation(1, forever=True)
        for pid in range(100_000, 100_000 + 4 * protocol.RESERVE_RECORDS, 4):
            self.create(pid, native_name="\\Device\\HarddiskVolume2\\Tools\\A.exe")
        self.fail_allocation(0)

    def stop(self) -> None:
        self.dll.gate_stop(self.host)

    def quiesce(self) -> None:
        """The driver's action at a shutdown of Windows; the request does the same."""
        self.dll.gate_quiesce(self.host)

    def opened(self, pid: int = 1000) -> Caller:
        """A new handle of the device, in that process."""
        self._owners += 1
        return Caller(self, 0xFFFF_8000_0000_0000 + self._owners * 0x100, pid)

    def controller(self, pid: int = 1000, **options: Any) -> Caller:
        """A handle that is registered."""
        options.setdefault("flags", protocol.REPORT_EXITS)
        caller = self.opened(pid)
        assert caller.register(**options) == SUCCESS
        return caller

    def create(
        self,
        pid: int,
        *,
        parent_pid: int = 500,
        creator_pid: int = 0,
        creator_tid: int = 0,
        created: int = 0,
        native_name: str = "",
        command_line: str = "",
        file_flags: int = 0,
        signature_level: int = protocol.UNKNOWN_LEVEL,
        running: bool = False,
        refusable: bool = False,
        pico: bool = False,
    ) -> bool:
        """The creation notification; True = it is refused."""
        return bool(
            self.dll.gate_on_create(
                self.host, pid, parent_pid, creator_pid, creator_tid, created, *_utf16(native_name),
                *_utf16(command_line), file_flags, signature_level, running | refusable << 1 | pico << 2,
            )
        )  # fmt: skip

    def image(
        self,
        pid: int,
        native_name: str,
        *,
        mapped_name: str = "",
        protected: bool = False,
        dying: bool = False,
        own: bool = False,
    ) -> Held | None:
        """The image notification; None = its thread must not wait."""
        options = protected | dying << 1 | own << 2
        return self._held(pid, self.dll.hold_begin(self.host, pid, *_utf16(native_name), *_utf16(mapped_name), options))

    def own_thread(self, pid: int, *, protected: bool = False, dying: bool = False) -> Held | None:
        """The thread notification of Windows 10, in the new thread's own context."""
        return self._held(pid, self.dll.hold_begin_thread(self.host, pid, protected | dying << 1))

    def any_thread(self, pid: int) -> None:
        """The thread notification of older kernels, in the creator's context."""
        self.dll.gate_on_thread(self.host, pid)

    def _held(self, pid: int, pointer: int | None) -> Held | None:
        if not pointer:
            return None
        held = Held(self, pid, pointer)
        self.holds.append(held)
        return held

    def held(self, pid: int, native_name: str = "\\Device\\HarddiskVolume2\\Tools\\A.exe", **creation: Any) -> Held:
        """A process that is created and held."""
        assert not self.create(pid, **creation)
        held = self.image(pid, native_name)
        assert held is not None, f"process {pid} is not held"
        return held

    def exit(self, pid: int, exit_status: int = 0) -> None:
        """The exit notification."""
        self.dll.gate_on_exit(self.host, pid, exit_status)

    def next_to_terminate(self) -> tuple[int, int] | None:
        return self.ask_worker()[0]

    def ask_worker(self) -> tuple[tuple[int, int] | None, int]:
        """The process that the worker must terminate, or None and the ms until it must ask again."""
        pid, start_key, wait_ms = ctypes.c_uint32(), ctypes.c_uint64(), ctypes.c_uint32()
        if not self.dll.gate_next_to_terminate(self.host, pid, start_key, wait_ms):
            return None, wait_ms.value
        return (pid.value, start_key.value), 0

    def terminated(self, to_terminate: tuple[int, int], outcome: int = DIED) -> None:
        self.dll.gate_terminated(self.host, *to_terminate, outcome)

    def work(self, outcome: int = DIED) -> list[int]:
        """The worker: terminate every process that is due, with this outcome; return their pids."""
        pids = []
        while to_terminate := self.next_to_terminate():
            self.terminated(to_terminate, outcome)
            pids.append(to_terminate[0])
        return pids
