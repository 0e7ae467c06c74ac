"""Fetching models, essays and benchmarks, partly from a server of this process that breaks off, lies and refuses."""

import hashlib
import json
import os
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas as pd
import pytest
import torch
import transformers
from huggingface_hub import constants
from support import run

import hybret as hb
from hybret import HybretError, data

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


class Hub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answers)
        self.files = dict(FILES)
        self.cut: set[str] = set()  # sent half at first
        self.dead = True  # then the line is dead for good
        self.wrong: set[str] = set()  # sent with other bytes of the same number
        self.refusal: tuple[int, str] | None = None  # status and code of every answer
        self.asked: list[tuple[str, str, str | None, str]] = []  # method, file, range, revision

    def gets(self):
        return [name for method, name, *_ in self.asked if method == "GET"]


class Answers(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, body, headers, code=200, send=None):
        self.send_response(code)
        for key, value in {"Content-Length": str(len(body)), "X-Repo-Commit": COMMIT, **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:send])
        if send is not None:
            self.close_connection = True

    def do_GET(self):
        path, hub = self.path.partition("?")[0], self.server
        lfs = {name: hashlib.sha256(body).hexdigest() for name, body in hub.files.items() if "safetensors" in name}
        git = {n: hashlib.sha1(b"blob %d\0" % len(b) + b).hexdigest() for n, b in hub.files.items()}
        if hub.refusal:
            return self.answer(b"{}", {"X-Error-Code": hub.refusal[1]}, hub.refusal[0])
        if path.startswith("/api/models/"):
            tree = [
                {"type": "file", "path": n, "size": len(b), "oid": git[n]}
                | ({"lfs": {"oid": lfs[n], "size": len(b), "pointerSize": 100}} if n in lfs else {})
                for n, b in hub.files.items()
            ]
            info = tree if "/tree/" in path else {"id": "owner/name", "sha": COMMIT, "siblings": []}
            return self.answer(json.dumps(info).encode(), {"Content-Type": "application/json"})
        revision, _, name = path.partition("/resolve/")[2].partition("/")
        asked = self.headers.get("Range")
        hub.asked.append((self.command, name, asked, revision))
        if name not in hub.files:
            return self.answer(b"{}", {"X-Error-Code": "EntryNotFound"}, 404)
        body, headers = hub.files[name], {"ETag": f'"{lfs.get(name, git[name])}"', "Accept-Ranges": "bytes"}
        if self.command == "GET" and name in hub.wrong:
            body = body[::-1]
        if self.command == "GET" and name in hub.cut:
            hub.cut.remove(name)
            hub.refusal = (503, "") if hub.dead else None
            return self.answer(body, headers, send=len(body) // 2)
        if asked and self.command == "GET":
            start = int(asked.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            return self.answer(body[start:], headers, 206)
        return self.answer(body, headers)

    do_HEAD = do_GET  # noqa: N815 (the name is http.server's)


def point(monkeypatch, address):
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    point(monkeypatch, "http://{}:{}".format(*server.server_address))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("time.sleep", lambda _: None)  # the hub's own client waits between its attempts
    yield server
    server.shutdown()


BIG, SMALL = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
KEPT = {"config.json", "tokenizer.json", BIG, SMALL}


def snapshot_files():
    return {p.name for p in Path(constants.HF_HUB_CACHE).glob("*/snapshots/*/*")}


def test_a_model_is_fetched_whole_without_pickles_and_code(hub):
    lines: list[str] = []
    folder = data.fetch("owner/name", lines.append)
    assert {p.name for p in folder.rglob("*") if p.is_file()} == KEPT and folder.name == COMMIT
    assert all((folder / name).read_bytes() == FILES[name] for name in KEPT)
    assert lines[-1] == f"checked: owner/name@{COMMIT}" and "4 files" in lines[0]
    hub.asked.clear()
    assert data.fetch(f"owner/name@{COMMIT}") == folder and not hub.gets()  # nothing twice


def test_a_download_that_stopped_goes_on_with_what_is_missing(hub):
    folder = data.fetch("owner/name")
    (folder / BIG).resolve().unlink()
    (folder / BIG).unlink()
    hub.cut = {BIG}
    with pytest.raises(HybretError, match=r"^cannot fetch 'owner/name'"):
        data.fetch("owner/name")
    assert snapshot_files() == KEPT - {BIG}  # half is not taken for whole
    hub.cut, hub.refusal = set(), None
    hub.asked.clear()
    assert data.fetch("owner/name") == folder and hub.gets() == [BIG]
    assert (folder / BIG).read_bytes() == FILES[BIG]


def test_a_file_that_differs_from_the_hubs_is_named_and_removed(hub, name=BIG):
    hub.wrong = {name}
    with pytest.raises(HybretError, match=rf"^{name} of owner/name differ from the hub's and were removed"):
        data.fetch("owner/name")
    assert snapshot_files() == KEPT - {name}
    hub.wrong = set()
    assert (data.fetch("owner/name") / name).read_bytes() == FILES[name]


def test_what_cannot_be_fetched(hub):
    del hub.files[BIG], hub.files[SMALL]
    with pytest.raises(HybretError, match="owner/name has no safetensors"):
        data.fetch("owner/name")
    with pytest.raises(HybretError, match="'griffin-tiny' is on this machine already"):
        data.fetch_model("griffin-tiny")
    found = run("fetch", "squad")
    assert found.exit_code == 2 and "give smollm2, britannica, essays, glue, mmlu or a Hugging Face id" in found.stderr


@pytest.mark.parametrize(("name", "options"), [("owner/name", {"revision": "5f3c"}), ("owner/name@5f3c", {})])
def test_the_revision_reaches_every_file(hub, tiny, name, options):
    organism = hb.models.CHECKPOINTS / "griffin-tiny"
    hub.files = {
        path.name: path.read_bytes() for path in organism.iterdir() if path.suffix in (".json", ".safetensors")
    }
    model = hb.load(name, device="cpu", **options)
    assert (model.name, model.digest) == ("owner/name@5f3c", tiny.digest)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(hub.gets())
    assert {revision for _, file, _, revision in hub.asked if file} <= {"5f3c", COMMIT}  # a commit is resolved to


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (403, "GatedRepo", "gated; accept its terms at https://huggingface.co/{} and run `hf auth login`"),
        (404, "RepoNotFound", "no such repository or revision, or it is private; check the name"),
        (503, "", "cannot be reached"),
        (None, "", "cannot be reached or HF_HUB_OFFLINE is set; check the network, or name a folder"),
    ],
)
def test_the_hubs_refusals(hub, monkeypatch, status, code, words):
    name = "google/recurentgemma-2b@0123abc"
    hub.refusal = status and (status, code)
    if status is None:
        point(monkeypatch, "http://127.0.0.1:9")
    for act in (lambda: data.fetch(name), lambda: hb.load(name, device="cpu")):
        with pytest.raises(HybretError) as caught:
            act()
        line = str(caught.value)
        assert line.startswith("cannot ") and repr(name) in line and "\n" not in line
        assert words.format(name.partition("@")[0]) in line
        assert ("(did you mean google/recurrentgemma-2b?)" in line) == (code == "RepoNotFound")


