"""Fetch a published data set, for machines with a network: resumed where it stopped, checked before it counts."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

from pocketpipe.doors import Value
from pocketpipe.errors import UserError
from pocketpipe.hashing import file_digest
from pocketpipe.tasks.cifar_files import ARCHIVE, ARCHIVE_MD5

CHUNK = 1 << 20
TIMEOUT_SECONDS = 30


class Archive(Value):
    """A file on the web, and how to know that it arrived whole."""

    url: str
    file: str
    """Its name in the data folder."""
    md5: str


ARCHIVES: Mapping[str, Archive] = {
    "cifar10": Archive(
        url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        file=ARCHIVE,
        md5=ARCHIVE_MD5,
    ),
}


def download(name: str, data_root: Path, archives: Mapping[str, Archive] = ARCHIVES) -> Path:
    """The archive `name` in `data_root`, fetched unless it is there. Raises UserError, in one line.

    Until its checksum is right it is called `FILE.part`; after a broken connection the next call resumes it.
    """
    if name not in archives:
        raise UserError(f"data set {name!r} is unknown; can be downloaded: {', '.join(sorted(archives))}")
    archive = archives[name]
    target = data_root / archive.file
    part = target.with_name(target.name + ".part")
    try:
        if target.exists() and file_digest(target, "md5") == archive.md5:
            return target
        data_root.mkdir(parents=True, exist_ok=True)
        if not part.exists() or file_digest(part, "md5") != archive.md5:
            _fetch(archive.url, part)
        found = file_digest(part, "md5")
    except (urllib.error.URLError, HTTPException, ConnectionError, TimeoutError) as error:
        raise UserError(_unreachable(archive, target, error)) from error
    except OSError as error:
        raise UserError(f"cannot write {part}: {error.strerror or error}") from error
    if found != archive.md5:
        part.unlink()
        raise UserError(f"{archive.url} has MD5 {found} instead of {archive.md5}: it was changed on the way; try again")
    os.replace(part, target)
    return target


def _fetch(url: str, part: Path) -> None:
    """Append to `part` what is missing of `url`. Raises UserError if the connection ends too early."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response: HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:  # 416: the part is as long as the file, and wrong: start over
            raise
        part.unlink()
        return _fetch(url, part)
    resumed = response.status == 206
    have = have if resumed else 0
    total = have + int(response.headers.get("Content-Length", 0))
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with (
        response,
        open(part, "ab" if resumed else "wb") as file,
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress,
    ):
        bar = progress.add_task(part.stem, total=total or None, completed=have)
        while chunk := response.read(CHUNK):
            file.write(chunk)
            progress.advance(bar, len(chunk))
        arrived = file.tell()
    if arrived < total:
        raise UserError(f"{url}: the connection ended after {arrived:,} of {total:,} bytes; run it again to go on")


def _unreachable(archive: Archive, target: Path, error: Exception) -> str:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return (
        f"cannot fetch {archive.url} ({reason}); without a network, "
        f"bring the file from another machine and lay it at {target} (is {urlsplit(archive.url).hostname} reachable?)"
    )
