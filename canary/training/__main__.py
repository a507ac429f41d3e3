"""Train the reference model: ``python -m canary.training --out DIR``."""

import argparse
import hashlib
import json
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeAlias

import torch

from canary.attention import pattern
from canary.training.evaluate import Accuracy, accuracy
from canary.training.templates import TASKS
from canary.training.train import GateError, Progress, Recipe, Stage, Trainer
from canary.variants.checkpoint import load_weights, save_weights
from canary.variants.model import Architecture, ReferenceModel

REQUIRED_SHARE = 0.99
REQUIRED_LENGTHS = (1024, 2048)
LENGTHS = (1024, 2048, 4096, 8192)
"""Lengths that are examined; at the required ones every task must be right."""

_DOCUMENTS = 32
_EXAM_SEED = 1_000_003

_SMOKE = Recipe(
    seconds=5.0,
    seed=0,
    stages=(Stage(lengths_tokens=(256,), share=1.0),),
    gate=0.0,
    warm_up_steps=10,
    tokens_per_step=2048,
    architecture=Architecture(layers=2, width=64, heads=2, head_width=32, hidden=128),
)

Results: TypeAlias = dict[int, dict[str, Accuracy]]
"""By length, then by task."""


def main() -> int:
    """Train, save, examine; return 0 if the model is as good as it must be."""
    arguments = _arguments()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    recipe = Recipe(seconds=arguments.seconds, seed=arguments.seed)
    if arguments.smoke:
        recipe = replace(_SMOKE, seed=arguments.seed)
    began_s = time.perf_counter()
    trainer = Trainer(recipe, device=device)
    trainer.warm_up()
    ready_s = time.perf_counter() - began_s
    _say(f"{_name(device)}, torch {torch.__version__}, ready in {ready_s:.1f} s")
    curve, failed = _trained(trainer)
    weights = out / "reference.safetensors"
    save_weights(trainer.model, weights)
    results: Results = {}
    if not (arguments.smoke or failed):
        # What is examined is what the file holds.
        model = ReferenceModel(recipe.architecture, dtype=trainer.model.dtype)
        load_weights(model, weights)
        results = _examined(model.to(device))
        failed = _shortfall(results)
    log = {
        "recipe": asdict(recipe),
        "device": _name(device),
        "dtype": str(trainer.model.dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "ready_s": round(ready_s, 1),
        "gate_step": trainer.gate_step,
        "steps": sum(trainer.steps_by_length.values()),
        "steps_by_length_tokens": dict(sorted(trainer.steps_by_length.items())),
        "wall_s": round(time.perf_counter() - began_s, 1),
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "accuracy": {
            length: {task: asdict(found) for task, found in by_task.items()}
            for length, by_task in results.items()
        },
        "failed": failed,
        "curve": [asdict(point) for point in curve],
    }
    (out / "training.json").write_text(json.dumps(log, indent=1) + "\n")
    _say(failed or f"done: {log['steps']:,} steps, {log['wall_s']} s, {weights}")
    return 1 if failed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m canary.training",
        description="Train the reference model: on one GPU in minutes, or a tiny model "
        "on the CPU in seconds to see that it works (--smoke).",
    )
    parser.add_argument("--seconds", type=float, default=235.0, help="from the gate on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="weights and log")
    parser.add_argument("--smoke", action="store_true", help="tiny, and no exam")
    return parser.parse_args()


def _trained(trainer: Trainer) -> tuple[list[Progress], str | None]:
    """Train to the end; return the curve, and what went wrong."""
    curve: list[Progress] = []
    try:
        for point in trainer.run():
            curve.append(point)
            _say(
                f"{point.elapsed_s:6.1f} s  step {point.step:6,}  "
                f"length {point.length_tokens:5,}  "
                f"answers {point.answer_accuracy:7.2%}  "
                f"loss {point.answer_loss:.4f} and {point.other_loss:.4f}"
            )
    except GateError as error:
        return curve, str(error)
    return curve, None


def _examined(model: ReferenceModel) -> Results:
    """Ask fresh documents of all families and lengths."""
    results: Results = {}
    for length in LENGTHS:
        results[length] = {
            task: accuracy(
                model,
                task,
                length_tokens=length,
                documents=_DOCUMENTS,
                seed=_EXAM_SEED + length,
                pattern=pattern("dense"),
            )
            for task in TASKS
        }
        shares = (f"{t} {found.share:.2%}" for t, found in results[length].items())
        _say(f"{length:5,} tokens: {', '.join(shares)}")
    return results


def _shortfall(results: Results) -> str | None:
    """Say where the model isn't as good as it must be."""
    short = [
        f"{task} {found.share:.2%} at {length:,} tokens"
        for length in REQUIRED_LENGTHS
        for task, found in results[length].items()
        if found.share < REQUIRED_SHARE
    ]
    return f"below {REQUIRED_SHARE:.0%}: {', '.join(short)}" if short else None


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - the progress of a program that is run by hand


if __name__ == "__main__":
    sys.exit(main())
