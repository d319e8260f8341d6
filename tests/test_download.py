"""Downloads from a local server that cuts the line, refuses, ignores ranges and sends rubbish."""

import collections
import email.utils
import errno
import hashlib
import http.server
import os
import re
import shutil
import threading
import time

import pytest

import calojax
from calojax.errors import CalojaxError
from calojax.io import download as module
from calojax.io.download import FILES, RemoteFile, download

CONTENT = bytes(range(256)) * 4000  # 1 MB
Request = collections.namedtuple("Request", "path agent range")


def remote(content: bytes = CONTENT, name: str = "data.hdf5") -> RemoteFile:
    return RemoteFile("42", name, hashlib.md5(content).hexdigest())


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers with the server's `replies` in turn, then correctly."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        asked = self.headers.get("Range")
        self.server.requests.append(Request(self.path, self.headers["User-Agent"], asked))
        self.close_connection = True
        reply = self.server.replies.pop(0) if self.server.replies else proper
        reply(self, int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked else 0)

    def log_message(self, *args):
        pass


def send(handler, status: int, body: bytes, headers: dict[str, str] | None = None, length=None):
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body) if length is None else length))
    for name, value in (headers or {}).items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


def proper(handler, start: int, stop: int | None = None):
    """The right answer, cut off after byte ``stop`` if it is given."""
    size = len(CONTENT)
    if start >= size:
        send(handler, 416, b"", {"Content-Range": f"bytes */{size}"})
        return
    body = CONTENT[start:stop]
    if start:
        headers = {"Content-Range": f"bytes {start}-{size - 1}/{size}"}
        send(handler, 206, body, headers, length=size - start)
    else:
        send(handler, 200, body, length=size)


def cut(stop: int):
    return lambda handler, start: proper(handler, start, stop)


def ignoring_ranges(handler, start: int):
    proper(handler, 0)


def status(code: int, **headers: str):
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler, start: send(handler, code, b"<html>busy</html>", fields)


def silent(handler, start: int):
    """Closes the connection without an answer."""


def wrong_range(handler, start: int):
    size = len(CONTENT)
    send(handler, 206, CONTENT, {"Content-Range": f"bytes 0-{size - 1}/{size}"})


def of_unknown_length(handler, start: int):
    handler.send_response(200)
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.wfile.write(CONTENT)


def rubbish(handler, start: int):
    send(handler, 200, b"<html>down for maintenance</html>")


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies, self.requests = [], []
        self.pauses = []

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/records"

    def fetch(self, folder, *replies, files=None):
        self.replies = list(replies)
        files = {"test": (remote(),)} if files is None else files
        return download(
            "test", folder, base_url=self.base_url, files=files, sleep=self.pauses.append
        )

    @property
    def ranges(self) -> list[str | None]:
        return [request.range for request in self.requests]


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_download(server, tmp_path, capsys):
    (path,) = server.fetch(tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "data.hdf5"
    assert path.read_bytes() == CONTENT
    assert os.listdir(path.parent) == ["data.hdf5"]
    assert server.requests == [
        Request("/records/42/files/data.hdf5", f"calojax/{calojax.__version__}", None)
    ]
    assert server.pauses == []
    bar = capsys.readouterr().err
    assert "data.hdf5: 100%" in bar
    assert "B/s" in bar


def test_complete_files_are_not_fetched_again(server, tmp_path):
    (tmp_path / "data.hdf5").write_bytes(CONTENT)
    assert server.fetch(tmp_path) == [tmp_path / "data.hdf5"]
    assert server.requests == []


def test_another_file_in_the_way_is_left_alone(server, tmp_path):
    (tmp_path / "data.hdf5").write_bytes(b"mine")
    with pytest.raises(CalojaxError, match=r"is there already, but its md5 is .* move it away"):
        server.fetch(tmp_path)
    assert (tmp_path / "data.hdf5").read_bytes() == b"mine"


def test_several_files(server, tmp_path):
    files = {"test": (remote(name="a.hdf5"), remote(name="b.hdf5"))}
    paths = server.fetch(tmp_path, files=files)
    assert [path.name for path in paths] == ["a.hdf5", "b.hdf5"]
    assert all(path.read_bytes() == CONTENT for path in paths)


def test_broken_line_is_continued(server, tmp_path):
    (path,) = server.fetch(tmp_path, cut(300_000), cut(300_001), cut(900_000))
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=300000-", "bytes=300001-", "bytes=900000-"]
    # Every time something had come, so the pauses do not grow.
    assert server.pauses == [2, 2, 2]


def test_any_number_of_cuts_is_survived_as_long_as_bytes_come(server, tmp_path):
    cuts = [cut(n * 10_000) for n in range(1, 50)]
    (path,) = server.fetch(tmp_path, *cuts)
    assert path.read_bytes() == CONTENT
    assert len(server.requests) == 50


def test_later_call_continues(server, tmp_path):
    (tmp_path / "data.hdf5.partial").write_bytes(CONTENT[:123_456])
    (path,) = server.fetch(tmp_path)
    assert path.read_bytes() == CONTENT
    assert server.ranges == ["bytes=123456-"]


def test_partial_file_that_is_complete(server, tmp_path):
    (tmp_path / "data.hdf5.partial").write_bytes(CONTENT)
    (path,) = server.fetch(tmp_path)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [f"bytes={len(CONTENT)}-"]


def test_partial_file_that_is_too_long_is_dropped(server, tmp_path):
    (tmp_path / "data.hdf5.partial").write_bytes(CONTENT + b"more")
    (path,) = server.fetch(tmp_path)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [f"bytes={len(CONTENT) + 4}-", None]


@pytest.mark.parametrize("reply", [ignoring_ranges, of_unknown_length])
def test_server_that_ignores_ranges(reply, server, tmp_path):
    (tmp_path / "data.hdf5.partial").write_bytes(b"?" * 999)
    (path,) = server.fetch(tmp_path, reply)
    assert path.read_bytes() == CONTENT
    assert server.ranges == ["bytes=999-"]


def test_wrong_range_is_not_appended(server, tmp_path):
    (tmp_path / "data.hdf5.partial").write_bytes(CONTENT[:1000])
    (path,) = server.fetch(tmp_path, wrong_range)
    assert path.read_bytes() == CONTENT
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("replies", "pauses"),
    [
        ([status(429)], [2]),
        ([status(503), status(500), status(502), status(504)], [2, 4, 8, 16]),
        ([status(429, Retry_After="7")], [7]),
        ([status(429, Retry_After="100000")], [120]),
        ([status(429, Retry_After="soon")], [2]),
        ([status(429, Retry_After=email.utils.formatdate(0))], [0]),
        ([silent, silent], [2, 4]),
        ([status(503), cut(10), silent, status(429)], [2, 2, 4, 8]),
    ],
)
def test_passing_trouble(replies, pauses, server, tmp_path, capsys):
    (path,) = server.fetch(tmp_path, *replies)
    assert path.read_bytes() == CONTENT
    assert server.pauses == pauses
    assert "trying again" in capsys.readouterr().err


