"""`cassle-zoo train`: a recipe, with any setting overridden, run in a folder."""

import dataclasses
import functools
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from cassle_zoo.common.errors import ConfigError
from cassle_zoo.train import augment_options
from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.dry_run import dry_run
from cassle_zoo.train.loop import train
from cassle_zoo.train.preview import write_preview
from cassle_zoo.train.recipes import RECIPES, get_recipe

INTERRUPTED = 143

_CONTINUES = """The same command run again continues an interrupted run. Exit status: 0 finished,
143 stopped by a signal after saving (run the command again to continue), 2 bad input."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """Arguments of the command.

    Attributes:
        data: Folder or archive with the images (same as --data.root).
        out: Folder of the run.
        print_config: Print all settings as JSON and stop.
        dry_run: Print the cost of the run (parameters and steps at once, then memory and time,
            measured on a few steps) and stop. Nothing is written. Without --data the images are
            noise.
        preview: Write a page (HTML) with some images, their augmented views and each view's omega
            to this file, and stop.
        config: The settings, preset by the recipe.
    """

    data: str = ""
    out: Path | None = None
    print_config: bool = False
    dry_run: bool = False
    preview: Path | None = None
    config: Annotated[TrainConfig, tyro.conf.arg(name="")]


def parse(argv: Sequence[str]) -> Arguments:
    """Parse a command line: a recipe's name first, then overrides."""
    if argv and argv[0] in ("-h", "--help"):
        print(_overview())
        raise SystemExit(0)
    if not argv or argv[0].startswith("-"):
        raise ConfigError("name a recipe first; see cassle-zoo train --help.")
    config = get_recipe(argv[0])
    facts = str(RECIPES[argv[0]]).replace("\n", "\n\n")  # tyro joins the lines of a paragraph
    extended = augment_options.with_augmentations(Arguments, config.augment, argv)
    arguments = tyro.cli(
        extended,
        prog=f"cassle-zoo train {argv[0]}",
        description=f"{facts}\n\n{_CONTINUES}",
        default=extended(config=config),
        args=list(argv[1:]),
    )
    augment = augment_options.merged(arguments.config.augment, arguments)
    data = arguments.config.data
    if arguments.data:
        data = dataclasses.replace(data, root=arguments.data)
    config = dataclasses.replace(arguments.config, augment=augment, data=data)
    result: Arguments = dataclasses.replace(arguments, config=config)
    return result


def _overview() -> str:
    width = max(map(len, RECIPES))
    recipes = "\n".join(f"  {name:<{width}}  {recipe.title}" for name, recipe in RECIPES.items())
    return f"""usage: cassle-zoo train RECIPE --data PATH --out DIR [OPTIONS]

Pretrain a backbone.

{_CONTINUES}

recipes:
{recipes}

cassle-zoo train RECIPE --help shows the facts about a recipe, and every setting with its value."""


def public_command(argv: Sequence[str]) -> str:
    """Return the command line for a model card, without the user's folders."""
    words: list[str] = []
    for argument in argv:
        words += argument.split("=", 1) if argument.startswith("--") else [argument]
    for index, flag in enumerate(words[:-1]):
        if flag == "--out":
            words[index + 1] = "RUN"
        elif flag in ("--data", "--data.root"):
            words[index + 1] = Path(words[index + 1]).name
    return shlex.join(["cassle-zoo", "train", *words])


def run_from_cli(argv: Sequence[str]) -> int:
    """Run the command and return its exit status."""
    arguments = parse(argv)
    if arguments.print_config:
        print(json.dumps(arguments.config.to_dict(), indent=2))
        return 0
    if arguments.preview is not None:
        print(f"{write_preview(arguments.config, arguments.preview)} images: {arguments.preview}")
        return 0
    if arguments.dry_run:
        print(dry_run(arguments.config, report=functools.partial(print, flush=True)))
        return 0
    if arguments.out is None:
        raise ConfigError("pass --out DIR, the folder for the run's files.")
    result = train(arguments.config, arguments.out, command=public_command(argv))
    if not result.finished:
        return INTERRUPTED
    if os.environ.get("RANK", "0") == "0":  # under torchrun one process reports for all
        print(f"finished: {arguments.out / 'final'}", file=sys.stderr)
    return 0
