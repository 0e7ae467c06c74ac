"""`make` sets the environment up once, and never takes a working one away."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
# This may run below another make, whose flags and level are not this one's.
ALONE = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}


@pytest.fixture
def clone(tmp_path):
    """A folder with the Makefile, a lock that no index can satisfy, and an environment that `make` made ready."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(REPO / name, tmp_path / name)
    (tmp_path / "requirements.lock").write_text("not-on-any-index==1.0\n")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "precious").touch()
    question = ["make", "--no-print-directory", "--eval=stamp: ; @echo $(READY)", "stamp"]
    stamp = subprocess.run(question, cwd=tmp_path, env=ALONE, capture_output=True)
    (tmp_path / stamp.stdout.decode().strip()).touch()
    return tmp_path


def setup(clone, *words):
    environment = ALONE | {"PIP_NO_INDEX": "1"}
    command = ["make", "setup", f"PYTHON='{sys.executable}'", *words]
    return subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("name", ["requirements.lock", "pyproject.toml"])
def test_a_newer_time_alone_changes_nothing(clone, name):
    os.utime(clone / name, (4e9, 4e9))
    assert setup(clone).returncode == 0


def test_an_environment_stays_where_the_new_one_cannot_be_installed(clone):
    (clone / "requirements.lock").write_text("not-on-any-index==2.0\n")
    assert setup(clone).returncode != 0
    assert (clone / ".venv" / "precious").exists()
    (clone / "requirements.lock").write_text("not-on-any-index==1.0\n")
    assert setup(clone).returncode == 0, "the environment of the first lock is no longer taken for ready"


def test_the_environment_of_another_clone_is_not_used_through_a_link(clone, tmp_path_factory):
    other = tmp_path_factory.mktemp("other") / ".venv"
    (clone / ".venv").rename(other)
    (clone / ".venv").symlink_to(other)
    (clone / "requirements.lock").write_text("not-on-any-index==2.0\n")
    refused = setup(clone)
    assert refused.returncode != 0 and "link" in refused.stderr
    assert (other / "precious").exists()
