"""The examples in the docstrings of the public names run as they stand."""

import doctest
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import cassle_zoo
from cassle_zoo.augmentation import base
from cassle_zoo.features.gallery import SAMPLES

NAMES = ("guitar", "hamster", "koala", "pear", "rocket", "tennis")
WITHOUT = {
    "Augmentation",  # of register_augmentation
    "FeatureSet",  # of extract_features
    "ModelSpec",  # of model_info
    "load_features",  # of save_features
    "load_parts",  # of extract_to_folder
}
"""Names whose use another one's example shows."""
WITH = sorted(set(cassle_zoo.__all__) - {"__version__"} - WITHOUT)


@pytest.fixture
def _photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the examples find in the working directory: photo.jpg, and six images in photos/."""
    (tmp_path / "photos").mkdir()
    for name in NAMES:
        (tmp_path / "photos" / f"{name}.png").write_bytes(
            (SAMPLES / f"{name}-noto.png").read_bytes()
        )
    with Image.open(SAMPLES / "koala-noto.png") as image:
        image.convert("RGB").resize((320, 240)).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(base, "_registered", base.registered())  # examples may add to a copy


@pytest.mark.usefixtures("_photos")
@pytest.mark.parametrize("name", WITH)
def test_examples(name: str) -> None:
    given: dict[str, Any] = {
        "cassle_zoo": cassle_zoo, "torch": torch, "Image": Image, "dataclass": dataclass,
    }  # fmt: skip
    public = getattr(cassle_zoo, name)
    found = doctest.DocTestFinder(recurse=False).find(public, name, globs=given)
    examples = [test for test in found if test.examples]
    assert examples, f"the docstring of {name} has no example"
    printed: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    for test in examples:
        runner.run(test, out=printed.append)
    assert runner.failures == 0, "".join(printed)


def test_the_others_are_in_an_example() -> None:
    text = "".join(getattr(cassle_zoo, name).__doc__ for name in WITH)
    assert "cassle_zoo.Augmentation)" in text  # a base class
    assert "cassle_zoo.load_features(" in text
    assert "cassle_zoo.load_parts(" in text
