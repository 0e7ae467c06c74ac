"""The tasks of Section 4 as lm-evaluation-harness reads them: the organisms' own, GLUE and MMLU.

Every task is a YAML file that says what to ask and how: the organisms' lie in ``hybret/tasks``, those of GLUE and MMLU
are lm-eval's. Where the questions are is added here: a generated file for each task that includes the other one and
names JSONL files of this machine, so that nothing is downloaded while a benchmark runs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from . import fetching
from .errors import HybretError
from .organisms import skills
from .store import write_whole

BENCHMARKS = ("organism", "glue", "mmlu")
TEST_ITEMS = 500
SHOTS = 5
FOLDER = Path(__file__).parent / "tasks"
# lm-eval's mnli reads two splits under two names.
_GLUE = {"cola": "cola", "mnli": "mnli", "mnli_mismatch": "mnli", "mrpc": "mrpc", "qnli": "qnli", "qqp": "qqp",
         "rte": "rte", "sst2": "sst2", "wnli": "wnli"}  # fmt: skip


@dataclass(frozen=True)
class Task:
    """One task and where its questions are.

    Attributes
    ----------
    name : lm-eval's name of it.
    benchmark : ``"organism"``, ``"glue"`` or ``"mmlu"``.
    group : what it is reported with: ``"glue"``, ``"mmlu-knowledge"``, ``"mmlu-lookup"``, or for the real MMLU
        its category, e.g. ``"mmlu-stem"``.
    definition : the YAML file.
    data : split to JSONL file.
    options : fields that replace those of the definition.
    """

    name: str
    benchmark: str
    group: str
    definition: Path
    data: dict[str, Path]
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Short name for a figure."""
        return self.name.removeprefix("organism_").removeprefix("mmlu_")

    @property
    def digest(self) -> str:
        """12 hex digits of all that decides what is asked: the definition, with what it includes, and the data."""
        total = hashlib.sha256(
            json.dumps([self.name, self.options, _definition(self.definition)], sort_keys=True).encode()
        )
        for split, path in sorted(self.data.items()):
            total.update(split.encode() + path.read_bytes())
        return total.hexdigest()[:12]


def find(tasks: str | Sequence[str]) -> list[Task]:
    """The tasks of these names, their data on disk.

    Parameters
    ----------
    tasks : benchmarks (`BENCHMARKS`) or single tasks, as a sequence or separated by commas.

    Raises
    ------
    HybretError
        lm-eval is missing, there is no such task, or its data have not been fetched.
    """
    if find_spec("lm_eval") is None:
        raise HybretError('lm-evaluation-harness is not installed; run `pip install "hybret[eval]"`')
    names = [name.strip() for name in tasks.split(",")] if isinstance(tasks, str) else list(tasks)
    found: dict[str, Task] = {}
    for name in names:
        benchmark = name if name in BENCHMARKS else _home(name)
        chosen = {"organism": organism, "glue": glue, "mmlu": mmlu}[benchmark]()
        found |= {task.name: task for task in chosen if name in (benchmark, task.name)}
    return list(found.values())


def _home(name: str) -> str:
    """The benchmark that a single task belongs to."""
    if name in _organism_definitions():
        return "organism"
    if name in _GLUE:
        return "glue"
    if name in _mmlu_definitions():
        return "mmlu"
    raise HybretError(
        f"unknown benchmark or task {name!r}; choose from {', '.join(BENCHMARKS)}, or name single tasks such as "
        f"{next(iter(_organism_definitions()))}, cola or mmlu_astronomy, separated by commas"
    )


def organism() -> list[Task]:
    """The organisms' own tasks (`hybret.organisms.skills`); their items are written on first use.

    `TEST_ITEMS` test items each, of a split that no organism was trained on.
    """
    tasks = []
    for name, definition in _organism_definitions().items():
        group = skills.TASKS[definition.stem].group
        splits = {"test": TEST_ITEMS} | ({} if group == "glue" else {"dev": SHOTS})
        data = {split: _written(definition.stem, split, n, group != "glue") for split, n in splits.items()}
        tasks.append(Task(name, "organism", group, definition, data))
    return tasks


