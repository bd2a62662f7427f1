"""Short runs of every recipe on emoji64 (docs/methods.md): does it train, resume and load?

Each recipe runs with its own settings, except for 3 epochs and at most half an epoch of warm-up.
Then the last two dozen steps are repeated from the checkpoint before the last, and must give the
same bytes; the run is exported, and the folder loaded by name must hold the run's weights.
`feature_std` (0 if all features are equal, near 1 if they are spread out) and the k-NN accuracy
(50 subcategories, 2,000 training images) are those of the training monitor after each epoch; the
row `untrained` is the network that all of them start from.

    python -m benchmarks.speed.short_runs --data emoji64.tar --out RUNS [--json FILE] [NAME ...]

Finished rows stay in RUNS, so an interrupted benchmark continues. About an hour of one core for the
14 rows of resnet18.
"""

import argparse
import csv
import dataclasses
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

import cassle_zoo
from cassle_zoo.common.files import read_json, write_json
from cassle_zoo.common.markdown import table as markdown_table
from cassle_zoo.hub.export import export_run
from cassle_zoo.records import (
    BACKBONE_FILE,
    CHECKPOINT_FILE,
    FINAL_FOLDER,
    PREVIOUS_CHECKPOINT_FILE,
    PROJECTOR_FILE,
    SETTINGS_FILE,
    code_version,
)
from cassle_zoo.train.data.datasets import open_dataset
from cassle_zoo.train.recipes import RECIPES, get_recipe
from cassle_zoo.train.run.logs import CSV_FILE
from cassle_zoo.train.run.monitor import Monitor
from cassle_zoo.train.trainer import build_method

EPOCHS = 3
WARMUP_EPOCHS = 0.5
CHECKPOINT_EVERY = 30
WEIGHTS = (BACKBONE_FILE, PROJECTOR_FILE)
UNTRAINED = "untrained"


def recipe_names() -> list[str]:
    """Return the recipes of resnet18 on emoji64."""
    return [name for name in RECIPES if name.startswith("resnet18") and name.endswith(".emoji64")]


def train(name: str, data: Path, run: Path) -> float:
    """Train, or continue training, a recipe for three epochs; return the seconds it took."""
    settings = {
        "--optim.epochs": EPOCHS,
        "--optim.warmup-epochs": min(WARMUP_EPOCHS, get_recipe(name).optim.warmup_epochs),
        "--run.threads": 1,
        "--run.monitor-every": 1,
        "--run.checkpoint-every": CHECKPOINT_EVERY,
    }
    command = [sys.executable, "-m", "cassle_zoo", "train", name]
    for flag, value in {"--data": data, "--out": run, **settings}.items():
        command += [flag, str(value)]
    start = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - start


def monitored(run: Path) -> list[dict[str, float]]:
    """Return the monitor's measurements after each epoch."""
    epochs: dict[str, dict[str, float]] = {}
    with (run / CSV_FILE).open(newline="") as file:
        for row in csv.DictReader(file):
            if row["name"] in ("feature_std", "knn_top1"):
                epochs.setdefault(row["step"], {})[row["name"]] = float(row["value"])
    return list(epochs.values())


def same_after_resuming(name: str, data: Path, run: Path) -> bool:
    """Train the last steps again from the checkpoint before the last; compare the weights."""
    again = run.with_name(f"{run.name}-resumed")
    shutil.rmtree(again, ignore_errors=True)
    again.mkdir()
    shutil.copy(run / SETTINGS_FILE, again)
    shutil.copy(run / PREVIOUS_CHECKPOINT_FILE, again / CHECKPOINT_FILE)
    train(name, data, again)
    same = all(
        (run / FINAL_FOLDER / file).read_bytes() == (again / FINAL_FOLDER / file).read_bytes()
        for file in WEIGHTS
    )
    shutil.rmtree(again)
    return same


def loads_by_name(run: Path) -> bool:
    """Export the run, load it with `create_model` and `create_projector`, and compare."""
    folder = run.with_name(f"{run.name}-model")
    export_run(run, folder, dtype=torch.float32, overwrite=True)
    name = f"local-dir:{folder}"
    modules = (
        cassle_zoo.create_model(name, pretrained=True),
        cassle_zoo.create_projector(name, pretrained=True),
    )
    for module, file in zip(modules, WEIGHTS, strict=True):
        saved, loaded = load_file(run / FINAL_FOLDER / file), module.state_dict()
        if saved.keys() != loaded.keys():
            return False
        if not all(torch.equal(saved[key], loaded[key]) for key in saved):
            return False
    return True


def measure(name: str, data: Path, run: Path) -> dict[str, Any]:
    """Return the row of one recipe."""
    seconds = train(name, data, run)
    return {
        "epochs": monitored(run),
        "seconds": round(seconds, 1),
        "resumes_exactly": same_after_resuming(name, data, run),
        "loads_by_name": loads_by_name(run),
    }


def untrained(data: Path) -> dict[str, Any]:
    """Return the row of the network that all recipes start from."""
    config = get_recipe("resnet18_cassle_simclr.emoji64")
    dataset = open_dataset(dataclasses.replace(config.data, root=str(data)))
    monitor = Monitor(dataset, config.augment, config.run.monitor_samples)
    return {"epochs": [monitor(build_method(config).backbone, torch.device("cpu"))]}


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Lay the rows out in Markdown."""
    cells = []
    for name, row in rows.items():
        std = " ".join(f"{epoch['feature_std']:.2f}" for epoch in row["epochs"])
        knn = " ".join(f"{100 * epoch['knn_top1']:.1f}" for epoch in row["epochs"])
        checks = [
            "-" if key not in row else "yes" if row[key] else "NO"
            for key in ("resumes_exactly", "loads_by_name")
        ]
        minutes = f"{row['seconds'] / 60:.1f}" if "seconds" in row else "-"
        cells.append([name, std, knn, *checks, minutes])
    header = ["recipe", "feature_std by epoch", "k-NN by epoch (%)", "resumes exactly", "loads"]
    return markdown_table([*header, "minutes"], cells, right=[5])


def main() -> None:
    """Measure the missing rows, print a table, and write JSON if asked."""
    parser = argparse.ArgumentParser(description="Three epochs of every recipe on emoji64.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all of resnet18")
    parser.add_argument("--data", type=Path, required=True, help="emoji64.tar or its folder")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements here")
    args = parser.parse_args()

    args.out.mkdir(parents=True, exist_ok=True)
    rows: dict[str, dict[str, Any]] = {}
    for name in [UNTRAINED, *(args.names or recipe_names())]:
        file = args.out / f"{name}.json"
        if not file.exists():
            row = untrained(args.data) if name == UNTRAINED else None
            write_json(file, row or measure(name, args.data, args.out / name))
        rows[name] = read_json(file)
    print(table(rows))
    if args.json:
        versions = {**code_version(), "machine": platform.machine()}
        write_json(args.json, {"rows": rows, "versions": versions})


if __name__ == "__main__":
    main()
