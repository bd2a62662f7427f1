"""`cassle-zoo train`: a recipe, with any setting overridden, run in a folder."""

import argparse
import copy
import dataclasses
import functools
import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import tyro

from cassle_zoo.common.errors import ConfigError
from cassle_zoo.common.exit_status import ExitStatus, statuses_of
from cassle_zoo.common.terminal import busy, printable
from cassle_zoo.records import FINAL_FOLDER
from cassle_zoo.specs import BACKBONES
from cassle_zoo.train import augment_options, init
from cassle_zoo.train.backbone import has_batch_norm
from cassle_zoo.train.config import AUTO_NAME, TrainConfig
from cassle_zoo.train.dry_run import dry_run
from cassle_zoo.train.idle import dino_note, idle
from cassle_zoo.train.loop import train
from cassle_zoo.train.methods import METHODS
from cassle_zoo.train.preview import write_preview
from cassle_zoo.train.recipes import ADAPT, RECIPES, find_recipe, shortened
from cassle_zoo.zoo.names import last_part, public_name

_CONTINUES = f"""The same command run again continues an interrupted run.

{statuses_of({ExitStatus.OK: "finished", ExitStatus.STOPPED: ExitStatus.STOPPED.meaning})}"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """Arguments of the command.

    Attributes:
        data: Folder or archive with the images (same as --data.root).
        out: Folder of the run.
        tag: Tag of the model's name, for data of your own.
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
    tag: str = ""
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
    recipe = find_recipe(argv[0])
    facts = str(recipe).replace("\n", "\n\n")  # tyro joins the lines of a paragraph
    preset = _for_few_epochs(recipe.config, argv)
    extended = augment_options.with_augmentations(Arguments, preset.augment, argv)
    arguments = tyro.cli(
        extended,
        prog=f"cassle-zoo train {argv[0]}",
        description=f"{facts}\n\n{_CONTINUES}",
        default=extended(config=_unnamed(preset)),
        args=list(argv[1:]),
    )
    for name in ("freeze_epochs", "warmup_epochs"):
        was, now = (getattr(config.optim, name) for config in (recipe.config, arguments.config))
        if now == getattr(preset.optim, name) != was:
            _note(
                f"optim.{name} is {now:g} instead of the recipe's {was:g}, because "
                f"optim.epochs is {arguments.config.optim.epochs}."
            )
    augment = augment_options.merged(arguments.config.augment, arguments)
    config = dataclasses.replace(arguments.config, augment=augment)
    data = config.data
    if arguments.data:
        if data.root and os.path.abspath(data.root) != os.path.abspath(arguments.data):
            raise ConfigError(
                f"--data {arguments.data!r} and --data.root {data.root!r} are the same setting; "
                "pass one of them."
            )
        data = dataclasses.replace(data, root=arguments.data)
    if argv[0].endswith(ADAPT) and not config.init:
        raise ConfigError(
            f"{argv[0]} adapts starting weights; name them with --init, for example a timm model "
            "with its tag, a run's folder or a checkpoint file."
        )
    said = {word.partition("=")[0].removeprefix("--augment.") for word in argv[1:]}
    if argv[0] in RECIPES:
        said.add("size")  # set by a recipe for a dataset
    config = init.with_own_preprocessing(config, said, _note)
    config = dataclasses.replace(config, name=_name(arguments, recipe.config, argv), data=data)
    for flag, reason in _idle(config, argv):
        _note(f"{flag} does nothing, because {reason}.")
    for note in _misfits(config, recipe.config, argv):
        _note(note)
    result: Arguments = dataclasses.replace(arguments, config=config)
    return result


def _for_few_epochs(config: TrainConfig, argv: Sequence[str]) -> TrainConfig:
    """Adapt a recipe to the number of epochs on the command line, if one is given."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--optim.epochs", dest="epochs", type=int, default=config.optim.epochs)
    try:
        epochs = parser.parse_known_args(list(argv))[0].epochs
        # Runs that older versions began have the recipe's warm-up wherever it is possible.
        return shortened(config, epochs, longest=1.0 if argv[0] in RECIPES else 0.5)
    except (argparse.ArgumentError, ConfigError):
        return config  # the parser of all settings says what is wrong


def _note(text: str) -> None:
    if os.environ.get("RANK", "0") == "0":  # under torchrun one process reports for all
        print(printable(text), file=sys.stderr)


def _idle(config: TrainConfig, argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the flags of a command line that do nothing beside the other settings, and why."""
    rules = idle(config, backbone_bn=_said("--optim.backbone-bn", argv))
    for flag in (word.partition("=")[0] for word in argv[1:]):
        name = flag.removeprefix("--").replace("-", "_")
        if name.endswith((".count", ".p")):
            continue  # the switches themselves
        for start, reason in rules:
            if name.startswith(start):
                yield flag, reason


