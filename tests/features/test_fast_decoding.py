"""Large JPEGs are decoded smaller for extraction, and features hardly move."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_models import make_model

from cassle_zoo import Extractor, eval_transform, extract_features
from cassle_zoo.common.errors import UnknownNameError
from cassle_zoo.features.transform import reduction_for


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    x, y = np.meshgrid(np.linspace(0, 1, 640), np.linspace(0, 1, 480))
    for index in range(3):
        planes = [np.sin(20 * x + index), np.cos(15 * y * x), np.sin(9 * y - index)]
        pixels = (127 + 120 * np.stack(planes, -1)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.jpg", quality=95)
    return folder


def test_features_move_by_little_but_do(photos: Path) -> None:
    model = make_model()
    streams = [
        extractor.stream(photos)
        for extractor in (
            Extractor(model, device="cpu", decode="fast"),
            Extractor(model, device="cpu", decode="exact"),
            Extractor(model, device="cpu"),
        )
    ]
    fast, exact, default = (next(stream).outputs["pooled"] for stream in streams)
    assert torch.equal(fast, default)
    assert not torch.equal(fast, exact)
    assert torch.cosine_similarity(fast, exact).min() > 0.9999


def test_a_transform_of_the_callers_is_exact(photos: Path) -> None:
    model = make_model()
    own = extract_features(model, photos, device="cpu", transform=eval_transform(model))
    exact = extract_features(model, photos, device="cpu", decode="exact")
    assert torch.equal(own.features, exact.features)
    assert Extractor(model, transform=eval_transform(model)).decode == "exact"


@pytest.mark.parametrize("options", [{}, {"crop_pct": 0.5}, {"crop_mode": "squash"},
    {"crop_mode": "border"}, {"input_size": (3, 32, 64)}])  # fmt: skip
def test_twice_what_is_needed(options: dict[str, object]) -> None:
    overlay = {"input_size": (3, 32, 32), "crop_pct": 1.0, **options}
    reduction = reduction_for(eval_transform(make_model(pretrained_cfg_overlay=overlay)))
    assert reduction is not None
    needed = max(overlay["input_size"][-2:]) / overlay["crop_pct"]  # type: ignore[index]
    assert 4000 / reduction(5000, 4000) == 2 * needed


def test_unknown_decoding() -> None:
    with pytest.raises(UnknownNameError, match="'quick'"):
        Extractor(make_model(), decode="quick")
