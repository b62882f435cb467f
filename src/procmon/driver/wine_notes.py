"""The requests that the Wine test build of the driver takes in place of the kernel's notifications.

Wine's kernel notifies drivers of no process. ``driver/wine/kernel.py`` sends these requests in its place.
"""

from . import protocol
from .layout import utf16

__all__ = [
    "decode_note_created",
    "decode_note_image",
    "encode_note_created",
    "encode_note_exited",
    "encode_note_image",
]


def encode_note_created(
    pid: int,
    parent_pid: int,
    *,
    creator_pid: int = 0,
    creator_tid: int = 0,
    created: int = 0,
    command_line: str = "",
    native_name: str = "",
) -> bytes:
    """NOTE_CREATED: the contents of the kernel's creation notification; `created` is a FILETIME."""
    line, name = utf16(command_line), utf16(native_name)
    header = protocol.NOTE_CREATED_REQUEST.pack(
        pid=pid,
        parent_pid=parent_pid,
        creator_pid=creator_pid,
        creator_tid=creator_tid,
        created=created,
        command_line_bytes=len(line),
        native_name_bytes=len(name),
    )
    return header + line + name


def decode_note_created(data: bytes) -> bool:
    """The reply of NOTE_CREATED: True when the creation is refused."""
    if len(data) != 4:
        raise ValueError(f"the reply of NOTE_CREATED has 4 bytes, and {len(data)} are there")
    return data != bytes(4)


def encode_note_image(pid: int, native_name: str) -> bytes:
    """NOTE_IMAGE: the contents of the image notification of the EXE; "" = the system gives no name."""
    name = utf16(native_name)
    return protocol.NOTE_IMAGE_REQUEST.pack(pid=pid, native_name_bytes=len(name)) + name


def decode_note_image(data: bytes) -> tuple[int, int]:
    """The reply of NOTE_IMAGE, which arrives when the hold ends: (verdict code, exit status)."""
    if len(data) != protocol.NOTE_VERDICT.size:
        raise ValueError(f"the reply of NOTE_IMAGE has {protocol.NOTE_VERDICT.size} bytes, and {len(data)} are there")
    verdict = protocol.NOTE_VERDICT.unpack(data)
    return verdict["verdict"], verdict["exit_status"]


def encode_note_exited(pid: int, exit_status: int) -> bytes:
    """NOTE_EXITED: the contents of the exit notification."""
    return protocol.NOTE_EXITED_REQUEST.pack(pid=pid, exit_status=exit_status)