def _misfits(config: TrainConfig, preset: TrainConfig, argv: Sequence[str]) -> Iterator[str]:
    """Yield what is probably not meant: settings of a recipe that the others do not fit."""
    optim, size = config.optim, config.augment.size
    chosen = _said("--optim.optimizer", argv) or _said("--optim.base-lr", argv)
    if (
        config.arch != preset.arch
        and not chosen
        and has_batch_norm(preset.arch, size)
        and not has_batch_norm(config.arch, size)
    ):
        own = config.derived_name().partition(".")[0] + ADAPT * argv[0].endswith(ADAPT)
        yield (
            f"optim.optimizer {optim.optimizer} and optim.base_lr {optim.base_lr:g} are the "
            f"recipe's for {preset.arch}, and {config.arch}, without BatchNorm, needs others; "
            f"`cassle-zoo train {own} --print-config` shows some."
        )
    yield from dino_note(config)


def _said(flag: str, argv: Sequence[str]) -> bool:
    return any(word.partition("=")[0].replace("_", "-") == flag for word in argv)


def _unnamed(config: TrainConfig) -> TrainConfig:
    """Return settings with an automatic name, which the command line then changes."""
    unnamed = copy.copy(config)
    object.__setattr__(unnamed, "name", AUTO_NAME)
    return unnamed


def _name(arguments: Arguments, recipe: TrainConfig, argv: Sequence[str]) -> str:
    """Return the name given, or else the one derived from the settings, with the data's tag."""
    config, tag = arguments.config, arguments.tag
    if any(word.partition("=")[0] == "--name" for word in argv) and config.name != AUTO_NAME:
        if tag not in ("", config.name.partition(".")[2]):
            raise ConfigError(f"--tag {tag} is not that of --name {config.name}; pass one of them.")
        return config.name
    if not tag and config.data.dataset == recipe.data.dataset:
        tag = recipe.name.partition(".")[2]
    return config.derived_name(tag)


def _overview() -> str:
    width = max(map(len, RECIPES))
    recipes = "\n".join(f"  {name:<{width}}  {recipe.title}" for name, recipe in RECIPES.items())
    return f"""usage: cassle-zoo train RECIPE --data PATH --out DIR [OPTIONS]

Pretrain a backbone.

your own images:
  ARCH_cassle_METHOD  CASSLE
  ARCH_METHOD         the same without conditioning, the baseline

  cassle-zoo train resnet50_cassle_simclr --data photos/ --out runs/mine

  cassle-zoo train resnet50_cassle_simclr.adapt --init resnet50.a1_in1k --data photos/ --out RUN

  --init starts from weights you have, `.adapt` changes them carefully (docs/adapt.md).
  --data is a folder or tar of images; no labels are needed. ARCH is any timm model, or
  {", ".join(BACKBONES)}. METHOD is one of
  {", ".join(METHODS)}.

{_CONTINUES}

published models, each with the data it names:
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
            words[index + 1] = last_part(words[index + 1])
        elif flag == "--init":
            words[index + 1] = public_name(words[index + 1])
    return shlex.join(["cassle-zoo", "train", *words])


def run_from_cli(argv: Sequence[str]) -> ExitStatus:
    """Run the command and return its exit status."""
    arguments = parse(argv)
    instead = [word for word in ("print_config", "preview", "dry_run") if getattr(arguments, word)]
    if len(instead) > 1:
        flags = " and ".join(f"--{word.replace('_', '-')}" for word in instead)
        raise ConfigError(f"{flags} are done instead of a run, one at a time; pass one of them.")
    if arguments.print_config:
        print(json.dumps(arguments.config.to_dict(), indent=2))
        return ExitStatus.OK
    if arguments.preview is not None:
        with busy("drawing views"):
            shown = write_preview(arguments.config, arguments.preview)
        print(f"{shown} images: {arguments.preview}")
        return ExitStatus.OK
    if arguments.dry_run:
        dry_run(arguments.config, report=functools.partial(print, flush=True))
        return ExitStatus.OK
    if arguments.out is None:
        raise ConfigError("pass --out DIR, the folder for the run's files.")
    result = train(arguments.config, arguments.out, command=public_command(argv))
    if not result.finished:
        return ExitStatus.STOPPED
    _note(f"finished: {arguments.out / FINAL_FOLDER}")
    return ExitStatus.OK
