"""Adapt weights to your own images with CASSLE, no labels needed, and see what changed.

Shows     the whole way from weights you have to a model folder: train, export, load, compare.
Needs     pip install cassle-zoo
Run       python examples/adapt_own_images.py             # on the package's sample images
          python examples/adapt_own_images.py photos/ --init resnet50.a1_in1k --epochs 20
          (a name of timm's downloads its weights; folders and checkpoints: docs/adapt.md)
Look at   OUT/compare.html: a map of the images, and the neighbours of each before and after. If the
          images lie in sub-folders, how often the nearest one is of the same folder, also printed.
          OUT/model is the adapted model; timm.create_model("local-dir:OUT/model") loads it.
"""

import argparse
from pathlib import Path

import cassle_zoo
from cassle_zoo.features.explorer.page import explore
from cassle_zoo.features.gallery import SAMPLES
from cassle_zoo.features.nearest import nearest_neighbours
from cassle_zoo.hub.export import export_run
from cassle_zoo.train.loop import train
from cassle_zoo.train.main import parse


def main() -> None:
    """Adapt, export and compare."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("images", nargs="?", default=SAMPLES, type=Path, help="folder of images")
    parser.add_argument("-o", "--out", default="adapted", type=Path, help="folder to write")
    parser.add_argument("--init", default="resnet18_cassle_simclr.emoji64", help="what to adapt")
    parser.add_argument("--arch", help="its architecture; default: what --init begins with")
    parser.add_argument("--epochs", default=10, type=int)
    args = parser.parse_args()

    before = cassle_zoo.extract_features(args.init, args.images)
    arch = args.arch or args.init.partition(".")[0].partition("_cassle")[0]
    # The settings of `cassle-zoo train RECIPE ...`. Adapting takes the size of the images and their
    # normalisation from the starting weights, and a batch must not be larger than the dataset.
    settings = parse(
        [
            f"{arch}_cassle_simclr.adapt",
            *("--init", args.init),
            *("--data", str(args.images), "--data.workers", "0"),
            *("--optim.epochs", str(args.epochs)),
            *("--optim.batch-size", str(min(128, max(2, len(before) // 2)))),
        ]
    ).config
    train(settings, args.out / "run")  # an interrupted run is continued
    export_run(args.out / "run", args.out / "model", overwrite=True)

    model = f"local-dir:{args.out / 'model'}"
    after = cassle_zoo.extract_features(model, args.images)
    _, old = nearest_neighbours(before.features, before.features, 1, exclude_self=True)
    _, new = nearest_neighbours(after.features, after.features, 1, exclude_self=True)
    print(f"\n{(old != new).sum().item()} of {len(after)} images have another nearest neighbour")
    kinds = [kind(Path(source), args.images) for source in after.sources]
    if 1 < len(set(kinds)) < len(kinds):
        was, now = (
            sum(kinds[j] == kinds[i] for i, j in enumerate(nearest[:, 0])) / len(kinds)
            for nearest in (old, new)
        )
        print(f"the nearest is of the same kind: {was:.0%} before, {now:.0%} after")
    page = args.out / "compare.html"
    page.write_text(explore(args.images, [args.init, model]).page, "utf-8")
    print(f"look at {page}; the model: {model}")


def kind(path: Path, images: Path) -> str:
    """Return the folder of an image; of the samples the emoji, which three vendors have drawn."""
    return path.stem.rpartition("-")[0] if images == SAMPLES else str(path.parent)


if __name__ == "__main__":
    main()
