"""Collections of images: each is read in its own order, or refused."""

import io
import pickle
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from builders import image_folder, make_image
from PIL import Image
from torch.utils.data import Dataset

from cassle_zoo.common.errors import ConfigError
from cassle_zoo.features.inputs import expand_inputs


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    root = image_folder(tmp_path, [f"{index}.png" for index in range(6)])
    return [str(root / f"{index}.png") for index in (3, 0, 5, 1, 4, 2)]


FORMS: dict[str, Callable[[list[str]], Any]] = {
    "sorted Series": lambda p: pd.Series(sorted(p)).loc[[3, 0, 5, 1, 4, 2]],
    "labels that are no numbers": lambda p: pd.Series(p, index=list("abcdef")),
    "filtered Series": lambda p: pd.Series(["no.png", *p])[[False] + [True] * 6],
    "categories": lambda p: pd.Series(p, index=range(6, 0, -1), dtype="category"),
    "pandas' strings": lambda p: pd.Series(p, dtype="string"),
    "Index": pd.Index,
    "pandas' array": lambda p: pd.Series(p).array,
    "pyarrow": lambda p: pa.chunked_array([p[:2], p[2:]]),
    "objects": lambda p: np.array([Path(path) for path in p], dtype=object),
    "rows of objects": lambda p: np.array(p, dtype=object).reshape(2, 3),
    "numpy's strings": np.array,
    "numpy's bytes": lambda p: np.array(p).astype("S"),
    "deque": deque,
    "keys": lambda p: dict.fromkeys(p, 1).keys(),
    "generator": lambda p: (path for path in p),
    "set of one per list": lambda p: [np.array([path], dtype=object) for path in p],
}


@pytest.mark.parametrize("form", FORMS)
def test_paths_come_in_the_order_of_the_collection(paths: list[str], form: str) -> None:
    inputs, skipped = expand_inputs(FORMS[form](paths))
    assert [image.source for image in inputs] == paths
    assert not skipped


def colour(image: Image.Image) -> Any:
    return image.getpixel((0, 0))


def test_a_series_of_images() -> None:
    shades = [Image.new("RGB", (4, 4), (shade, 0, 0)) for shade in range(5)]
    inputs, _ = expand_inputs(pd.Series(shades)[::-1])
    assert [colour(image.image())[0] for image in inputs] == [4, 3, 2, 1, 0]


class Labelled:
    """Has `len`, `[]` by label and iteration, as a Series has, but is none."""

    def __init__(self, shades: dict[int, int]) -> None:
        self.shades = shades

    def __len__(self) -> int:
        return len(self.shades)

    def __getitem__(self, label: int) -> tuple[Image.Image, int]:
        return Image.new("RGB", (4, 4), (self.shades[label], 0, 0)), label

    def __iter__(self) -> Iterator[tuple[Image.Image, int]]:
        return (self[label] for label in self.shades)


def test_other_objects_are_read_by_iteration() -> None:
    inputs, _ = expand_inputs(Labelled({2: 20, 0: 0, 1: 10}))
    assert [colour(image.image())[0] for image in inputs] == [20, 0, 10]
    inputs, _ = expand_inputs(Labelled({7: 70}))
    assert colour(inputs[0].image())[0] == 70


class Numbered(Dataset[Any]):
    def __len__(self) -> int:
        return 10**9

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": make_image(index), "label": index}


def test_datasets_are_read_by_index_and_cost_nothing() -> None:
    inputs, _ = expand_inputs(Numbered())
    assert len(inputs) == 10**9
    assert inputs[10**9 - 1].source == inputs[-1].source == "dataset[999999999]"
    assert inputs[3].image().tobytes() == make_image(3).tobytes()
    assert [image.source for image in inputs[2:4]] == ["dataset[2]", "dataset[3]"]
    assert len(pickle.dumps(inputs)) < 1000
    with pytest.raises(IndexError):
        inputs[10**9]


def test_tables_are_refused(paths: list[str]) -> None:
    for table in (pd.DataFrame({"path": paths}), pa.table({"path": paths})):
        with pytest.raises(ConfigError, match="a table; give the column"):
            expand_inputs(table)
    with pytest.raises(ConfigError, match=r"input\[0\] is a dict"):
        expand_inputs({"a": paths})


def test_open_files_are_not_read_line_by_line() -> None:
    for file in (io.BytesIO(b"one\ntwo"), io.StringIO("a.png\nb.png")):
        with pytest.raises(ConfigError, match=r"input\[0\] is a \w+IO; expected a path, the bytes"):
            expand_inputs(file)


def test_byte_order_does_not_matter() -> None:
    shades = np.arange(48, dtype=np.uint16).reshape(4, 4, 3) * 1000
    floats = shades.astype(np.float32) / 65535
    arrays = [shades, shades.astype(">u2"), floats.astype(">f4"), floats.astype(">f8")]
    inputs, _ = expand_inputs(arrays)
    images = [np.asarray(image.image()) for image in inputs]
    assert all(np.array_equal(image, images[0]) for image in images)
    stacked, _ = expand_inputs(shades[None].astype(">u2"))
    assert np.array_equal(np.asarray(stacked[0].image()), images[0])
