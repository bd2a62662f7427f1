"""``cassle-zoo hub``: make, check, upload and download model folders."""

import argparse
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cassle_zoo.common.exit_status import ExitStatus, statuses_of
from cassle_zoo.common.terminal import busy, printable

if TYPE_CHECKING:
    from cassle_zoo.hub.publish.push import PushPlan

_WHERE = "a name of the zoo, hf-hub:ORG/NAME or ORG/NAME, @REVISION after it, or a folder"


def add_parser(subparsers: Any) -> None:
    """Add the command, with the arguments of all its actions."""
    parser = subparsers.add_parser("hub", help="make, check, upload and download models")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    def action(
        name: str,
        run: Callable[[argparse.Namespace], ExitStatus],
        summary: str,
        description: str,
        *parents: argparse.ArgumentParser,
        incomplete: str | None = None,
    ) -> argparse.ArgumentParser:
        own: argparse.ArgumentParser = actions.add_parser(
            name,
            help=summary,
            description=description,
            parents=parents,
            epilog=statuses_of({ExitStatus.INCOMPLETE: incomplete} if incomplete else None),
        )
        own.set_defaults(run=run)
        return own

    export = action(
        "export",
        _export,
        "turn a training run into a model folder",
        "Write model.safetensors, projector.safetensors, config.json and a model card. Of a run "
        "that is not finished, the weights are those of its latest checkpoint, and the card says "
        "so.",
        _folder_options(dtype="float16"),
    )
    export.add_argument(
        "run_dir", type=Path, metavar="RUN", help="folder of a run, or of one of its snapshots"
    )
    export.add_argument(
        "--epoch",
        type=int,
        metavar="N",
        help="the snapshot after epoch N (train --run.snapshot-every) instead of the final weights",
    )
    export.add_argument(
        "--license", help="of the weights (SPDX); default: unknown, except for the zoo's own models"
    )
    export.add_argument(
        "--results",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="recorded results of these weights and of baselines, for the card; files or folders",
    )
    _add_convert_options(
        action(
            "convert",
            _convert,
            "turn a checkpoint of other code into a model folder",
            "Convert a checkpoint of the paper's code, of a run of cassle-zoo (RUN/checkpoint.pt; "
            "with --prefix teacher.backbone its EMA teacher), or of code around a "
            "ConditionedProjector, with its projector; of solo-learn, lightly (Lightning), "
            "Facebook's MoCo-v2, MoCo-v3 and DINO, or any other dictionary of weights, the "
            "backbone. No code in the file is run. args.json "
            "beside it (or a run's config.json) is read if it exists. The options below supply "
            "what a file does not say; it is refused if one is needed and missing.",
            _folder_options(dtype="float32"),
        )
    )
    push = action(
        "push",
        _push,
        "upload a model folder",
        "Verify a model folder and upload it to the Hugging Face Hub in one commit. Log in before "
        "with `hf auth login`, or set HF_TOKEN. Only files that belong to a model folder and have "
        "changed are sent.",
        _upload_options(),
    )
    push.add_argument("folder", type=Path, metavar="DIR", help="model folder")
    push.add_argument("repo_id", metavar="ORG/NAME", help="repository; created if it is missing")
    push.add_argument(
        "--create-pr", action="store_true", help="open a pull request instead of committing to main"
    )
    pull = action(
        "pull",
        _pull,
        "download a model, for use without a network",
        "Download all files of a model into the cache of the Hub, check them, and print where they "
        "are.",
    )
    pull.add_argument("name", metavar="NAME", help=_WHERE)
    pull.add_argument("-o", "--output", type=Path, metavar="DIR", help="copy the files there")
    pull.add_argument(
        "--force", action="store_true", help="download again, and replace a model folder at DIR"
    )
    verify = action(
        "verify",
        _verify,
        "check a model folder or a repository",
        "Check hashes, load backbone and projector completely, recompute the stored features, and "
        "read the model card.",
        incomplete="a check failed",
    )
    verify.add_argument("name", metavar="REPO_OR_DIR", help=_WHERE)
    verify.add_argument("--revision", metavar="R", help="branch, tag or commit; default: main")
    publish = action(
        "publish",
        _publish,
        "upload every released model of the zoo",
        "Push every released model to ORG/FULL_NAME, and print the lines that pin them in "
        "cassle_zoo/specs.py.",
        _upload_options(),
    )
    publish.add_argument("--org", required=True, help="user or organisation on the Hub")
    detectron2 = action(
        "export-detectron2",
        _export_detectron2,
        "write a ResNet-50 as initial weights for Detectron2's R50-C4",
        "Write the backbone under Detectron2's names, and print the settings to use with it.",
    )
    detectron2.add_argument("model", metavar="MODEL", help="name or local-dir:DIR")
    detectron2.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE.pth", help="the file to write"
    )
    card = action(
        "card",
        _card,
        "write the model card of a model folder anew, with its recorded results",
        "Write README.md of a model folder from its config.json and recorded results: those that "
        "were measured with its weights, and those of baselines beside them.",
    )
    card.add_argument("folder", type=Path, metavar="DIR", help="model folder")
    card.add_argument(
        "--results",
        type=Path,
        nargs="+",
        required=True,
        metavar="PATH",
        help="recorded results; files or folders",
    )
    cards = action(
        "cards",
        _cards,
        "write MODEL_CARDS.md from the recorded results",
        "Write MODEL_CARDS.md in the current folder from the recorded results.",
        incomplete="with --check, the file is not up to date",
    )
    cards.add_argument(
        "--check", action="store_true", help="write nothing; fail if the file is not up to date"
    )


