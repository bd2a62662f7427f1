"""Find near duplicates among your images, and measure which embedding finds them best.

Shows     the three spaces in which a CASSLE model compares images: the backbone's features, the
          same whitened, and the projected embedding; which one suits a task can be measured on
          images without labels.
Needs     pip install cassle-zoo
Run       python examples/find_duplicates.py              # on the package's sample images
          python examples/find_duplicates.py photos/ --by whitened --pairs 20
Look at   the table: how often an edited copy of an image (cropped, recoloured, ...) is nearer to
          its original than to any other image. And OUT, a sheet of the most similar pairs of
          images by the space that found most copies, or by the one that --by names.
"""

import argparse
from pathlib import Path

import torch
from PIL import Image
from torchvision.transforms import v2

from cassle_zoo import Extractor
from cassle_zoo.common.images import UnreadableImageError
from cassle_zoo.features.gallery import SAMPLES, GalleryItem, GalleryList, GalleryRow, contact_sheet
from cassle_zoo.features.inputs import Skipped, expand_inputs
from cassle_zoo.features.nearest import nearest_neighbours
from cassle_zoo.features.whitening import Whitening

EDITS = {
    "crop": v2.RandomResizedCrop(224, scale=(0.4, 0.8)),
    "colour": v2.ColorJitter(0.4, 0.4, 0.4, 0.1),
    "grey": v2.Grayscale(3),
    "mirror": v2.RandomHorizontalFlip(1.0),
    "blur": v2.GaussianBlur(9, sigma=2.0),
}
SIDE = 512  # pixels
SPACES = ("features", "whitened", "projected")


def main() -> None:
    """Measure, then search."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", nargs="?", default=SAMPLES, type=Path, help="folder of images")
    parser.add_argument("-o", "--out", default="duplicates.png", type=Path, help="sheet to write")
    parser.add_argument("--model", default="resnet18_cassle_simclr")
    parser.add_argument("--by", choices=SPACES, help="search by this space, not by the best one")
    parser.add_argument("--pairs", default=10, type=int, help="on the sheet")
    args = parser.parse_args()
    if args.out.suffix.lower() not in Image.registered_extensions():
        parser.error(f"-o {args.out}: end its name in .png or .jpg")
    torch.manual_seed(0)

    inputs, skipped = expand_inputs(args.images)
    names, images = [], []
    for i in range(len(inputs)):
        try:
            image = inputs[i].image().convert("RGB")
            image.thumbnail((SIDE, SIDE))  # thousands of whole photos would fill the memory
            images.append(image)
            names.append(Path(inputs[i].source).stem)
        except UnreadableImageError as error:
            skipped.append(Skipped(inputs[i].source, error.reason))
    print(f"{len(images)} images", *(f"left out {x.source}: {x.reason}" for x in skipped), sep="\n")
    extractor = Extractor(args.model, outputs=("pooled", "projected"))

    def embed(images: list[Image.Image]) -> dict[str, torch.Tensor]:
        parts = [extractor(images[i : i + 64]) for i in range(0, len(images), 64)]
        return {name: torch.cat([part[name] for part in parts]) for name in extractor.outputs}

    found = embed(images)
    # Every direction of the features counts the same after whitening; a third as many as images.
    width = min(256, max(2, len(images) // 3), found["pooled"].shape[1])
    whitening = Whitening.fit(found["pooled"], width)

    def spaces(x: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return dict(zip(SPACES, (x["pooled"], whitening(x["pooled"]), x["projected"]), strict=True))

    originals = spaces(found)
    print("of edited copies, found by their nearest neighbour:")
    print(f"{'':8}" + "".join(f"{space:>11}" for space in SPACES))
    total = dict.fromkeys(SPACES, 0.0)
    for edit, transform in EDITS.items():
        copies = spaces(embed([transform(image) for image in images]))
        line = f"{edit:8}"
        for space in SPACES:
            _, nearest = nearest_neighbours(copies[space], originals[space], 1)
            right = (nearest[:, 0] == torch.arange(len(images))).float().mean().item()
            total[space] += right
            line += f"{right:11.0%}"
        print(line, flush=True)

    by = args.by or max(total, key=lambda space: total[space])
    cosines, others = nearest_neighbours(originals[by], originals[by], 1, exclude_self=True)
    rows: list[GalleryRow] = []
    seen: set[tuple[int, int]] = set()
    for i in cosines[:, 0].argsort(descending=True).tolist():
        j = int(others[i, 0])
        if (j, i) not in seen and len(rows) < args.pairs:
            seen.add((i, j))
            partner = GalleryItem(image=images[j], label=names[j], cosine=cosines[i, 0].item())
            rows.append(
                GalleryRow(
                    query=GalleryItem(image=images[i], label=names[i]),
                    lists=[GalleryList(found=[partner])],
                )
            )
    contact_sheet(f"Most similar by {by}", rows).save(args.out)
    print(f"the {len(rows)} most similar pairs by {by}: {args.out}")


if __name__ == "__main__":
    main()
