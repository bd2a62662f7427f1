"""``cassle-zoo hub``: folders, cards and repositories for the Hugging Face Hub."""

import argparse
from pathlib import Path
from typing import Any

from cassle_zoo.cli import hub_remote


def add_parser(subparsers: Any) -> None:
    """Describe the command's arguments."""
    parser = subparsers.add_parser("hub", help="make, check, upload and download models")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    export = actions.add_parser(
        "export",
        help="turn a finished training run into a model folder",
        description="Write model.safetensors, projector.safetensors, config.json and a model card.",
    )
    export.add_argument("run_dir", type=Path, metavar="RUN", help="folder of a finished run")
    export.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    export.add_argument(
        "--dtype",
        choices=["float16", "float32"],
        default="float16",
        help="of the weights in the folder; default: %(default)s",
    )
    export.add_argument(
        "--overwrite", action="store_true", help="replace a model folder that exists"
    )
    export.add_argument(
        "--license", help="of the weights (SPDX); default: unknown, except for the zoo's own names"
    )
    export.set_defaults(run=run_export)

    _add_convert(actions)
    hub_remote.add_actions(actions)

    detectron2 = actions.add_parser(
        "export-detectron2",
        help="write a ResNet-50 as initial weights for Detectron2's R50-C4",
        description="Write the backbone under Detectron2's names, and print the settings that "
        "belong to it.",
    )
    detectron2.add_argument("model", metavar="MODEL", help="name or local-dir:DIR")
    detectron2.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.pth")
    detectron2.set_defaults(run=run_export_detectron2)

    cards = actions.add_parser(
        "cards",
        help="write MODEL_CARDS.md from the recorded results",
        description="Write MODEL_CARDS.md in the current folder from the recorded results.",
    )
    cards.add_argument(
        "--check", action="store_true", help="write nothing; fail if the file is not up to date"
    )
    cards.set_defaults(run=run_cards)


def _add_convert(actions: Any) -> None:
    convert = actions.add_parser(
        "convert",
        help="turn a checkpoint of other code into a model folder",
        description="Convert a checkpoint of the paper's code (backbone and projector), or the "
        "backbone in one of solo-learn, lightly (Lightning), or Facebook's MoCo-v2 and MoCo-v3. "
        "Nothing in the file is run. args.json beside it is read if it is there. The options below "
        "say what a file leaves open; it is refused where they are needed.",
    )
    convert.add_argument("checkpoint", type=Path, metavar="CKPT", help="file to convert")
    convert.add_argument(
        "--name", required=True, help="of the model, for example resnet50_cassle_mocov2.in100"
    )
    convert.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    convert.add_argument("--method", help="SSL method, where the weights do not tell")
    convert.add_argument("--conditioning", choices=["add", "mul"], help="which look the same")
    convert.add_argument(
        "--descriptors", nargs="+", metavar="NAME", help="what the projector is told, any order"
    )
    convert.add_argument("--arch", help="timm model of the backbone")
    convert.add_argument("--num-heads", type=int, metavar="N", help="attention heads of a ViT")
    convert.add_argument("--prefix", help="what the names of the backbone's weights begin with")
    convert.add_argument("--data", help="pretraining data: says how images are prepared")
    convert.add_argument("--size", type=int, metavar="PIXELS", help="height and width of images")
    for name in ("--mean", "--std"):
        convert.add_argument(
            name, nargs=3, type=float, metavar=("R", "G", "B"), help="for images in [0, 1]"
        )
    convert.add_argument(
        "--license", default="unknown", help="of the weights (SPDX); default: %(default)s"
    )
    convert.add_argument(
        "--dtype",
        choices=["float16", "float32"],
        default="float32",
        help="of the weights in the folder; default: %(default)s",
    )
    convert.add_argument(
        "--overwrite", action="store_true", help="replace a model folder that exists"
    )
    convert.set_defaults(run=run_convert)


def run_export(args: argparse.Namespace) -> int:
    """Write the model folder."""
    import torch

    from cassle_zoo.hub.export import export_run

    dtype = {"float16": torch.float16, "float32": torch.float32}[args.dtype]
    export_run(
        args.run_dir, args.output, dtype=dtype, overwrite=args.overwrite, license=args.license
    )
    print(args.output)
    return 0


def run_convert(args: argparse.Namespace) -> int:
    """Write the model folder, and print what became of the checkpoint."""
    import torch

    from cassle_zoo.hub.convert.convert import convert_checkpoint
    from cassle_zoo.hub.convert.identify import ConvertOptions

    options = ConvertOptions(
        method=args.method,
        conditioning=args.conditioning,
        descriptors=tuple(args.descriptors) if args.descriptors else None,
        arch=args.arch,
        num_heads=args.num_heads,
        prefix=args.prefix,
        data=args.data,
        size=args.size,
        mean=tuple(args.mean) if args.mean else None,
        std=tuple(args.std) if args.std else None,
        license=args.license,
    )
    done = convert_checkpoint(
        args.checkpoint,
        args.output,
        name=args.name,
        options=options,
        dtype={"float16": torch.float16, "float32": torch.float32}[args.dtype],
        overwrite=args.overwrite,
    )
    print(f"read:    {done.format}")
    print(f"model:   {done.model}")
    for note in done.notes:
        print(f"assumed: {note}")
    for part in done.dropped:
        print(f"dropped: {part}")
    print(args.output)
    return 0


def run_export_detectron2(args: argparse.Namespace) -> int:
    """Write the weights, and print the settings as Detectron2's command line takes them."""
    from cassle_zoo.hub.detectron2 import export_detectron2

    settings = export_detectron2(args.model, args.output)
    for name, value in settings.items():
        print(f'{name} "{value}"')
    return 0


def run_cards(args: argparse.Namespace) -> int:
    """Write or check MODEL_CARDS.md."""
    from cassle_zoo.hub.cards.model_cards import main

    return main(["--check"] if args.check else [])
