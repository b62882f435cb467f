"""A made-up device of the driver: it answers requests from a list of records."""

import threading
from dataclasses import replace

from procmon import ProcessHelper
from procmon.driver import protocol
from procmon.win32._bind import windows_error

__all__ = ["Device", "info", "record", "target"]


class Device:
    """Answers requests from a list of records; `errors` maps request codes to Windows errors."""

    path = r"\\.\Test"
    event = 0x44

    def __init__(self, *records: protocol.Record) -> None:
        self.records = list(records)
        self.requests: list[tuple[int, bytes, int]] = []
        self.errors: dict[int, int] = {}
        self.replies: dict[int, bytes] = {}
        self.closed = False
        self._woken = threading.Event()

    def request(self, code: int, data: bytes = b"", reply_bytes: int = 0) -> bytes:
        if self.closed:
            raise ValueError("the handle is closed")
        self.requests.append((code, data, reply_bytes))
        if code in self.errors:
            raise windows_error("DeviceIoControl", self.errors[code])
        if code in self.replies:
            return self.replies[code]
        if code == protocol.INFO:
            return info()
        if code == protocol.SET_RULES:
            return protocol.RULES_REPLY.pack(count=0, listed=0)
        if code in (protocol.ALLOW, protocol.BLOCK):
            return bytes(len(data) // 4)
        if code == protocol.FETCH:
            reply, self.records = self._fitting(self.records, reply_bytes), self.records
            self.records = self.records[len(reply.records) :]
            return protocol.encode_records(reply)
        if code == protocol.LIST:
            after = protocol.LIST_REQUEST.unpack(data)["after_key"]
            later = [record for record in self.records if record.start_key > after]
            reply = self._fitting(later, reply_bytes)
            more = len(reply.records) < len(later)
            next_key = (reply.records[-1].start_key if reply.records else after) if more else 0
            return protocol.encode_records(replace(reply, next_key=next_key))
        return b""

    def _fitting(self, records: list[protocol.Record], reply_bytes: int) -> protocol.Records:
        room = reply_bytes - protocol.RECORDS_HEADER.size
        fitting: list[protocol.Record] = []
        for record in records:
            if len(record.pack()) > room:
                return protocol.Records(tuple(fitting), len(record.pack()))
            room -= len(record.pack())
            fitting.append(record)
        return protocol.Records(tuple(fitting))

    def wait(self, timeout: float) -> bool:
        woken = self._woken.wait(timeout)
        self._woken.clear()
        return woken

    def wake(self) -> None:
        self._woken.set()

    def close(self) -> None:
        self.closed = True

    def codes(self) -> list[int]:
        return [code for code, _, _ in self.requests]


def info(version: int = protocol.VERSION, controller_pid: int = 0) -> bytes:
    head = bytearray(protocol.INFO_REPLY.size)
    for name, value in (("size", len(head)), ("version", version), ("controller_pid", controller_pid)):
        at = protocol.INFO_REPLY.offsets[name]
        head[at : at + 4] = value.to_bytes(4, "little")
    return bytes(head)


def record(pid: int, **fields: object) -> protocol.Record:
    return protocol.Record(pid=pid, start_key=pid, state=protocol.STATE_HELD, **fields)  # type: ignore[arg-type]


def target(pid: int) -> ProcessHelper:
    return ProcessHelper(pid=pid, start_key=pid, parent_pid=4, image_name="a.exe")