@cache
def _items(task: str, split: Any, n: int, options: bool) -> bytes:
    """JSON lines: `prompt` is the finished question, with the options in it where they are asked for by letter.

    `cluster` is one number for all items about one list or fact.
    """
    lines = []
    clusters: dict[str, int] = {}
    for item in skills.items(task, split, n):
        prompt = skills.rendered(item["question"], item["choices"]) if options else item["question"]
        cluster = clusters.setdefault(skills.subject(item["question"]), len(clusters))
        lines.append(json.dumps(item | {"prompt": prompt, "cluster": cluster}) + "\n")
    return "".join(lines).encode()


def _written(task: str, split: str, n: int, options: bool) -> Path:
    text = _items(task, split, n, options)
    folder = fetching.cache_folder() / "organism"
    # Named by content, so that another version of the generator never reads this one's items.
    path = folder / f"{task}-{split}-{hashlib.sha256(text).hexdigest()[:12]}.jsonl"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_bytes() != text:
            write_whole(path, text)
    except OSError as problem:
        raise HybretError(
            f"cannot write {path} ({problem.strerror}); choose another folder with {fetching.CACHE}"
        ) from problem
    return path


def glue() -> list[Task]:
    """The nine tasks of lm-eval's ``glue``, zero-shot, on the validation splits, as the authors ran them."""
    found = fetching.files("glue")
    tasks = []
    for name, folder in _GLUE.items():
        file = "mismatch" if name == "mnli_mismatch" else "default"
        definition = _lm_eval_tasks() / "glue" / folder / f"{file}.yaml"
        split = _definition(definition)["validation_split"]
        # Without shots nothing is drawn from the training split, so that it need not be there.
        options = {"training_split": None, "num_fewshot": 0}
        tasks.append(Task(name, "glue", "glue", definition, {split: found[f"{folder}/{split}.jsonl"]}, options))
    return tasks


def mmlu() -> list[Task]:
    """The 57 subjects of lm-eval's ``mmlu``, five shots, as the authors ran them."""
    found = fetching.files("mmlu")
    tasks = []
    for name, definition in _mmlu_definitions().items():
        config = _definition(definition)
        data = {split: found[f"{config['dataset_name']}/{split}.jsonl"] for split in ("dev", "test")}
        category = config["tag"].removeprefix("mmlu_").removesuffix("_tasks").replace("_", " ")
        tasks.append(Task(name, "mmlu", f"mmlu-{category}", definition, data, {"num_fewshot": SHOTS}))
    return tasks


def load(tasks: Iterable[Task]) -> dict[str, Any]:
    """lm-eval's task objects by name, with all their documents."""
    from lm_eval.tasks import TaskManager

    tasks = list(tasks)
    with TemporaryDirectory(prefix="hybret") as folder:
        for task in tasks:
            generated = {
                "include": str(task.definition),
                "task": task.name,
                "dataset_path": "json",
                "dataset_name": None,
                "dataset_kwargs": {
                    "data_files": {split: str(path) for split, path in task.data.items()},
                    "cache_dir": str(fetching.cache_folder() / "datasets"),
                },
                **task.options,
            }
            (Path(folder) / f"{task.name}.yaml").write_text(yaml.safe_dump(generated))
        # lm-eval's own thousands of definitions are not read: that takes a quarter of a minute.
        manager = TaskManager(include_path=folder, include_defaults=False)
        loaded: dict[str, Any] = manager.load([task.name for task in tasks])["tasks"]
        return loaded


def _lm_eval_tasks() -> Path:
    spec = find_spec("lm_eval")
    assert spec is not None and spec.origin is not None  # `find` has looked
    return Path(spec.origin).parent / "tasks"


@cache
def _organism_definitions() -> dict[str, Path]:
    paths = {f"organism_{name}": FOLDER / f"{name}.yaml" for name in skills.TASKS}
    return {name: path for name, path in paths.items() if path.is_file()}


@cache
def _mmlu_definitions() -> dict[str, Path]:
    paths = sorted((_lm_eval_tasks() / "mmlu" / "default").glob("mmlu_*.yaml"))
    return {path.stem: path for path in paths}


@cache
def _definition(path: Path) -> dict[str, Any]:
    """A definition with what it includes; functions stand as the text of their files."""
    from lm_eval.tasks._yaml_loader import load_yaml

    config = load_yaml(path, resolve_func=False)
    for key, value in config.items():
        if isinstance(value, str) and value.startswith(str(path.parent)):  # a !function
            config[key] = Path(value).with_suffix(".py").read_text()
    return config
