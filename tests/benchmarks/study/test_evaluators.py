import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression

from benchmarks.study.evaluators import GALLERY_TASKS, MainDirections, mean_colours, neighbours
from cassle_zoo.common.errors import DataError
from cassle_zoo.eval.base import Compute, EvalContext, EvalData, Task
from cassle_zoo.eval.sources import open_source


@pytest.fixture
def context() -> EvalContext:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (60, 1, 1, 3), generator=generator).numpy().astype(np.uint8)
    images = [(Image.fromarray(np.tile(p, (4, 4, 1))), None) for p in pixels]
    task = Task(
        name="any",
        kind="classification",
        targets=torch.zeros(60, dtype=torch.long),
        splits={
            "train": torch.arange(30),
            "val": torch.arange(30, 40),
            "test": torch.arange(40, 60),
        },
    )
    data = EvalData(name="made up", sha256="0", images=images, tasks=(task,))
    context = EvalContext(open_source("raw-pixels"), data, Compute(no_cache=True, progress=False))
    # Green is the loudest, then noise, then red; blue is hardly there.
    noise = torch.randn(60, 2, generator=generator)
    green, red, blue = (torch.from_numpy(pixels[:, 0, 0, i] / 255).float() for i in (1, 0, 2))
    columns = [9 * green, noise[:, 0], 0.9 * red, 0.01 * blue, 0.001 * noise[:, 1]]
    context.__dict__["features"] = torch.stack(columns, 1)
    return context


def test_agrees_with_sklearn(context: EvalContext) -> None:
    found = MainDirections(components=(1, 2, 3, 4)).evaluate(context).metrics["colour"]
    features = context.features.double().numpy()
    colours = mean_colours(context.data.images, torch.arange(60)).numpy()
    for count in (1, 2, 3, 4):
        pca = PCA(count).fit(features[:40])
        inputs = pca.transform(features)
        fitted = LinearRegression().fit(inputs[:40], colours[:40])
        assert found[f"r2_{count}"] == pytest.approx(fitted.score(inputs[40:], colours[40:]))
        fraction = pca.explained_variance_ratio_.sum()
        assert found[f"variance_{count}"] == pytest.approx(fraction)
    assert found["r2_1"] < found["r2_3"] < found["r2_4"]
    assert found["r2_4"] == pytest.approx(1, abs=1e-3)


def test_images_of_one_colour_have_no_r2(context: EvalContext) -> None:
    context.data = dataclasses.replace(context.data, images=[context.data.images[0]] * 60)
    with pytest.raises(DataError, match="not defined for output 0, output 1, output 2"):
        MainDirections(components=(1,)).evaluate(context)


def test_mean_colours_are_fractions() -> None:
    image = Image.fromarray(np.array([[[255, 0, 51], [255, 0, 0]]], dtype=np.uint8))
    [row] = mean_colours([(image.convert("RGBA"), None)], torch.tensor([0])).tolist()
    assert row == pytest.approx([1, 0, 0.1])


def test_neighbours_in_a_gallery_smaller_than_their_number(context: EvalContext) -> None:
    [task] = context.data.tasks
    splits = {"query": torch.arange(5), "gallery": torch.arange(5, 7)}
    few = dataclasses.replace(task, name=GALLERY_TASKS[0], kind="retrieval", splits=splits)
    data = dataclasses.replace(context.data, tasks=(few,))
    own = EvalContext(context.source, data, context.compute)
    own.__dict__["features"] = context.features
    rows = neighbours(own)[few.name]
    assert [row[0] for row in rows] == [0, 1, 2, 3, 4]
    assert all(sorted(row[1:]) == [5, 6] for row in rows)
