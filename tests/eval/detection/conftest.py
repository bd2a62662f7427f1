"""A tiny dataset in the layout of PASCAL VOC: bright squares and dark discs on grey."""

from pathlib import Path

import pytest
from PIL import Image, ImageDraw

SIDE = 64
LISTS = {("2007", "trainval"): 8, ("2007", "test"): 4, ("2012", "trainval"): 4}


def objects_of(number: int) -> list[tuple[str, tuple[int, int, int, int], int]]:
    """Class, box (from 1, inclusive) and difficulty of the objects of an image."""
    shift = 5 * (number % 4)
    return [
        ("dog", (4 + shift, 6, 27 + shift, 29), 0),
        ("cat", (40 - shift, 36, 59 - shift, 55), 0),
        *([("cat", (1, 60, 4, 63), 1)] if number % 2 else []),
    ]


@pytest.fixture
def voc_root(tmp_path: Path) -> Path:
    """Return a folder that holds `VOCdevkit`."""
    root = tmp_path / "data"
    number = 0
    for (year, image_set), count in LISTS.items():
        folder = root / "VOCdevkit" / f"VOC{year}"
        for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        names = []
        for _ in range(count):
            names.append(f"{number:06}" if year == "2007" else f"2012_{number:06}")
            _write_image(folder, names[-1], number)
            number += 1
        text = "".join(f"{name}\n" for name in names)
        (folder / "ImageSets" / "Main" / f"{image_set}.txt").write_text(text)
    return root


def _write_image(folder: Path, name: str, number: int) -> None:
    image = Image.new("RGB", (SIDE, SIDE), (128, 128, 128))
    draw = ImageDraw.Draw(image)
    objects = ""
    for label, (left, top, right, bottom), difficult in objects_of(number):
        corners = (left - 1, top - 1, right - 1, bottom - 1)
        if label == "dog":
            draw.rectangle(corners, fill=(250, 240, 60))
        else:
            draw.ellipse(corners, fill=(20, 20, 120))
        objects += (
            f"<object><name>{label}</name><pose>Left</pose><truncated>0</truncated>"
            f"<difficult>{difficult}</difficult><bndbox><xmin>{left}</xmin><ymin>{top}</ymin>"
            f"<xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox>"
            "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax>"
            "<ymax>2</ymax></bndbox></part></object>"
        )
    image.save(folder / "JPEGImages" / f"{name}.jpg", quality=95)
    size = f"<size><width>{SIDE}</width><height>{SIDE}</height><depth>3</depth></size>"
    (folder / "Annotations" / f"{name}.xml").write_text(
        f"<annotation><folder>{folder.name}</folder><filename>{name}.jpg</filename>{size}"
        f"<segmented>0</segmented>{objects}</annotation>\n"
    )
