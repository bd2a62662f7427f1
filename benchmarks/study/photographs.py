"""Photographs that packages contain, and crops of them, to measure what adaptation forgets."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from cassle_zoo.common.errors import MissingDependencyError
from cassle_zoo.common.images import to_rgb

PHOTOGRAPHS: dict[str, tuple[str, tuple[str, ...]]] = {
    "foolbox": ("data", ("imagenet_*.jpg",)),
    "skimage": (
        "data",
        ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg"),
    ),
    "sklearn": ("datasets/images", ("china.jpg", "flower.jpg")),
}
"""Folder and file names of the photographs, by module; 20 of foolbox's are ImageNet's."""

_INSTALL = "pip install --no-deps foolbox scikit-image"
_CORNERS = ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.5, 0.5))


def photograph_files() -> list[Path]:
    """Return the photographs' files, without importing the packages.

    Raises:
        MissingDependencyError: If a package, or a photograph in it, is missing.
    """
    found = []
    for module, (folder, patterns) in PHOTOGRAPHS.items():
        spec = importlib.util.find_spec(module)
        if spec is None or not spec.submodule_search_locations:
            raise MissingDependencyError(f"the photographs of {module} are missing: {_INSTALL}.")
        root = Path(spec.submodule_search_locations[0]) / folder
        for pattern in patterns:
            files = sorted(root.glob(pattern))
            if not files:
                raise MissingDependencyError(f"{module} has no {folder}/{pattern}: {_INSTALL}.")
            found += files
    return found


def crops_of(file: Path) -> Iterator[Image.Image]:
    """Yield 6 RGB crops of a photograph: its central square, and 5 squares of half that side."""
    with Image.open(file) as opened:
        image = to_rgb(opened)
    side = min(image.size)
    left, top = ((length - side) // 2 for length in image.size)
    yield image.crop((left, top, left + side, top + side))
    half = side // 2
    for x, y in _CORNERS:
        corner = (round(x * (image.width - half)), round(y * (image.height - half)))
        yield image.crop((*corner, corner[0] + half, corner[1] + half))