TEXTS = {"useful.txt": b"Be useful.", "newideas.txt": b"New ideas.", "addiction.txt": b"Things. " * 20}


@pytest.fixture
def essays(hub, monkeypatch, tmp_path):
    """Three texts in the places of the essays, on the server; the folder of the fetched ones."""
    monkeypatch.setenv(data.CACHE, str(tmp_path / "cache"))
    digests = {n: hashlib.sha256(t).hexdigest() for n, t in TEXTS.items()}
    monkeypatch.setattr(data, "ESSAYS", {"address": f"{constants.ENDPOINT}/x/resolve/{COMMIT}/", "files": digests})
    hub.files = dict(TEXTS)
    return tmp_path / "cache" / "essays"


def test_essays_are_fetched_where_it_stopped_and_checked(hub, essays):
    hub.cut, hub.dead = {"newideas.txt"}, False
    with pytest.raises(HybretError, match=r"cannot fetch newideas.txt .*; run `hybret fetch essays` again"):
        data.fetch("essays")
    with pytest.raises(HybretError, match=r"newideas.txt is missing or changed\); run `hybret fetch essays` once"):
        data.text_folder("essays")
    assert data.fetch("essays") == data.text_folder("essays") == essays
    assert hub.gets() == ["useful.txt", "newideas.txt", "newideas.txt", "addiction.txt"]
    (essays / "useful.txt").write_text("Be idle.")
    with pytest.raises(HybretError, match="useful.txt is missing or changed"):
        data.text_folder("essays")
    assert data.fetch("essays") == data.text_folder("essays") and hub.gets()[4:] == ["useful.txt"]


