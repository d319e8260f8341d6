"""Downloads from a local server that breaks off, refuses and sends rubbish."""

import gc
import hashlib
import http.server
import os
import re
import threading

import pooch.core
import pytest

import calojax
from calojax.errors import CalojaxError
from calojax.io import download as zenodo
from calojax.io.download import FILES, RemoteFile, download

# pooch leaves the connection of an answer that broke off to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
CONTENT = bytes(range(256)) * 400
FILE = RemoteFile("42", "data.hdf5", hashlib.md5(CONTENT).hexdigest())


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers with the server's (status, body) `replies` in turn, then correctly."""

    def do_GET(self):
        self.server.requests.append((self.path, self.headers["User-Agent"]))
        status, body = self.server.replies.pop(0) if self.server.replies else (200, CONTENT)
        self.send_response(status)
        self.send_header("Content-Length", str(len(CONTENT) if body in CONTENT else len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(pooch.core.time, "sleep", lambda seconds: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.replies, server.requests = [], []
        monkeypatch.setattr(zenodo, "ZENODO", f"http://127.0.0.1:{server.server_port}/records")
        monkeypatch.setitem(zenodo.FILES, "2", (FILE,))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
    gc.collect()


def fetch(server, folder, *replies):
    server.replies += replies
    return zenodo.download("2", folder)


def test_files_are_fetched_once(server, tmp_path):
    path = tmp_path / "new" / "folder" / "data.hdf5"
    for _ in range(2):
        assert fetch(server, path.parent) == [path]
        assert path.read_bytes() == CONTENT
        assert os.listdir(path.parent) == ["data.hdf5"]
    agent = f"calojax/{calojax.__version__}"
    assert server.requests == [("/records/42/files/data.hdf5", agent)]


def test_another_file_of_that_name_is_left_alone(server, tmp_path):
    (tmp_path / "data.hdf5").write_bytes(b"mine")
    with pytest.raises(CalojaxError, match=r"already exists with md5 .* move it away"):
        fetch(server, tmp_path)
    assert (tmp_path / "data.hdf5").read_bytes() == b"mine"
    assert server.requests == []


def test_passing_trouble_is_survived(server, tmp_path):
    trouble = [(429, b"busy"), (503, b"busy"), (200, CONTENT[:1000]), (200, b"<html>busy</html>")]
    (path,) = fetch(server, tmp_path, *trouble)
    assert path.read_bytes() == CONTENT
    assert len(server.requests) == 5


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ((404, b"gone"), "data.hdf5: cannot be fetched .*404.*; run the same command again"),
        ((200, CONTENT[:1000]), "data.hdf5: cannot be fetched"),
        ((200, b"<html>down for maintenance</html>"), "has other contents than published"),
    ],
)
def test_lasting_trouble_leaves_nothing(reply, message, server, tmp_path):
    with pytest.raises(CalojaxError, match=message) as error:
        fetch(server, tmp_path, *[reply] * 20)
    assert "\n" not in str(error.value)
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_one_sentence(server, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", full)
    with pytest.raises(CalojaxError, match=r"No space left on device.*free some space"):
        fetch(server, tmp_path)


def test_unknown_data_set_and_impossible_folder(tmp_path):
    with pytest.raises(CalojaxError, match="no data set '4'; choose one of 1-photons, 1-pions"):
        download("4", tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(CalojaxError, match="cannot be written"):
        download("2", tmp_path / "file")


def test_published_files():
    assert [len(files) for files in FILES.values()] == [2, 2, 2, 4]
    everything = [file for files in FILES.values() for file in files]
    assert len({file.md5 for file in everything}) == len({file.name for file in everything}) == 10
    assert all(re.fullmatch("[0-9a-f]{32}", file.md5) for file in everything)
