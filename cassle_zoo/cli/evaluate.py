"""``cassle-zoo eval``: measure backbones on a data set."""

import argparse
import re
from pathlib import Path
from typing import Any

from cassle_zoo.errors import ConfigError


def add_parser(subparsers: Any) -> None:
    """Describe the command's arguments."""
    parser = subparsers.add_parser("eval", help="measure backbones on a data set")
    tasks = parser.add_subparsers(title="tasks", metavar="TASK", required=True)
    emoji64 = tasks.add_parser(
        "emoji64",
        help="k-NN, linear probe and retrieval on the five emoji64 tasks",
        description="Measure models on the five emoji64 tasks.",
    )
    emoji64.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help="model name, hf-hub:ORG/NAME, local-dir:FOLDER, random-init:resnet18 or raw-pixels",
    )
    emoji64.add_argument(
        "--data",
        required=True,
        type=Path,
        metavar="PATH",
        help="emoji64.tar or its unpacked folder",
    )
    emoji64.add_argument("--seed", type=int, default=0, help="default: 0")
    emoji64.add_argument("--batch-size", type=int, default=64, metavar="N", help="default: 64")
    emoji64.add_argument("--device", help="such as cpu or cuda:0; default: a GPU if there is one")
    emoji64.add_argument(
        "--workers", type=int, default=0, metavar="N", help="processes that read pictures"
    )
    emoji64.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="PATH",
        help="record the results: FILE.json for one model, or a folder for one file per model",
    )
    emoji64.set_defaults(run=run_emoji64)


def run_emoji64(args: argparse.Namespace) -> int:
    """Measure, record if asked, and print a table."""
    from cassle_zoo.eval.run import evaluate_emoji64, format_table

    if _is_file(args.output) and len(args.models) > 1:
        raise ConfigError(
            f"{args.output} is one file, but {len(args.models)} models are measured; give a folder."
        )
    results = []
    for model in args.models:
        result = evaluate_emoji64(
            model,
            args.data,
            seed=args.seed,
            batch_size=args.batch_size,
            num_workers=args.workers,
            device=args.device,
        )
        if args.output:
            result.save(_result_path(args.output, str(result.model["name"])))
        results.append(result)
    print(format_table(results))
    return 0


def _is_file(output: Path | None) -> bool:
    return output is not None and output.suffix == ".json"


def _result_path(output: Path, model: str) -> Path:
    """Return where to record a result; names of models may hold what file names may not."""
    if _is_file(output):
        return output
    return output / f"{re.sub(r'[^A-Za-z0-9._-]+', '_', model)}.json"
