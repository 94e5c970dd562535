"""A report as terminal text. Nothing that a sample chose can leave its place on the screen."""

from cli.render.escape import safe
from cli.render.report import render_report

__all__ = ["render_report", "safe"]
