import pytest
import torch

from cassle_zoo.augmentation.descriptors import (
    ALL_DESCRIPTORS,
    PAPER_DESCRIPTORS,
    DescriptorLayout,
)
from cassle_zoo.common.errors import ConfigError, UnknownNameError


def test_paper_layout() -> None:
    layout = DescriptorLayout(("crop", "color", "color_diff", "blur", "grayscale"))
    assert layout.names == PAPER_DESCRIPTORS
    assert layout.width == 13
    assert layout.slices() == {
        "blur": slice(0, 1),
        "color": slice(1, 5),
        "color_diff": slice(5, 8),
        "crop": slice(8, 12),
        "grayscale": slice(12, 13),
    }


def test_all_descriptors() -> None:
    assert ALL_DESCRIPTORS.width == 14
    assert ALL_DESCRIPTORS.slices()["flip"] == slice(12, 13)


def test_empty_layout() -> None:
    assert DescriptorLayout(()).width == 0


def test_bad_names() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'crop'"):
        DescriptorLayout(("crops",))
    with pytest.raises(ConfigError, match="2 times"):
        DescriptorLayout(("crop", "flip", "crop"))
    with pytest.raises(ConfigError, match="not the string"):
        DescriptorLayout("crop")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"columns\['tilt'\] must be a tuple"):
        DescriptorLayout(("tilt",), {"tilt": "angle"})  # type: ignore[dict-item]


def test_descriptors_of_another_layout_are_refused() -> None:
    omega = torch.arange(26.0).view(2, 13)
    paper, flip = DescriptorLayout(PAPER_DESCRIPTORS), DescriptorLayout(("flip",))
    assert torch.equal(DescriptorLayout(("crop",)).select(omega, paper), omega[:, 8:12])
    with pytest.raises(ConfigError, match=r"\('flip',\) cannot be selected from \(2, 13\)"):
        flip.select(omega)  # its column in all 14 is that of grayscale here
    with pytest.raises(ConfigError, match="pass `source`"):
        flip.select(omega, paper)
