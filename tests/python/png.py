"""Reads pictures in PNG, as far as Chromium writes them: eight bits a channel, not interlaced."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Picture:
    """A decoded picture."""

    width: int
    height: int
    channels: int
    rows: list[bytes]

    def pixel(self, x: int, y: int) -> tuple[int, int, int]:
        """Returns red, green and blue."""
        red, green, blue = self.rows[y][x * self.channels :][:3]
        return red, green, blue


def _paeth(left: int, above: int, above_left: int) -> int:
    """Returns which neighbour is the nearest to what they foretell (PNG, third edition, §9.4)."""
    by_left, by_above = abs(above - above_left), abs(left - above_left)
    by_both = abs(left + above - 2 * above_left)
    if by_left <= by_above and by_left <= by_both:
        return left
    return above if by_above <= by_both else above_left


def _row(kind: int, filtered: bytes, above: bytes, channels: int) -> bytes:
    """Returns a row as it was before it was filtered (§9.2)."""
    if kind == 0:
        return filtered
    if kind == 2:
        return bytes((byte + up) & 0xFF for byte, up in zip(filtered, above, strict=True))
    # To the left of the row are zeros.
    row, before = bytearray(channels) + filtered, bytes(channels) + above
    for index in range(channels, len(row)):
        left, up = row[index - channels], before[index]
        if kind == 1:
            foretold = left
        elif kind == 3:
            foretold = (left + up) // 2
        else:
            foretold = _paeth(left, up, before[index - channels])
        row[index] = (row[index] + foretold) & 0xFF
    return bytes(row[channels:])


def decode(png: bytes) -> Picture:
    """Decodes a picture."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    compressed, at = b"", 8
    width = height = channels = 0
    while at < len(png):
        length, kind = struct.unpack_from(">I4s", png, at)
        content = png[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            width, height, depth, color, _, _, interlace = struct.unpack(">IIBBBBB", content)
            channels = {2: 3, 6: 4}[color]
            assert (depth, interlace) == (8, 0)
        if kind == b"IDAT":
            compressed += content
        at += length + 12
    data = zlib.decompress(compressed)
    size = width * channels
    above, rows = bytes(size), []
    for start in range(0, len(data), size + 1):
        above = _row(data[start], data[start + 1 : start + 1 + size], above, channels)
        rows.append(above)
    assert len(rows) == height
    return Picture(width, height, channels, rows)
