"""A dataset of any size whose images are made when they are read, and a network for them."""

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset


class Generated(Dataset[tuple[Image.Image, int]]):
    """Images of `side` pixels that differ by their number; every `bad`-th cannot be read."""

    def __init__(self, count: int, side: int = 8, bad: int = 0) -> None:
        self.count, self.side, self.bad = count, side, bad

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        if self.bad and index % self.bad == self.bad - 1:
            raise OSError(f"image {index} is broken")
        pixels = np.full((self.side, self.side, 3), index % 256, np.uint8)
        pixels[0, 0] = index // 256 % 256
        return Image.fromarray(pixels), 0


def tiny_network() -> nn.Module:
    """Return a network that costs next to nothing: (B, 3, H, W) to (B, 16)."""
    torch.manual_seed(0)
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 16))


def to_tensor(image: Image.Image) -> torch.Tensor:
    """Return an image as (3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