def _folder_options(dtype: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="DIR", help="the model folder to write"
    )
    parser.add_argument(
        "--dtype",
        choices=["float16", "bfloat16", "float32"],
        default=dtype,
        help="of the weights in the folder; default: %(default)s",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a model folder that exists"
    )
    return parser


def _upload_options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--private",
        action="store_true",
        help="make a new repository private; refuse one that exists and is public",
    )
    parser.add_argument(
        "--replace-card",
        action="store_true",
        help="replace the repository's README.md if it has one",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="show what would be done; write nothing"
    )
    return parser


def _add_convert_options(convert: argparse.ArgumentParser) -> None:
    convert.add_argument("checkpoint", type=Path, metavar="CKPT", help="file to convert")
    convert.add_argument(
        "--name", required=True, help="of the model, for example resnet50_cassle_mocov2.in100"
    )
    convert.add_argument("--method", help="SSL method, if the weights do not identify it")
    convert.add_argument(
        "--conditioning", choices=["add", "mul"], help="the weights look the same for both"
    )
    convert.add_argument(
        "--descriptors",
        nargs="+",
        metavar="NAME",
        help="what the projector is conditioned on, in any order",
    )
    convert.add_argument("--arch", help="timm model of the backbone")
    convert.add_argument("--num-heads", type=int, metavar="N", help="attention heads of a ViT")
    convert.add_argument("--prefix", help="what the names of the backbone's weights begin with")
    convert.add_argument(
        "--data", help="pretraining data, such as in100; determines the preprocessing"
    )
    convert.add_argument("--size", type=int, metavar="PIXELS", help="height and width of images")
    for name in ("--mean", "--std"):
        convert.add_argument(
            name, nargs="+", type=float, metavar="X", help="per channel, for images in [0, 1]"
        )
    convert.add_argument(
        "--license", default="unknown", help="of the weights (SPDX); default: %(default)s"
    )


def _export(args: argparse.Namespace) -> ExitStatus:
    import torch

    from cassle_zoo.hub.export import export_run
    from cassle_zoo.store.folder import read_config

    with busy("writing the model folder"):
        export_run(
            args.run_dir,
            args.output,
            dtype=getattr(torch, args.dtype),
            overwrite=args.overwrite,
            license=args.license,
            epoch=args.epoch,
            results=args.results,
        )
    training = read_config(args.output)["cassle_zoo"]["training"]
    if "total_steps" in training:
        print(f"unfinished: {training['steps']} of {training['total_steps']} steps")
    print(args.output)
    return ExitStatus.OK


