"""`RemoteFile`: an official file of a data set, and how it is told from any other."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RemoteFile:
    """One official file of a data set; what its publishers do not state is None."""

    name: str
    """File name."""
    num_bytes: int | None
    """Size."""
    md5: str | None
    """MD5 as its publishers print it."""
    sha256: str | None
    """SHA-256, which is what is checked where it is known."""
    note: str = ""
    """What it is for, where it is not simply needed."""

    @property
    def told_size(self) -> str:
        """The size in words, after a comma; empty where it is unknown."""
        return "" if self.num_bytes is None else f", {self.num_bytes:,} bytes"

    @property
    def told_checksum(self) -> str:
        """The strongest checksum, in words."""
        if self.sha256:
            return f"SHA-256 {self.sha256}"
        return f"MD5 {self.md5}" if self.md5 else "no checksum is published"

    def fault(self, path: Path) -> str:
        """Return in what a file differs from the official one, or an empty text.

        Raises:
            OSError: It cannot be read.
        """
        size = path.stat().st_size
        if self.num_bytes is not None and size != self.num_bytes:
            return f"{size:,} bytes, expected {self.num_bytes:,}"
        kind, expected = ("SHA-256", self.sha256) if self.sha256 else ("MD5", self.md5)
        if not expected:
            return ""
        with open(path, "rb") as stream:
            # MD5 tells a damaged file from a whole one; against forgery only https stands there.
            digest = hashlib.sha256() if self.sha256 else hashlib.md5(usedforsecurity=False)
            found = hashlib.file_digest(stream, lambda: digest).hexdigest()
        return "" if found == expected else f"{kind} {found}, expected {expected}"
