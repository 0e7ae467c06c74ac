"""Fetching models and essays from a server of this process, which breaks off, lies and refuses as it is told."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants
from test_cli import run

from hybret import HybretError, essays, snapshots
from hybret.tasks.haystack import PAPER_ESSAYS, load_haystack

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b'{"model_type": "jamba"}',
    "tokenizer.json": b"{}",
    "model-00001-of-00002.safetensors": bytes(range(256)) * 4000,
    "model-00002-of-00002.safetensors": b"two" * 1000,
    "pytorch_model.bin": b"a pickle",
    "modeling_own.py": b"raise SystemExit",
    "original/consolidated.safetensors": b"the same weights again",
}


class Server(ThreadingHTTPServer):
    """What it did wrong, and what it was asked."""

    daemon_threads = True
    cut: set[str]  # sent half at first
    dead: bool  # then the line is dead for good
    wrong: set[str]  # sent with other bytes of the same number
    status: int | None
    asked: list[tuple[str, str, str | None]]  # method, file, range


class Hub(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, body: bytes, headers: dict[str, str], code: int = 200, send: int | None = None) -> None:
        self.send_response(code)
        for key, value in {"Content-Length": str(len(body)), "X-Repo-Commit": COMMIT, **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:send])
        if send is not None:
            self.close_connection = True

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        lfs = {name: hashlib.sha256(body).hexdigest() for name, body in FILES.items() if "safetensors" in name}
        git = {n: hashlib.sha1(b"blob %d\0" % len(b) + b).hexdigest() for n, b in FILES.items()}
        if self.server.status:
            code = {"X-Error-Code": "GatedRepo"} if self.server.status == 403 else {}
            return self.answer(b"{}", code, self.server.status)
        if path.startswith("/api/models/") and "/tree/" in path:
            found = [
                {"type": "file", "path": n, "size": len(b), "oid": git[n]}
                | ({"lfs": {"oid": lfs[n], "size": len(b), "pointerSize": 100}} if n in lfs else {})
                for n, b in FILES.items()
            ]
            return self.answer(json.dumps(found).encode(), {"Content-Type": "application/json"})
        if path.startswith("/api/models/"):
            found = [
                {"rfilename": n, "size": len(b), "blobId": git[n]}
                | ({"lfs": {"sha256": lfs[n], "size": len(b), "pointerSize": 100}} if n in lfs else {})
                for n, b in FILES.items()
            ]
            info = {"id": "owner/name", "sha": COMMIT, "siblings": found}
            return self.answer(json.dumps(info).encode(), {"Content-Type": "application/json"})
        name = path.rpartition(f"/resolve/{COMMIT}/")[2]
        asked = self.headers.get("Range")
        self.server.asked.append((self.command, name, asked))
        body = FILES[name]
        headers = {"ETag": f'"{lfs.get(name, git[name])}"', "Accept-Ranges": "bytes"}
        if self.command == "GET" and name in self.server.wrong:
            body = body[::-1]
        if self.command == "GET" and name in self.server.cut:
            self.server.cut.remove(name)
            self.server.status = 503 if self.server.dead else None
            return self.answer(body, headers, send=len(body) // 2)
        if asked and self.command == "GET":
            start = int(asked.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            return self.answer(body[start:], headers, 206)
        return self.answer(body, headers)

    do_HEAD = do_GET  # noqa: N815 (the name is http.server's)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    server = Server(("127.0.0.1", 0), Hub)
    server.cut, server.dead, server.wrong, server.status, server.asked = set(), True, set(), None, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", "http://{}:{}".format(*server.server_address))
    template = constants.ENDPOINT + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("time.sleep", lambda _: None)  # the hub's own client waits between its attempts
    yield server
    server.shutdown()


BIG, SMALL = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
KEPT = {"config.json", "tokenizer.json", BIG, SMALL}


def test_a_model_is_fetched_whole_without_pickles_and_code(hub: Server) -> None:
    said: list[str] = []
    folder = snapshots.fetch("owner/name", say=said.append)
    assert {p.name for p in folder.rglob("*") if p.is_file()} == KEPT and folder.name == COMMIT
    assert all((folder / name).read_bytes() == FILES[name] for name in KEPT)
    assert said[-1] == f"checked: owner/name@{COMMIT}" and "4 files" in said[0]
    hub.asked.clear()
    assert snapshots.fetch(f"owner/name@{COMMIT}") == folder
    assert not [name for method, name, _ in hub.asked if method == "GET"]  # nothing twice


def snapshot_files() -> set[str]:
    return {p.name for p in Path(constants.HF_HUB_CACHE).glob("*/snapshots/*/*")}


def test_a_line_that_breaks_is_taken_up_within_the_file(hub: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100_000)
    hub.cut, hub.dead = {BIG}, False
    folder = snapshots.fetch("owner/name")
    assert ("GET", BIG, "bytes=500000-") in hub.asked  # whole chunks are kept
    assert (folder / BIG).read_bytes() == FILES[BIG]


def test_a_download_that_stopped_goes_on_with_what_is_missing(hub: Server) -> None:
    snapshots.fetch("owner/name")  # all but one file are there
    snapshots.remove(next(Path(constants.HF_HUB_CACHE).glob(f"*/snapshots/*/{BIG}")))
    hub.cut = {BIG}
    with pytest.raises(HybretError, match=r"^cannot fetch 'owner/name': huggingface.co cannot be reached"):
        snapshots.fetch("owner/name")
    assert snapshot_files() == KEPT - {BIG}  # half is not taken for whole
    hub.cut, hub.status = set(), None
    hub.asked.clear()
    folder = snapshots.fetch("owner/name")
    assert [name for method, name, _ in hub.asked if method == "GET"] == [BIG]
    assert (folder / BIG).read_bytes() == FILES[BIG]


@pytest.mark.parametrize("name", [BIG, "config.json"])
def test_a_file_that_differs_from_the_hubs_is_named_and_removed(hub: Server, name: str) -> None:
    hub.wrong = {name}
    with pytest.raises(HybretError, match=rf"^{name} of owner/name differ from what the hub has and were removed"):
        snapshots.fetch("owner/name")
    assert snapshot_files() == KEPT - {name}
    hub.wrong = set()
    assert (snapshots.fetch("owner/name") / name).read_bytes() == FILES[name]


def test_space_is_asked_before_anything_is_downloaded(hub: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(HybretError, match="GiB are missing and .* GiB free; free some, or set HF_HOME"):
        snapshots.fetch("owner/name")
    assert not [name for method, name, _ in hub.asked if method == "GET"]


def test_what_cannot_be_fetched_is_one_sentence(hub: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.status = 403
    with pytest.raises(HybretError, match="its repository is gated and .* https://huggingface.co/owner/name"):
        snapshots.fetch("owner/name")
    hub.status = None
    monkeypatch.setattr(snapshots, "READ", ("*.json",))
    with pytest.raises(HybretError, match="there are no safetensors in owner/name"):
        snapshots.fetch("owner/name")
    with pytest.raises(HybretError, match="'griffin-tiny' is on this machine already"):
        snapshots.fetch("griffin-tiny")
    monkeypatch.setattr(constants, "ENDPOINT", "http://nowhere.invalid")
    with pytest.raises(HybretError, match="^cannot fetch 'owner/name': huggingface.co cannot be reached"):
        snapshots.fetch("owner/name")
    found = run("fetch", "squad")
    assert found.exit_code == 2 and "give essays, glue, mmlu or a Hugging Face id" in found.stderr


# ---------------------------------------------------------------- essays

TEXTS = {"useful.txt": b"Be useful.", "newideas.txt": b"New ideas.", "addiction.txt": b"Things."}


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Three texts in the places of the essays."""
    hashes = {name: hashlib.sha256(text).hexdigest() for name, text in TEXTS.items()}
    monkeypatch.setitem(essays.ESSAYS, "files", hashes)
    return dict(TEXTS)


