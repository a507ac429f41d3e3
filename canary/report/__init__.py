"""A decision for people: a page, a pull request comment, a terminal. Pure functions."""

from canary.report.data import ReportData
from canary.report.html import render_html
from canary.report.markdown import render_markdown
from canary.report.terminal import render_terminal

__all__ = ["ReportData", "render_html", "render_markdown", "render_terminal"]
