"""Near-duplicates among images: perceptual fingerprints, and groups of images that are alike.

Two images are alike if both their difference hashes (Krawetz, "Kind of Like That", 2013: the signs
of brightness gradients) and their colours agree. Copies in another size, format or quality are
alike, and so are frames of one moment; crops, mirrored and recoloured copies are not.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from cassle_zoo.common.images import UnreadableImageError, open_image

MAX_BITS = 24
"""Near-duplicates differ in at most this many of the 256 bits of their hashes,"""
MAX_COLOUR = 8.0
"""and on average by at most this much, of 255, in their thumbnails of 8 x 8 pixels."""
RULE = (
    f"near-duplicates (at most {MAX_BITS} of 256 bits of their difference hashes differ, and 8x8 "
    f"thumbnails by at most {MAX_COLOUR:g} of 255 on average; also over several steps)"
)

_DECODED_SIDE = 64  # shorter side that JPEGs may be decoded at
_SIDE = 16
_GRADIENT = 2  # of 255; compression noise stays below it
_COLOUR_SIDE = 8
_CHUNK = 2**25  # distances held at a time
_THREADS = 8

Bytes = NDArray[np.uint8]


def fingerprint(image: Image.Image) -> Bytes:
    """Return what near-duplicates are recognised by.

    Args:
        image: An image of mode RGB.

    Returns:
        (448,) uint8: 256 bits, each 1 where brightness rises by more than 2 of 255 from a cell of a
        17 x 16 grid to the next on its right, then the pixels of a thumbnail of 8 x 8 x 3.
    """
    grey = image.convert("L").resize((_SIDE + 1, _SIDE), Image.Resampling.BOX)
    levels = np.asarray(grey, dtype=np.int16)
    bits = levels[:, 1:] - levels[:, :-1] > _GRADIENT
    colours = image.resize((_COLOUR_SIDE, _COLOUR_SIDE), Image.Resampling.BOX)
    return np.concatenate([bits.astype(np.uint8).ravel(), np.asarray(colours).ravel()])


def group_alike(fingerprints: Bytes) -> list[int]:
    """Group near-duplicates, transitively.

    Args:
        fingerprints: (N, 448), from :func:`fingerprint`.

    Returns:
        For each image the index of the first image of its group; its own if nothing is like it.
    """
    unique, place = np.unique(fingerprints, axis=0, return_inverse=True)
    bits = torch.from_numpy(unique[:, : _SIDE**2]).float() * 2 - 1
    colours = torch.from_numpy(unique[:, _SIDE**2 :]).float()
    group = np.arange(len(unique))
    rows = max(1, _CHUNK // max(1, len(unique)))
    for start in range(0, len(unique), rows):
        close = bits[start : start + rows] @ bits.T >= _SIDE**2 - 2 * MAX_BITS
        for row in (close.sum(1) > 1).nonzero().flatten().tolist():
            others = close[row].nonzero().flatten()
            difference = (colours[others] - colours[start + row]).abs().mean(1)
            _unite(group, others[difference <= MAX_COLOUR])
    first: dict[int, int] = {}
    return [first.setdefault(int(group[own]), index) for index, own in enumerate(place.ravel())]


def _unite(group: NDArray[np.int64], members: Tensor) -> None:
    own = np.unique(group[members.numpy()])
    if len(own) > 1:
        group[np.isin(group, own)] = own[0]


def fingerprints_of(files: Sequence[Path]) -> tuple[Bytes, dict[int, str]]:
    """Return the fingerprints of N images, read in threads.

    Returns:
        (N, 448), zeros for images that cannot be read, and the reasons of those by index.
    """
    found = np.zeros((len(files), _SIDE**2 + 3 * _COLOUR_SIDE**2), dtype=np.uint8)
    bad: dict[int, str] = {}
    with ThreadPoolExecutor(_THREADS) as pool:
        done = pool.map(_read, files)
        for index, own in enumerate(
            tqdm(done, total=len(files), unit="img", desc="splits", disable=None)
        ):
            if isinstance(own, str):
                bad[index] = own
            else:
                found[index] = own
    return found, bad


def _read(file: Path) -> Bytes | str:
    try:
        return fingerprint(open_image(file, reduction=lambda w, h: min(w, h) / _DECODED_SIDE))
    except UnreadableImageError as error:
        return error.reason
