import sys
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.study import photographs as module
from benchmarks.study.photographs import crops_of, photograph_files
from cassle_zoo.common.errors import MissingDependencyError


def test_crops_are_the_central_square_and_five_of_half_its_side(tmp_path: Path) -> None:
    """Red tells the column, green the row that a crop begins at."""
    image = Image.new("RGB", (40, 20))
    image.putdata([(x, y, 0) for y in range(20) for x in range(40)])
    image.save(tmp_path / "wide.png")
    crops = crops_of(tmp_path / "wide.png")
    found = [(*crop.getpixel((0, 0))[:2], *crop.size) for crop in crops]  # type: ignore[index]
    corners = [(0, 0), (30, 0), (0, 10), (30, 10), (15, 5)]
    assert found == [(10, 0, 20, 20), *((x, y, 10, 10) for x, y in corners)]


def test_photographs_are_found_in_their_packages(photographs: None) -> None:
    files = photograph_files()
    assert [file.name for file in files] == ["a.png", "b.png"]
    assert "carries_photographs" not in sys.modules  # which may need other packages


@pytest.mark.parametrize("found", [("no_such_package", "a.png"), ("carries_photographs", "c.png")])
def test_missing_photographs_say_what_to_install(
    photographs: None, monkeypatch: pytest.MonkeyPatch, found: tuple[str, str]
) -> None:
    monkeypatch.setattr(module, "PHOTOGRAPHS", {found[0]: ("data", (found[1],))})
    with pytest.raises(MissingDependencyError, match="pip install --no-deps foolbox"):
        photograph_files()
