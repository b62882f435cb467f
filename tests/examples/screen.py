"""A virtual screen: Xvfb, with screenshots as PNG, without an image package.

Xvfb keeps its frame buffer in a file in the XWD format (X11/XWDFile.h: 25 big-endian words, a name, a colour map of
12 bytes each, then the lines), so a screenshot is a read of that file.
"""

import os
import shutil
import struct
import subprocess
import tempfile
import zlib
from pathlib import Path
from types import TracebackType

from patience import PATIENCE

__all__ = ["Screen"]


class Screen:
    """A private X server with one true-colour screen; `display` is the value for DISPLAY.

    Raises: FileNotFoundError when there is no Xvfb.
    """

    def __init__(self, width: int = 1440, height: int = 900, dpi: int = 96) -> None:
        self._folder = tempfile.mkdtemp(prefix="screen-")
        reading, writing = os.pipe()
        command = ["Xvfb", "-displayfd", str(writing), "-screen", "0", f"{width}x{height}x24", "-dpi", str(dpi)]
        try:
            self._server = subprocess.Popen(
                [*command, "-fbdir", self._folder, "-nolisten", "tcp"], pass_fds=[writing], stderr=subprocess.DEVNULL
            )
        except FileNotFoundError as error:
            raise FileNotFoundError("there is no Xvfb: apt-get install xvfb") from error
        finally:
            os.close(writing)
        with os.fdopen(reading) as number:
            self.display = f":{int(number.readline())}"

    def __enter__(self) -> "Screen":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the server."""
        self._server.terminate()
        self._server.wait(PATIENCE)
        shutil.rmtree(self._folder)

    def pixels(self) -> tuple[int, int, bytes]:
        """Width, height, and the screen line by line, three bytes (red, green, blue) for each pixel."""
        raw = (Path(self._folder) / "Xvfb_screen0").read_bytes()
        words = struct.unpack_from(">25I", raw)
        size, version, width, height = words[0], words[1], words[4], words[5]
        depth, stride, colours = words[11], words[12], words[19]
        if (version, depth) != (7, 32):
            raise ValueError(f"not an XWD file of 32 bits a pixel: version {version}, {depth} bits")
        start = size + 12 * colours
        lines = []
        for y in range(height):
            line = raw[start + y * stride : start + y * stride + 4 * width]
            rgb = bytearray(3 * width)
            rgb[0::3], rgb[1::3], rgb[2::3] = line[2::4], line[1::4], line[0::4]
            lines.append(bytes(rgb))
        return width, height, b"".join(lines)

    def save(self, path: Path, height: int) -> None:
        """Write the top `height` lines of the screen as a PNG."""
        width, _, rgb = self.pixels()

        def chunk(kind: bytes, data: bytes) -> bytes:
            return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

        lines = b"".join(b"\0" + rgb[y * 3 * width : (y + 1) * 3 * width] for y in range(height))
        header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
        image = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines, 9)) + chunk(b"IEND", b"")
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + image)
