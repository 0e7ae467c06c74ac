"""The command `hybret`: a thin layer over the package."""

from . import comparing, exploring, measuring, project, sweeps  # each adds its commands to the application
from .app import app

__all__ = ["app", "comparing", "exploring", "measuring", "project", "sweeps"]
