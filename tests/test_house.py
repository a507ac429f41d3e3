"""The house rules that a reader relies on: who may import what, and how large."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "canary"
MODULES = sorted(PACKAGE.rglob("*.py"))

TORCH = {"attention", "variants", "training"}
RAY = {"arms", "training"}
# What data flows into may not be imported by what it flows out of.
PURE = {
    "stats",
    "policy",
    "gates",
    "judge",
    "decision",
    "wording",
    "compare",
    "planning",
    "evidence",
    "report",
}
EFFECTS = {"arms", "cli", "cli_runs", "experiment", "keeper", "live", "runner"}
EFFECTS |= {"cli_ingress", "cli_plan", "cli_replay", "cli_submit", "hooks", "ingress"}
EFFECTS |= {"orders", "pruning", "training", "variants"}


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_flow_of_data(path):
    """Only the rooms that need torch or Ray import them; pure ones have no effects."""
    room = room_of(path)
    found = set(imports_of(path))
    packages = {name.split(".")[0] for name in found}
    rooms = {name.split(".")[1] for name in found if name.startswith("canary.")}

    assert "torch" not in packages or room in TORCH
    assert "ray" not in packages or room in RAY
    assert room not in PURE or not rooms & EFFECTS
    assert room != "stats" or rooms <= {"stats"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_holds_one_idea(path):
    """A module stays under 400 lines and a function under 60."""
    text = path.read_text()
    functions = [
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]

    assert len(text.splitlines()) <= 400
    # A kernel is one function to its compiler, and its arguments alone take 17 lines.
    long = {f.name for f in functions if f.end_lineno - f.lineno >= 60}
    assert long <= ({"forward"} if path.name == "fused_triton.py" else set())


@pytest.mark.parametrize(
    "module",
    [
        "canary",
        "canary.cli",
        "canary.judge",
        "canary.planning.planner",
        "canary.policy.load",
        "canary.report",
    ],
)
def test_judging_needs_neither_torch_nor_ray(module):
    """Reading policies, judging and reporting start without the heavy libraries."""
    heavy = "{'torch', 'ray', 'matplotlib.pyplot'}"
    code = f"import sys, {module}; sys.exit(', '.join({heavy} & set(sys.modules)) or 0)"

    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )

    assert (0, "") == (result.returncode, result.stderr)


def test_the_project_names_nothing_outside_itself():
    """No tracked text refers to a folder beside the repository."""
    listed = subprocess.run(
        ["git", "ls-files"],  # noqa: S607 - the git on the path is the right one
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    needle = "../" + "shared"
    texts = [
        name for name in listed if Path(name).suffix in {".py", ".md", ".yaml", ".toml"}
    ]

    assert [] == [n for n in texts if needle in (ROOT / n).read_text(errors="replace")]