def test_an_essay_with_another_digest_is_not_kept(hub, essays):
    hub.files["useful.txt"] = b"<html>Please log in</html>"
    with pytest.raises(HybretError, match="cannot fetch useful.txt .* hash .* on a network that does not change files"):
        data.fetch("essays")
    assert not list(essays.rglob("*.txt"))


def test_the_haystack_finds_the_fetched_essays_in_the_authors_order(essays, tiny):
    found = run("sweep", "--model", "owner/name", "--haystack", "essays")
    assert found.exit_code == 2 and "run `hybret fetch essays` once" in found.stderr  # before the model is asked for
    data.fetch("essays")
    (prompt,) = hb.niah.grid(tiny, (45,), (0,), haystack="essays", needle=hb.Needle("x", "X.", "?"), buffer=5)
    assert "Be useful.New ideas.Things." in prompt.text


@pytest.fixture
def index(monkeypatch, tmp_path):
    """A function that makes the wheel ``own`` with one file, to be fetched by a name; pip finds no other package."""
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(tmp_path), "CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setenv(data.CACHE, str(tmp_path / "cache"))

    def make(name, content, **source):
        with zipfile.ZipFile(tmp_path / "own-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr("own/file", content)
            wheel.writestr("own-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: own\nVersion: 1.0\n")
            wheel.writestr("own-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        sha256 = hashlib.sha256(Path(wheel.filename).read_bytes()).hexdigest()
        source |= {"package": "own==1.0", "sha256": sha256, "file": "own/file", "megabytes": 1}
        monkeypatch.setitem(data.PACKAGES, name, source)
        return source

    return make


def test_a_text_comes_from_a_package_by_its_hash(index, monkeypatch, tmp_path):
    cut = {"from": "First", "to": "END", "drop": r"^#.*\n"}
    source = index("britannica", "A HEAD\nFirst it was\n# page 2\ncold. \n\nThen warm.\nEND", **cut)
    monkeypatch.setitem(source, "sha256", "0" * 64)
    with pytest.raises(HybretError, match="cannot fetch britannica .*HASH.*; check that pip reaches a package index"):
        data.fetch("britannica")
    assert not [*(tmp_path / "cache").iterdir()]
    with pytest.raises(HybretError, match="run `hybret fetch britannica` once, with a network"):
        hb.niah.load_haystack("britannica")
    index("britannica", "A HEAD\nFirst it was\n# page 2\ncold. \n\nThen warm.\nEND", **cut)
    folder = data.fetch("britannica")
    hay = hb.niah.load_haystack("britannica")
    assert hay.text == "First it was cold. \n\nThen warm.\n" and hay.name == f"britannica-{hay.sha256[:8]}"
    (folder / "britannica.txt").write_text("other")
    with pytest.raises(
        HybretError, match=r"britannica.txt is missing or changed\); run `hybret fetch britannica` once"
    ):
        hb.niah.load_haystack("britannica")
    assert data.fetch("britannica") == folder and hb.niah.load_haystack("britannica") == hay


def test_a_model_comes_from_the_gguf_file_in_a_package(index, tmp_path, name="smollm2-135m-instruct"):
    gguf = pytest.importorskip("gguf", reason="gguf is not installed: pip install -e '.[pretrained]'")
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = transformers.LlamaConfig(**sizes, **heads, tie_word_embeddings=True)
    net = transformers.AutoModelForCausalLM.from_config(config)
    writer = gguf.GGUFWriter(tmp_path / "gguf", "llama")
    fields = {"block_count": 2, "context_length": 64, "embedding_length": 32, "feed_forward_length": 48}
    fields |= {"head_count": 4, "head_count_kv": 2, "layer_norm_rms_eps": 1e-6, "bos_token_id": 0, "eos_token_id": 1}
    tokens = ["<|endoftext|>", "</s>", "ab", *map(chr, range(97, 123)), *"0123456789Ġ"]
    fields |= {"tokenizer_model": "gpt2", "token_list": tokens, "token_types": [3, 3, *[1] * 38]}
    for field, value in (fields | {"token_merges": ["a b"], "vocab_size": 40}).items():
        getattr(writer, f"add_{field}")(value)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    for key, weight in net.named_parameters():
        if "q_proj" in key or "k_proj" in key:  # GGUF holds the pairs that RoPE turns side by side
            weight = weight.unflatten(0, (-1, 2, 4)).swapaxes(1, 2).flatten(0, 2)
        writer.add_tensor(names.get_name(key, (".weight",)), weight.detach().numpy())
    for part in ("write_header_to_file", "write_kv_data_to_file", "write_tensors_to_file", "close"):
        getattr(writer, part)()
    content = (tmp_path / "gguf").read_bytes()
    with pytest.raises(HybretError, match="run `hybret fetch smollm2` once, with a network"):
        index("smollm2", content, model=name, weights="0" * 12) and hb.load(name)
    with pytest.raises(HybretError, match="converted to other weights than recorded; use the locked transformers"):
        data.fetch("smollm2")
    assert not [*(tmp_path / "cache").iterdir()]  # nothing half
    index("smollm2", content, model=name, weights=data.digest_of(net.state_dict()))
    lines: list[str] = []
    folder = data.fetch("smollm2", lines.append)
    model = hb.load(name, device="cpu")
    assert (model.digest, model.kind) == (data.PACKAGES["smollm2"]["weights"], "llama, attention only")
    assert len(lines) == 3 and lines[-1] == f"checked: {name} in {folder}"
    (folder / "config.json").write_text("{}")
    with pytest.raises(HybretError, match=r"config.json is missing or changed\); run `hybret fetch smollm2` once"):
        hb.load(name)


DEV, TEST = data.BENCHMARKS["mmlu"]["files"]


@pytest.fixture
def mmlu(tmp_path, monkeypatch):
    """A download of MMLU's files by split, which notes what was asked for; those in `fails` break off."""

    def download(repository, file, revision):
        download.asked.append((repository, file, revision))
        if file in download.fails:
            raise OSError("Name or service not known\nmore lines")
        path = tmp_path / file.replace("/", "-")
        columns = {"question": ["q1?", "q2?", "q3?"], "subject": ["anatomy", "anatomy", "law"], "answer": [0, 3, 1]}
        pd.DataFrame({**columns, "choices": [["a", "b", "ç", "d"]] * 3}).to_parquet(path)
        return path

    download.asked, download.fails = [], set()
    monkeypatch.setenv(data.CACHE, str(tmp_path))
    return download


def test_benchmarks_become_jsonl_with_a_manifest(mmlu):
    lines = []
    mmlu.fails = {TEST}
    with pytest.raises(HybretError, match=r"cannot download .*test.* \(Name or service not known\)"):
        data.fetch_benchmark("mmlu", mmlu)
    with pytest.raises(HybretError, match="run `hybret fetch mmlu` once"):
        data.benchmark_files("mmlu")  # a half is not taken for the whole
    mmlu.fails, mmlu.asked = set(), []
    data.fetch_benchmark("mmlu", mmlu, lines.append)
    source = data.BENCHMARKS["mmlu"]
    assert mmlu.asked == [(source["repository"], file, source["revision"]) for file in (DEV, TEST)]
    assert len(lines) == 2 and lines[0].startswith("mmlu 1/2: ")
    found = data.benchmark_files("mmlu")
    assert set(found) == {"anatomy/dev.jsonl", "anatomy/test.jsonl", "law/dev.jsonl", "law/test.jsonl"}
    assert [json.loads(line) for line in found["anatomy/test.jsonl"].read_text("utf-8").splitlines()] == [
        {"question": f"q{i}?", "subject": "anatomy", "answer": answer, "choices": ["a", "b", "ç", "d"]}
        for i, answer in ((1, 0), (2, 3))
    ]
    data.fetch_benchmark("mmlu", mmlu)
    assert len(mmlu.asked) == 2  # nothing twice


@pytest.mark.parametrize("changed", [{}, {"revision": "other"}, {"files": {"../x": "0"}}, {"files": ["x"]}], ids=str)
def test_changed_benchmarks_are_noticed_and_restored(mmlu, changed):
    """Other data, or a manifest of another revision, one that leads out of the folder, one of another kind."""
    folder = data.fetch_benchmark("mmlu", mmlu)
    path, manifest = folder / "law/test.jsonl", folder / data.MANIFEST
    good = path.read_bytes()
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | changed))
    if not changed:
        path.write_bytes(good.replace(b"q3", b"q4"))
    with pytest.raises(HybretError, match="run `hybret fetch mmlu` once"):
        data.benchmark_files("mmlu")
    data.fetch_benchmark("mmlu", mmlu)
    assert data.benchmark_files("mmlu") and path.read_bytes() == good