def test_essays_are_fetched_where_it_stopped_and_checked(recorded: dict[str, bytes], tmp_path: Path) -> None:
    asked: list[str] = []

    def opener(url: str) -> bytes:
        name = url.rpartition("/")[2]
        asked.append(name)
        if name == "newideas.txt" and len(asked) < 3:
            raise ConnectionResetError("connection reset")
        return recorded[name]

    with pytest.raises(HybretError, match=r"cannot download newideas.txt of .* \(connection reset\).*finished files"):
        essays.fetch(tmp_path, opener)
    with pytest.raises(HybretError, match=r"newideas.txt is not there\); run `hybret fetch essays` once"):
        essays.fetched(tmp_path)
    folder = essays.fetch(tmp_path, opener)
    assert asked == ["useful.txt", "newideas.txt", "newideas.txt", "addiction.txt"]
    assert essays.fetched(tmp_path) == folder
    (folder / "useful.txt").write_text("Be idle.")
    with pytest.raises(HybretError, match="useful.txt is not what was fetched"):
        essays.fetched(tmp_path)
    essays.fetch(tmp_path, opener)
    assert asked[4:] == ["useful.txt"] and essays.fetched(tmp_path)


def test_an_essay_with_another_hash_is_refused(recorded: dict[str, bytes], tmp_path: Path) -> None:
    with pytest.raises(HybretError, match="useful.txt came with another SHA-256 than recorded and was not kept"):
        essays.fetch(tmp_path, lambda _: b"<html>Please log in</html>")
    assert not list(tmp_path.rglob("*.txt"))


def test_half_an_answer_is_an_error(recorded: dict[str, bytes], tmp_path: Path, hub: Server) -> None:
    """Of a real server that closes too early."""
    hub.cut = {BIG}
    address = f"{constants.ENDPOINT}/owner/name/resolve/{COMMIT}/{BIG}"
    with pytest.raises(HybretError, match="cannot download useful.txt"):
        essays.fetch(tmp_path, lambda _: essays.read(address))
    assert not list(tmp_path.rglob("*.txt"))


def test_the_haystack_finds_the_fetched_essays_in_the_authors_order(
    recorded: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYBRET_CACHE", str(tmp_path))
    with pytest.raises(HybretError, match="run `hybret fetch essays` once"):
        load_haystack("essays")
    found = run("sweep", "--model", "owner/name", "--haystack", "essays")
    assert found.exit_code == 2 and "run `hybret fetch essays` once" in found.stderr  # before the model is asked for
    essays.fetch(opener=lambda url: recorded[url.rpartition("/")[2]])
    assert load_haystack("essays").text == "Be useful.New ideas.Things."


def test_the_recorded_essays_are_those_of_the_authors() -> None:
    files = essays.ESSAYS["files"]
    assert len(files) == 49 and dict(PAPER_ESSAYS).items() <= files.items()
    assert len(essays.ESSAYS["commit"]) == 40


SHARED = Path(__file__).parents[3] / "shared" / "niah" / "essays"


@pytest.mark.skipif(not SHARED.is_dir(), reason="no essays beside this clone (../shared/niah/essays)")
def test_a_copy_of_the_essays_beside_the_clone_is_the_recorded_one() -> None:
    there = {path.name: essays.digest(path) for path in SHARED.glob("*.txt")}
    assert there and there.items() <= essays.ESSAYS["files"].items()
