"""The tasks of Section 4 as lm-evaluation-harness reads them: our own, GLUE and MMLU.

A YAML file says what to ask and how: lm-eval's own for GLUE and MMLU, one of the two in ``definitions`` for our tasks.
Where the questions are is added here: JSONL files of this machine, so that nothing is downloaded while a benchmark
runs.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hybret import data as fetched
from hybret.errors import HybretError
from hybret.files import digest
from hybret.organisms import skills

BENCHMARKS = ("organism", "glue", "mmlu")
TEST_ITEMS = 500
SHOTS = 5
FOLDER = Path(__file__).parent / "definitions"
ORGANISM = {f"organism_{name}": name for name in skills.TASKS}
# lm-eval's mnli reads two splits under two names.
_GLUE = {"cola": "cola", "mnli": "mnli", "mnli_mismatch": "mnli", "mrpc": "mrpc", "qnli": "qnli", "qqp": "qqp",
         "rte": "rte", "sst2": "sst2", "wnli": "wnli"}  # fmt: skip


@dataclass(frozen=True)
class Task:
    """One task and where its questions are."""

    name: str  # lm-eval's
    benchmark: str  # of `BENCHMARKS`
    group: str  # what it is reported with: glue, mmlu-knowledge, mmlu-lookup, or a category such as mmlu-stem
    definition: Path  # the YAML file
    data: dict[str, Path]  # split to JSONL file
    options: dict[str, Any] = field(default_factory=dict)  # fields that replace those of the definition

    @property
    def label(self) -> str:
        """Short name for a figure."""
        return self.name.removeprefix("organism_").removeprefix("mmlu_")

    @property
    def digest(self) -> str:
        """12 hex digits of all that decides the questions: the definition, with what it includes, and the data."""
        fields = json.dumps([self.name, self.options, _definition(self.definition)], sort_keys=True)
        return digest(fields, *(part for item in sorted(self.data.items()) for part in item))


def find(tasks: str | Sequence[str | Task]) -> list[Task]:
    """The tasks of benchmarks (`BENCHMARKS`) or of single names, which commas may separate, their data on disk.

    A `Task` is taken as it is.
    """
    if find_spec("lm_eval") is None:
        raise HybretError('lm-evaluation-harness is not installed; run `pip install "hybret[eval]"`')
    homes: dict[str, tuple[Mapping[str, Any], Any]] = {
        "organism": (ORGANISM, organism),
        "glue": (_GLUE, glue),
        "mmlu": (_mmlu_definitions(), mmlu),
    }
    chosen: dict[str, Task] = {}
    if not tasks or not isinstance(tasks, str | list | tuple):
        raise HybretError(f"tasks are {tasks!r}; name at least one of {', '.join(BENCHMARKS)}, or a single task")
    for name in [part.strip() for part in tasks.split(",")] if isinstance(tasks, str) else tasks:
        if isinstance(name, Task):
            chosen[name.name] = name
            continue
        home = next((home for home, (names, _) in homes.items() if name == home or name in names), None)
        if home is None:
            raise HybretError(
                f"unknown benchmark or task {name!r}; choose from {', '.join(BENCHMARKS)}, or name single tasks such "
                f"as {next(iter(ORGANISM))}, cola or mmlu_astronomy, separated by commas"
            )
        chosen |= {task.name: task for task in homes[home][1]() if name in (home, task.name)}
    return list(chosen.values())


def organism() -> list[Task]:
    """Our own tasks (`hybret.organisms.skills`); their items are written on first use.

    `TEST_ITEMS` test items each, of a split that none of our models was trained on.
    """
    tasks = []
    for name, stem in ORGANISM.items():
        group = skills.TASKS[stem].group
        splits, definition = {"test": TEST_ITEMS}, FOLDER / "sentences.yaml"
        if group != "glue":
            splits, definition = splits | {"dev": SHOTS}, FOLDER / "questions.yaml"
        data = {split: _written(stem, split, n, options="dev" in splits) for split, n in splits.items()}
        tasks.append(Task(name, "organism", group, definition, data))
    return tasks


@cache
def _items(task: str, split: Any, n: int, options: bool) -> bytes:
    """JSON lines: `prompt` is the finished question, with the options in it where the answer is a letter.

    `cluster` is one number for all items about one list or fact.
    """
    lines, clusters = [], dict[str, int]()
    for item in skills.items(task, split, n):
        prompt = skills.rendered(item["question"], item["choices"]) if options else item["question"]
        cluster = clusters.setdefault(skills.subject(item["question"]), len(clusters))
        lines.append(json.dumps(item | {"prompt": prompt, "cluster": cluster}) + "\n")
    return "".join(lines).encode()


def _written(task: str, split: str, n: int, options: bool) -> Path:
    text = _items(task, split, n, options)
    # Named by content, so that another version of the generator never reads this one's items.
    path = fetched.cache_folder() / "organism" / f"{task}-{split}-{digest(text)}.jsonl"
    if not path.is_file() or path.read_bytes() != text:
        fetched.write(path, text)
    return path


def glue() -> list[Task]:
    """The nine tasks of lm-eval's ``glue``, zero-shot, on the validation splits, as the authors ran them."""
    files = fetched.benchmark_files("glue")
    tasks = []
    for name, folder in _GLUE.items():
        definition = _lm_eval_tasks() / "glue" / folder / f"{'mismatch' if name == 'mnli_mismatch' else 'default'}.yaml"
        split = _definition(definition)["validation_split"]
        # Without shots nothing is drawn from the training split, so that it need not be there.
        options = {"training_split": None, "num_fewshot": 0}
        tasks.append(Task(name, "glue", "glue", definition, {split: files[f"{folder}/{split}.jsonl"]}, options))
    return tasks


def mmlu() -> list[Task]:
    """The 57 subjects of lm-eval's ``mmlu``, five shots, as the authors ran them."""
    files = fetched.benchmark_files("mmlu")
    tasks = []
    for name, definition in _mmlu_definitions().items():
        config = _definition(definition)
        data = {split: files[f"{config['dataset_name']}/{split}.jsonl"] for split in ("dev", "test")}
        category = config["tag"].removeprefix("mmlu_").removesuffix("_tasks").replace("_", " ")
        tasks.append(Task(name, "mmlu", f"mmlu-{category}", definition, data, {"num_fewshot": SHOTS}))
    return tasks


def load(task: Task) -> Any:
    """lm-eval's object for a task, with all its documents."""
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    local = {"data_files": {split: str(path) for split, path in task.data.items()}, "cache_dir": _scratch().name}
    config = load_yaml(task.definition) | {"task": task.name, "dataset_path": "json", "dataset_name": None,
                                           "dataset_kwargs": local} | task.options  # fmt: skip
    # Not `TaskManager`, which reads lm-eval's own thousands of definitions: a quarter of a minute.
    return ConfigurableTask(config={key: config[key] for key in config if key not in ("tag", "group")})


@cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    """Where `datasets` writes its copies and locks: to this process alone, so that a cache of others is only read."""
    return tempfile.TemporaryDirectory(prefix="hybret-datasets-")


def _lm_eval_tasks() -> Path:
    spec = find_spec("lm_eval")
    assert spec is not None and spec.origin is not None  # `find` has looked
    return Path(spec.origin).parent / "tasks"


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
