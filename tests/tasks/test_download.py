"""Downloads from a real server on this machine: whole, broken, altered, absent."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pocketpipe.errors import UserError
from pocketpipe.tasks.download import ARCHIVES, Archive, download

CONTENT = bytes(range(256)) * 4000


class _Server(ThreadingHTTPServer):
    """Serves CONTENT at /file; may cut connections short. Remembers the Range headers it was asked for."""

    cut_after: int | None = None
    knows_ranges = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.ranges: list[str | None] = []

    def archive(self, path: str = "/file", content: bytes = CONTENT) -> dict[str, Archive]:
        url = f"http://127.0.0.1:{self.server_port}{path}"
        return {"thing": Archive(url=url, file="thing.bin", md5=hashlib.md5(content).hexdigest())}


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        if self.path != "/file":
            return self.send_error(404)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.knows_ranges else 0
        if start >= len(CONTENT):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start : self.server.cut_after])
        return None

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def server() -> Iterator[_Server]:
    with _Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def _files(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir()) if folder.exists() else []


def test_a_file_arrives_whole_and_is_not_fetched_twice(server: _Server, tmp_path: Path) -> None:
    target = download("thing", tmp_path / "data", server.archive())
    assert target.read_bytes() == CONTENT
    assert _files(tmp_path / "data") == ["thing.bin"]
    download("thing", tmp_path / "data", server.archive())
    assert len(server.ranges) == 1


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_a_broken_download_goes_on_where_it_stopped(server: _Server, tmp_path: Path, knows_ranges: bool) -> None:
    server.cut_after, server.knows_ranges = 300_000, knows_ranges
    with pytest.raises(UserError, match="ended after 300,000 of 1,024,000 bytes; run it again to go on"):
        download("thing", tmp_path, server.archive())
    assert _files(tmp_path) == ["thing.bin.part"]
    server.cut_after = None
    assert download("thing", tmp_path, server.archive()).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=300000-"]
    assert _files(tmp_path) == ["thing.bin"]


def test_an_altered_file_is_refused_and_removed(server: _Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="was changed on the way"):
        download("thing", tmp_path, server.archive(content=b"what was published"))
    assert _files(tmp_path) == []


def test_a_wrong_file_in_place_is_replaced(server: _Server, tmp_path: Path) -> None:
    (tmp_path / "thing.bin").write_bytes(b"old")
    assert download("thing", tmp_path, server.archive()).read_bytes() == CONTENT


def test_a_wrong_part_of_full_length_is_started_over(server: _Server, tmp_path: Path) -> None:
    (tmp_path / "thing.bin.part").write_bytes(bytes(len(CONTENT)))
    assert download("thing", tmp_path, server.archive()).read_bytes() == CONTENT
    assert len(server.ranges) == 2


def test_what_is_not_there_is_said_in_one_line(server: _Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot fetch .*/elsewhere .Not Found.*bring the file") as caught:
        download("thing", tmp_path / "data", server.archive("/elsewhere"))
    assert "\n" not in str(caught.value)
    assert _files(tmp_path / "data") == []


def test_without_a_network_it_is_one_line(tmp_path: Path) -> None:
    """Nothing listens on the port of a server that was closed."""
    with _Server() as closed:
        archive = closed.archive()
    with pytest.raises(UserError, match=r"cannot fetch .*refused.*without a network"):
        download("thing", tmp_path, archive)


def test_a_folder_that_cannot_be_made_is_said(server: _Server, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")
    with pytest.raises(UserError, match="cannot write"):
        download("thing", tmp_path / "data", server.archive())


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(UserError, match="'cifar' is unknown; can be downloaded: cifar10"):
        download("cifar", Path("anywhere"))
    assert ARCHIVES["cifar10"].file == "cifar-10-python.tar.gz"