def _convert(args: argparse.Namespace) -> ExitStatus:
    import torch

    from cassle_zoo.hub.convert import ConvertOptions, convert_checkpoint

    given: dict[str, Any] = {}
    for field in fields(ConvertOptions):
        value = getattr(args, field.name)
        given[field.name] = tuple(value) if isinstance(value, list) else value
    options = ConvertOptions(**given)
    with busy("converting"):
        found = convert_checkpoint(
            args.checkpoint,
            args.output,
            name=args.name,
            options=options,
            dtype=getattr(torch, args.dtype),
            overwrite=args.overwrite,
        )
    print(f"read:    {found.format}")
    print(printable(f"model:   {found.in_words()}"))
    for note in found.notes:
        print(printable(f"assumed: {note}"))
    for part in found.dropped:
        print(printable(f"dropped: {part}"))
    print(args.output)
    return ExitStatus.OK


def _push(args: argparse.Namespace) -> ExitStatus:
    from cassle_zoo.hub.publish.push import push

    options = {name: getattr(args, name) for name in ("private", "create_pr", "replace_card")}
    done = push(args.folder, args.repo_id, dry_run=args.dry_run, on_plan=_print_plan, **options)
    if args.dry_run:
        target = "a pull request" if args.create_pr else "main"
        print(f"dry run: nothing was written; the commit would go to {target}")
        return ExitStatus.OK
    print(f"url:    {done.url}")
    print(f"commit: {done.commit}")
    return ExitStatus.OK


def _pull(args: argparse.Namespace) -> ExitStatus:
    from cassle_zoo.hub.publish.pull import pull

    with busy(f"fetching and checking {args.name}"):
        folder = pull(args.name, args.output, force=args.force)
    print(folder)
    return ExitStatus.OK


def _verify(args: argparse.Namespace) -> ExitStatus:
    from cassle_zoo.hub.publish.verify import verify

    with busy(f"checking {args.name}"):
        checks = verify(args.name, revision=args.revision)
    for check in checks:
        print(printable(f"{'ok' if check.passed else 'FAILED':7}{check.name:11}{check.detail}"))
    passed = all(check.passed for check in checks)
    return ExitStatus.OK if passed else ExitStatus.INCOMPLETE


def _publish(args: argparse.Namespace) -> ExitStatus:
    from cassle_zoo.hub.publish.push import publish, registry_lines

    options = {name: getattr(args, name) for name in ("private", "replace_card", "dry_run")}
    published = []
    for item in publish(args.org, **options, on_plan=_print_plan):
        if item.url is not None:
            print(f"commit: {item.url}")
        published.append(item)
    if args.dry_run:
        print("dry run: nothing was written")
    print(f"\nfor cassle_zoo/specs.py:\n\n{registry_lines(published)}")
    return ExitStatus.OK


def _print_plan(plan: "PushPlan") -> None:
    visibility = "private" if plan.private else "public"
    state = "new repository" if plan.parent is None else f"at {plan.parent}"
    print(printable(f"{plan.model} -> {plan.repo_id} ({state}, {visibility})"))
    for file in plan.files:
        note = " (the repository's own stays)" if file.state == "kept" else ""
        print(f"  {file.state:10}{file.size:>12,}  {file.sha256}  {file.name}{note}")
    for name in plan.removed:
        print(f"  removed   {name!r}: the folder has none")
    for name in plan.left_out:
        print(f"  left out  {name!r}: not part of a model folder")


def _export_detectron2(args: argparse.Namespace) -> ExitStatus:
    from cassle_zoo.hub.detectron2 import export_detectron2

    with busy("converting"):
        settings = export_detectron2(args.model, args.output)
    for name, value in settings.items():
        print(f'{name} "{value}"')  # as Detectron2's command line takes settings
    return ExitStatus.OK


def _card(args: argparse.Namespace) -> ExitStatus:
    from cassle_zoo.hub.cards.card import results_of_folder, write_card

    print(write_card(args.folder, results_of_folder(args.folder, args.results)))
    return ExitStatus.OK


def _cards(args: argparse.Namespace) -> ExitStatus:
    from cassle_zoo.hub.cards.model_cards import main

    return main(["--check"] if args.check else [])
