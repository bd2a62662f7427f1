"""Near duplicates: precision and recall of a threshold on features, also whitened, and projections.

    python -m benchmarks.near_duplicates --data emoji64.tar [--json FILE]

Copies of emoji64's test images, which no bundled model was trained on, are edited and compared with
all test images. A pair of a copy and an image counts as found if its cosine is at least a
threshold; only the copy's own original is right, so that the drawing of another vendor, or the same
person in another skin tone, counts as wrong. The threshold is chosen on the copies of one half of
the images and judged on those of the other half. Takes half a minute per model on one core.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize
from torchvision.io import decode_jpeg, encode_jpeg
from torchvision.transforms import v2

from cassle_zoo import Extractor
from cassle_zoo.common.files import write_json
from cassle_zoo.common.markdown import table as markdown_table
from cassle_zoo.data.emoji64 import Emoji64
from cassle_zoo.features.whitening import Whitening, open_whitening

MODELS = ("resnet18_cassle_simclr", "resnet50_cassle_simclr", "resnet18_simclr")
OUTPUTS = ("pooled", "projected")
COMPONENTS = 256  # of the whitening fitted to the images that are searched
COPIES = 400  # edited images of each kind
_BLOCK = 256


def _encoded_again(image: Tensor) -> Tensor:
    again: Tensor = decode_jpeg(encode_jpeg(image, quality=30))
    return again


_EDITS: dict[str, Callable[[Tensor], Tensor]] = {
    "re-encoded": _encoded_again,
    "cropped": v2.RandomResizedCrop(64, scale=(0.6, 0.9), antialias=True),
    "recoloured": v2.ColorJitter(0.4, 0.4, 0.4, 0.1),
}
EDITS = {
    **_EDITS,
    "all three": v2.Compose([_EDITS["cropped"], _EDITS["recoloured"], _encoded_again]),
}
"""JPEG of quality 30; a crop of 60 to 90 % of the area; the jitter that training uses."""


class Found(NamedTuple):
    """What a threshold finds.

    Attributes:
        threshold: The cosine from which a pair is found.
        precision: Fraction of the found pairs that is right.
        recall: Fraction of the right pairs that is found.
    """

    threshold: float
    precision: float
    recall: float


def best_threshold(cosines: Tensor, right: Tensor) -> Found:
    """Return the threshold with the largest F1, the harmonic mean of precision and recall.

    Args:
        cosines: (P,) of pairs.
        right: (P,) whether they are of a copy and its original; at least one is.
    """
    ordered, order = cosines.sort(descending=True)
    hits = right[order].cumsum(0)
    found = torch.arange(1, len(ordered) + 1)
    f1 = 2 * hits / (found + right.sum())
    f1[:-1][ordered[:-1] == ordered[1:]] = 0  # equal cosines are found together
    best = int(f1.argmax())
    return at_threshold(cosines, right, float(ordered[best]))


def at_threshold(cosines: Tensor, right: Tensor, threshold: float) -> Found:
    """Return what a threshold finds; a precision of 1 if that is nothing."""
    found = cosines >= threshold
    hits = int((found & right).sum())
    precision = hits / int(found.sum()) if found.any() else 1.0
    return Found(threshold, precision, hits / int(right.sum()))


def judge(copies: Tensor, images: Tensor, own: Tensor) -> dict[str, float]:
    """Choose a threshold on the copies of every other image and judge it on the rest.

    Args:
        copies: (C, D) features of edited images.
        images: (N, D) features of all images.
        own: (C,) the image that each copy was made from.

    Returns:
        The threshold with its `precision` and `recall`, and `first`: the fraction of the judged
        copies whose most similar image is their own.
    """
    cosines = normalize(copies) @ normalize(images).T
    right = torch.zeros_like(cosines, dtype=torch.bool)
    right[torch.arange(len(own)), own] = True
    judged = own.unique(return_inverse=True)[1] % 2 == 1
    threshold = best_threshold(cosines[~judged].flatten(), right[~judged].flatten()).threshold
    found = at_threshold(cosines[judged], right[judged], threshold)
    first = (cosines[judged].argmax(dim=1) == own[judged]).float().mean()
    return {**found._asdict(), "first": float(first)}


def measure(model: str, images: list[Image.Image]) -> dict[str, dict[str, dict[str, float]]]:
    """Return what :func:`judge` says, by output and edit; the last is of all edits together."""
    extractor = Extractor(model, outputs=OUTPUTS, device="cpu")

    def extract(images: list[Image.Image]) -> dict[str, Tensor]:
        blocks = [images[start : start + _BLOCK] for start in range(0, len(images), _BLOCK)]
        found = [extractor(block) for block in blocks]
        return {name: torch.cat([block[name] for block in found]) for name in OUTPUTS}

    gallery = extract(images)
    # The same images for every edit, spread over the dataset, which is sorted.
    own = torch.linspace(0, len(images) - 1, COPIES).long()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        edited = {
            name: extract([_edited(images[index], edit) for index in own.tolist()])
            for name, edit in EDITS.items()
        }
    whitenings = {
        "pooled, the model's whitening": open_whitening("model", model),
        "pooled, a whitening of the images": Whitening.fit(gallery["pooled"], COMPONENTS),
    }
    for found in (gallery, *edited.values()):
        found |= {name: whiten(found["pooled"]) for name, whiten in whitenings.items()}
    return {
        output: {
            **{name: judge(found[output], searched, own) for name, found in edited.items()},
            "any": judge(
                torch.cat([found[output] for found in edited.values()]),
                searched,
                own.repeat(len(edited)),
            ),
        }
        for output, searched in gallery.items()
    }


def _edited(image: Image.Image, edit: Callable[[Tensor], Tensor]) -> Image.Image:
    pixels = v2.functional.pil_to_tensor(image)
    result: Image.Image = v2.functional.to_pil_image(edit(pixels))
    return result


def table(record: dict[str, Any]) -> str:
    """Lay a record out in Markdown."""
    rows = [
        [
            f"`{model}`",
            output,
            *(f"{100 * of['precision']:.0f} / {100 * of['recall']:.0f}" for of in edits.values()),
            f"{edits['any']['threshold']:.2f}",
            f"{100 * edits['any']['first']:.0f}",
        ]
        for model, outputs in record["models"].items()
        for output, edits in outputs.items()
    ]
    header = ["model", "output", *EDITS, "any", "threshold (any)", "nearest is own (any)"]
    return markdown_table(header, rows, right=range(2, len(header)))


def main() -> None:
    """Measure, print a table, and write JSON if asked."""
    parser = argparse.ArgumentParser(description="Near duplicates by features and projection.")
    parser.add_argument("--data", type=Path, required=True, help="emoji64.tar or its folder")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here")
    args = parser.parse_args()
    data = Emoji64.open(args.data)
    test = data.subset([record.split == "test" for record in data.records])
    images = [test.image(index) for index in range(len(test))]
    record = {
        "images": len(images),
        "copies": COPIES,
        "models": {model: measure(model, images) for model in MODELS},
    }
    print(table(record))
    if args.json:
        write_json(args.json, record)


if __name__ == "__main__":
    main()
