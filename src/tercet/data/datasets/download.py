"""Downloads: resumed, locked, checked by size and SHA-256."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import shutil
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tercet.core.errors import DataError, StorageError
from tercet.core.files import replace_file
from tercet.core.locks import FileLock


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


_PART = 1 << 20  # bytes read at a time
_TIMEOUT = 30.0  # seconds without an answer
_SPARE = 1 << 26  # bytes that stay free on the disk


def report_progress(line: str) -> None:
    """Print a line on standard error."""
    print(line, file=sys.stderr, flush=True)


class _SameSchemes(urllib.request.HTTPRedirectHandler):
    """Follows redirects only to the schemes allowed: https never falls back to http."""

    def __init__(self, schemes: Sequence[str]) -> None:
        self.schemes = schemes

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if urllib.parse.urlsplit(newurl).scheme not in self.schemes:
            raise urllib.error.URLError(f"refused a redirect to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch(
    file: RemoteFile,
    folder: Path,
    *,
    mirrors: Sequence[str],
    schemes: Sequence[str] = ("https",),
    report: Callable[[str], None] = report_progress,
) -> Path:
    """Download a file into `folder`: to a temporary name, checked, then renamed.

    What a broken connection left is gone on with the next time (`.NAME.part`), where the server still has the same
    file. Of several processes that want a file one fetches it, and the others wait.

    Args:
        file: What to fetch.
        folder: Where it goes; created where it is missing.
        mirrors: Addresses of folders that hold it, tried in order.
        schemes: Schemes that may be used, also by redirects.
        report: Takes a line about what goes on.

    Raises:
        DataError: No mirror gave the right file; the message says how to place it by hand.
        StorageError: It cannot be written.
    """
    target, reasons = folder / file.name, []

    def wait(owner: str) -> None:
        report(f"process {owner} is fetching {target}: waiting for it")

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{file.name}.lock", busy=wait) as lock:
            if lock.waited and target.exists():
                return target
            for mirror in mirrors:
                url = mirror.rstrip("/") + "/" + file.name
                try:
                    if urllib.parse.urlsplit(url).scheme not in schemes:
                        raise DataError(f"{url} is not https")
                    report(f"fetching {url}{file.told_size}")
                    part = _Part(folder, file)
                    _persist(url, part, schemes)
                except DataError as error:
                    reasons.append(str(error))
                else:
                    replace_file(part.path, target)
                    part.forget()
                    return target
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(
            f"cannot write {target}: {error.strerror or error}; free space or choose another --data-dir"
        ) from error
    raise DataError(
        f"cannot download {file.name} ({'; '.join(reasons)}): place the file by hand as {target} "
        f"({file.told_checksum}), or name the folder that holds it with --data-dir"
    )


class _Part:
    """What has arrived of a file, and by what mark the server tells that its file is still the same."""

    def __init__(self, folder: Path, file: RemoteFile) -> None:
        self.file = file
        self.path = folder / f".{file.name}.part"
        self._mark = folder / f".{file.name}.mark"

    @property
    def size(self) -> int:
        """Bytes that are here."""
        return self.path.stat().st_size if self.path.exists() else 0

    def validator(self, url: str) -> str:
        """Return the server's mark of the file that the part belongs to; empty where it cannot be gone on with."""
        try:
            address, _, mark = self._mark.read_text("utf-8").partition("\n")
        except (OSError, ValueError):
            return ""
        known = address == url and self.size and re.fullmatch(r"[ -~]+", mark)
        return mark if known else ""

    def begin(self, url: str, response: http.client.HTTPResponse) -> None:
        """Start anew, and note what tells the file's version: a strong ETag, else its date, else nothing."""
        tag = str(response.headers.get("ETag", ""))
        mark = tag if tag.startswith('"') else str(response.headers.get("Last-Modified", ""))
        self.path.write_bytes(b"")
        self._mark.write_text(f"{url}\n{mark}", "utf-8")

    def forget(self) -> None:
        """Delete what is here."""
        self.path.unlink(missing_ok=True)
        self._mark.unlink(missing_ok=True)


class _Broken(DataError):
    """The connection ended before the file did."""


def _persist(url: str, part: _Part, schemes: Sequence[str]) -> None:
    """Download, going on after broken connections as long as each brings something."""
    if part.size == part.file.num_bytes and not part.file.fault(part.path):
        return  # all was here but the last step
    while True:
        before = part.size
        try:
            return _download(url, part, schemes)
        except _Broken:
            if part.size <= before or not part.validator(url):
                raise


def _download(url: str, part: _Part, schemes: Sequence[str]) -> None:
    """Bring the part to the whole file; every fault of the network or the content becomes a `DataError`."""
    validator = part.validator(url)
    headers = {"Range": f"bytes={part.size}-", "If-Range": validator} if validator else {}
    with _open(url, headers, schemes, part) as response:
        start = _start(response)
        if start not in (0, part.size):
            part.forget()
            raise DataError(f"{url}: the server sent another part of the file than asked for")
        if not start:
            part.begin(url, response)
        stated = response.headers.get("Content-Length", "")
        length = start + int(stated) if re.fullmatch(r"\d{1,18}", stated) else None
        expected = part.file.num_bytes if part.file.num_bytes is not None else length
        _need_space(part.path, (expected or 0) - start)
        received, broken = _receive(response, part, expected)
    if broken or (expected is not None and received < expected and received != length):
        raise _Broken(f"{url}: the connection broke at {received:,} bytes {broken}".rstrip())
    problem = f"{received:,} bytes received, expected {expected:,}" if expected not in (None, received) else ""
    if problem := problem or part.file.fault(part.path):
        part.forget()
        if start:  # what was here before may be of an older file
            return _download(url, part, schemes)
        raise DataError(f"{url}: {problem}")


def _open(url: str, headers: dict[str, str], schemes: Sequence[str], part: _Part) -> http.client.HTTPResponse:
    opener = urllib.request.build_opener(_SameSchemes(schemes))
    request = urllib.request.Request(url, headers={"User-Agent": "tercet", "Accept-Encoding": "identity", **headers})
    try:
        response: http.client.HTTPResponse = opener.open(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if headers and error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.forget()
            return _open(url, {}, schemes, part)
        raise DataError(f"{url}: HTTP {error.code}") from error
    except (OSError, http.client.HTTPException) as error:
        raise DataError(f"{url}: no connection, {getattr(error, 'reason', None) or error}") from error
    return response


def _start(response: http.client.HTTPResponse) -> int:
    """Return the position of the first byte that a server sends of a file; -1 where it does not say."""
    if response.status != http.client.PARTIAL_CONTENT:
        return 0
    found = re.match(r"bytes (\d{1,18})-", response.headers.get("Content-Range", ""))
    return int(found[1]) if found else -1


def _need_space(path: Path, num_bytes: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if num_bytes + _SPARE > free:
        raise StorageError(
            f"{path.parent} has {free:,} bytes free, {num_bytes:,} are needed: choose another --data-dir"
        )


def _receive(response: http.client.HTTPResponse, part: _Part, expected: int | None) -> tuple[int, str]:
    """Append the body to the part, at most a little more than expected; return the part's size and what broke."""
    with open(part.path, "ab") as stream:
        received = os.fstat(stream.fileno()).st_size
        while expected is None or received <= expected:
            try:
                content = response.read1(_PART)
            except (OSError, http.client.HTTPException) as error:
                return received, f"({error})"
            if not content:
                break
            stream.write(content)
            stream.flush()  # a process that is killed leaves all that came
            received += len(content)
    return received, ""
