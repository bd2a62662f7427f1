"""Images of datasets that `datasets` wrote with `save_to_disk`."""

from pathlib import Path

import pytest
from builders import encoded, make_image

from cassle_zoo.common.images import UnreadableImageError
from cassle_zoo.data.saved import SavedImages, image_columns, undecoded

datasets = pytest.importorskip("datasets")


def test_of_several_columns_of_images_the_one_called_image_counts() -> None:
    columns = {name: [{"bytes": encoded(make_image()), "path": None}] for name in ("mask", "image")}
    part = datasets.Dataset.from_dict({**columns, "other": [1]})
    for name in columns:
        part = part.cast_column(name, datasets.Image())
    assert image_columns(part) == ["image"]
    renamed = part.rename_column("image", "img")
    assert sorted(image_columns(renamed)) == ["img", "mask"]


def test_rows_without_an_image_and_lost_files_are_named(tmp_path: Path) -> None:
    lost = str(tmp_path / "lost.png")
    rows = [{"bytes": encoded(make_image()), "path": None}, {"bytes": None, "path": lost}, None]
    part = datasets.Dataset.from_dict({"image": rows}).cast_column("image", datasets.Image())
    images = SavedImages([undecoded(part, "image")] * 2, "image")
    assert images[3][0].tobytes() == make_image().tobytes()
    for index, says in ((1, "lost.png': No such file"), (5, "number 5': there is no image")):
        with pytest.raises(UnreadableImageError, match=says):
            images.encoded(index)
