"""Made-up photographs: no data is needed to measure with, and decoding costs what photos cost."""

from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 500, 375  # ImageNet's most frequent size


def photo(seed: int) -> Image.Image:
    """Return an image with the spectrum of photographs: amplitude falls as 1 / frequency."""
    generator = np.random.default_rng(seed)
    noise = np.fft.rfft2(generator.standard_normal((3, HEIGHT, WIDTH)))
    down, right = np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)[None]
    frequency = np.maximum(np.hypot(down, right), 1 / WIDTH)
    planes = np.fft.irfft2(noise / frequency, s=(HEIGHT, WIDTH))
    planes /= planes.std(axis=(1, 2), keepdims=True)
    grey, colour = planes[:1], planes[1:]
    mixed = np.concatenate([grey + 0.3 * colour[:1], grey, grey + 0.3 * colour[1:]])
    pixels = (110 + 50 * mixed).clip(0, 255).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def jpeg_folder(folder: Path, count: int) -> Path:
    """Write `count` images as JPEG of quality 90 into a class folder, and return `folder`."""
    place = folder / "class"
    place.mkdir(parents=True)
    for index in range(count):
        photo(index).save(place / f"{index:05d}.jpg", quality=90)
    return folder