def test_retry_after_a_date(server, tmp_path):
    soon = email.utils.formatdate(time.time() + 30, usegmt=True)
    server.fetch(tmp_path, status(503, Retry_After=soon))
    (pause,) = server.pauses
    assert 20 < pause <= 30


def test_lasting_trouble(server, tmp_path):
    with pytest.raises(CalojaxError, match=r"6 attempts in a row failed .*429.* after 0\.4 MB"):
        server.fetch(tmp_path, cut(400_000), *[status(429)] * 20)
    assert (tmp_path / "data.hdf5.partial").read_bytes() == CONTENT[:400_000]
    assert not (tmp_path / "data.hdf5").exists()


def test_no_server(server, tmp_path):
    with pytest.raises(CalojaxError, match=r"6 attempts in a row failed .*refused"):
        download(
            "test",
            tmp_path,
            base_url="http://127.0.0.1:9",
            files={"test": (remote(),)},
            sleep=server.pauses.append,
        )
    assert server.pauses == [2, 4, 8, 16, 32]


@pytest.mark.parametrize("code", [403, 404, 410])
def test_refusals_are_final(code, server, tmp_path):
    with pytest.raises(CalojaxError, match=f"the server answers {code} "):
        server.fetch(tmp_path, status(code))
    assert len(server.requests) == 1


def test_a_stalled_connection_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_TIMEOUT", 0.2)
    released = threading.Event()

    def stalling(handler, start):
        proper(handler, start, 1000)
        handler.wfile.flush()
        released.wait(10)

    try:
        (path,) = server.fetch(tmp_path, stalling)
    finally:
        released.set()
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1000-"]


def test_wrong_contents_are_removed(server, tmp_path):
    with pytest.raises(CalojaxError, match=r"has md5 .* instead of .* was removed"):
        server.fetch(tmp_path, rubbish)
    assert os.listdir(tmp_path) == []
    with pytest.raises(CalojaxError, match="was removed"):
        server.fetch(tmp_path, files={"test": (remote(b"other"),)})
    assert os.listdir(tmp_path) == []


def test_small_disk_is_noticed_before(server, tmp_path, monkeypatch):
    real = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real._replace(free=500_000))
    with pytest.raises(CalojaxError, match=r"needs 0\.00 GB more, but the disk has only"):
        server.fetch(tmp_path)
    # 500 kB are enough for the rest of a download.
    (tmp_path / "data.hdf5.partial").write_bytes(CONTENT[:600_000])
    (path,) = server.fetch(tmp_path)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("number", "message"), [(errno.ENOSPC, "the disk is full"), (errno.EIO, "Input/output error")]
)
def test_disk_that_fails_on_the_way(number, message, server, tmp_path, monkeypatch):
    def copy(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(module, "_copy", copy)
    with pytest.raises(CalojaxError, match=message):
        server.fetch(tmp_path)
    assert len(server.requests) == 1


def test_interruption_keeps_what_has_come(server, tmp_path, monkeypatch):
    def interrupted(seconds):
        raise KeyboardInterrupt

    server.replies = [cut(5000)]
    with pytest.raises(KeyboardInterrupt):
        download(
            "test",
            tmp_path,
            base_url=server.base_url,
            files={"test": (remote(),)},
            sleep=interrupted,
        )
    assert (tmp_path / "data.hdf5.partial").stat().st_size == 5000


def test_unknown_data_set_and_impossible_folder(tmp_path):
    with pytest.raises(CalojaxError, match="no data set '4'; choose one of 1-photons, 1-pions"):
        download("4", tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(CalojaxError, match="cannot be made"):
        download("2", tmp_path / "file")


def test_published_files():
    assert [len(files) for files in FILES.values()] == [2, 2, 2, 4]
    everything = [file for files in FILES.values() for file in files]
    assert len({file.md5 for file in everything}) == len({file.name for file in everything}) == 10
    assert all(re.fullmatch("[0-9a-f]{32}", file.md5) for file in everything)
    assert FILES["2"][1] == RemoteFile(
        "6366271", "dataset_2_2.hdf5", "7a56fd68aa53ded37c2ac445694d9736"
    )
