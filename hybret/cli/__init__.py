"""The command `hybret`: a thin layer over the package."""

from hybret.cli import comparing, exploring, measuring, project, sweeps  # each adds its commands to the application
from hybret.cli.app import app

__all__ = ["app", "comparing", "exploring", "measuring", "project", "sweeps"]
