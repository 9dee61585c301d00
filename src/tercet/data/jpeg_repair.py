"""Complete truncated JPEG files, so that the decoder fills what is missing (ITU-T T.81, annex B)."""

from __future__ import annotations

import re

_START, _END, _SCAN = b"\xff\xd8", b"\xff\xd9", 0xDA
_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")  # neither a stuffed byte nor a restart marker


def complete_jpeg(content: bytes) -> bytes | None:
    """Return a truncated JPEG file up to its last pixels, with an end marker; None if it has none, or another format.

    A header that is cut off, such as that of a further scan of a progressive file, is left out.
    """
    if not content.startswith(_START):
        return None
    position, end = 2, None
    while (marker := _MARKER.search(content, position)) is not None and marker[1] != _END[1:]:
        start = marker.end()
        length = int.from_bytes(content[start : start + 2], "big")
        if marker.start() != position or len(content) < start + max(2, length):
            break
        position = start + length
        if marker[1][0] == _SCAN:
            following = _MARKER.search(content, position)
            end = len(content) if following is None else following.start()
            position = end
    return None if end is None else content[:end].rstrip(b"\xff") + _END
