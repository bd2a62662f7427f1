import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cassle_zoo.common.errors import ConfigError, DataError, UnknownNameError
from cassle_zoo.eval.augmented import views
from cassle_zoo.eval.base import Compute, EvalContext
from cassle_zoo.eval.protocols import sensitivity
from cassle_zoo.eval.protocols.sensitivity import Sensitivity, infonce
from cassle_zoo.eval.sources import FeatureSource

QUICK = Sensitivity(
    images=12, augmentations=("brightness", "crop", "flip"), strengths=(0.5, 1.0), figures=False
)


def flat(outcome):
    return {
        **{f"{k} {m}": v for k, values in outcome.metrics.items() for m, v in values.items()},
        **{f"{k} {i}": v for k, values in outcome.series.items() for i, v in enumerate(values)},
    }


def test_metrics_and_series(make_context):
    context = make_context()
    assert context.model.training
    outcome = QUICK.evaluate(context)
    assert context.model.training
    assert list(outcome.metrics) == ["original", "brightness", "crop", "flip", "recipe"]
    conditions = [f"projector_cosine_{name}" for name in ("right", "zero", "shuffled")]
    for values in outcome.metrics.values():
        assert list(values) == ["infonce_backbone", "infonce_projector", *conditions]
    original = outcome.metrics["original"]
    assert original["projector_cosine_right"] == pytest.approx(1)
    assert original["projector_cosine_shuffled"] < 1
    assert outcome.series["strength/crop"] == [0, 0.5, 1]
    assert outcome.series["value/crop"] == pytest.approx([1, 0.6, 0.2])
    assert outcome.series["value/brightness"] == pytest.approx([0, 0.2, 0.4])
    assert outcome.series["strength/flip"] == [0, 1]
    for stage in ("stem", "layer1", "backbone", "projector"):
        curve = outcome.series[f"infonce/crop/{stage}"]
        assert curve[0] == outcome.series[f"infonce/original/{stage}"][0]
        assert len(set(curve)) == len(curve) == 3
    assert "12 images" in outcome.protocol["sensitivity"]


def test_the_protocol_says_at_which_strength_if_not_at_full(make_context):
    full, half = (
        replace(QUICK, strengths=own).evaluate(make_context(None)).protocol["sensitivity"]
        for own in ((0.5, 1.0), (0.25, 0.5))
    )
    assert half == f"{full}; graded metrics are at 0.5 of full strength"


def test_brightness_by_hand(make_context, data):
    context = make_context()
    found = QUICK.evaluate(context).metrics["brightness"]["infonce_backbone"]
    drawn = views.draw_images(torch.arange(80, 100), 12, seed=0)
    recipe = views.context_recipe(context)
    factors = (
        views.make_view("brightness", recipe)
        .params(views.image_uniforms(drawn, seed=0), torch.tensor([[24, 24]] * 12))
        .factors[:, 0]
    )
    assert set(factors.tolist()) == set(torch.tensor([0.6, 1.4]).tolist())
    pixels = torch.stack([context.transform(data.images[i][0]) for i in drawn])
    brighter = ((pixels / 2 + 0.5) * factors.view(-1, 1, 1, 1)).clamp(0, 1) * 2 - 1
    model = context.model.eval()
    with torch.no_grad():
        expected = sensitivity.infonce(model(pixels), model(brighter))
        assert found == pytest.approx(expected, abs=1e-5)
        assert found != pytest.approx(sensitivity.infonce(model(pixels), model(pixels)), abs=1e-3)


def test_batches_and_repetition_do_not_matter(make_context):
    expected = flat(QUICK.evaluate(make_context(batch_size=64)))
    assert flat(QUICK.evaluate(make_context(batch_size=64))) == expected
    found = flat(QUICK.evaluate(make_context(batch_size=5)))
    assert found == pytest.approx(expected, abs=1e-6)
    other = flat(QUICK.evaluate(make_context(seed=1)))
    assert other != pytest.approx(expected, abs=1e-4)


def test_workers_do_not_matter(make_context):
    expected = flat(QUICK.evaluate(make_context()))
    assert flat(QUICK.evaluate(make_context(workers=2))) == expected


def test_sources_without_conditioned_projector(make_context):
    plain = QUICK.evaluate(make_context("none"))
    assert list(plain.metrics["crop"])[1:] == ["infonce_projector", "projector_cosine_right"]
    assert "not conditioned" in plain.protocol["projector"]
    bare = QUICK.evaluate(make_context(None))
    assert list(bare.metrics["crop"]) == ["infonce_backbone"]
    assert bare.protocol["projector"] == "none"


def test_the_omegas_that_projections_are_compared_under(make_context, monkeypatch):
    def project(_, features, omega, *__, **___):
        return torch.stack([torch.ones(len(features)), omega.abs().sum(1)], dim=1)

    monkeypatch.setattr(sensitivity, "project", project)
    for name, values in QUICK.evaluate(make_context()).metrics.items():
        right, zero, shuffled = (
            values[f"projector_cosine_{kind}"] for kind in ("right", "zero", "shuffled")
        )
        assert zero == pytest.approx(1)
        assert (right == pytest.approx(1)) == (name == "original")
        assert shuffled < 1


def test_the_projector_gets_colours_in_the_ranges_of_its_training(make_context):
    made = make_context()

    def trained(**augment):
        return EvalContext(replace(made.source, augment=augment), made.data, made.compute)

    recipe = views.context_recipe(made)
    omega = torch.ones(2, recipe.layout.width)
    expected = omega.clone()
    brightness = recipe.layout.slices()["color"].start
    expected[:, brightness], expected[:, brightness + 3] = 0.5, 0.0
    found = views.as_trained(omega, recipe, trained(brightness=0.8, hue=0.0))
    assert torch.equal(found, expected)

    usual, same, wider = (
        QUICK.evaluate(context).metrics["brightness"]
        for context in (made, trained(brightness=0.4), trained(brightness=0.8))
    )
    assert same == usual
    assert wider["projector_cosine_right"] != usual["projector_cosine_right"]
    assert wider["projector_cosine_zero"] == usual["projector_cosine_zero"]
    assert wider["infonce_backbone"] == usual["infonce_backbone"]


def test_other_measures_and_figures(make_context):
    outcome = replace(QUICK, measure="mean_positive_cosine", figures=True).evaluate(make_context())
    assert outcome.metrics["original"]["mean_positive_cosine_backbone"] == pytest.approx(1)
    assert list(outcome.files) == ["stages.png", "strengths.png", "projector.png"]
    assert all(content.startswith(b"\x89PNG") for content in outcome.files.values())


def test_wrong_settings(make_context, data):
    with pytest.raises(UnknownNameError, match="'recipe'"):
        replace(QUICK, augmentations=("recipe",)).evaluate(make_context())
    with pytest.raises(ConfigError, match="at least one"):
        replace(QUICK, strengths=()).evaluate(make_context())
    with pytest.raises(ConfigError, match="images must be"):
        replace(QUICK, images=1).evaluate(make_context())
    with pytest.raises(ConfigError, match=r"strengths must be .*\(0, 1\]"):
        replace(QUICK, strengths=(2,))
    broken = make_context(None)
    broken.model.stem[0].weight.data.fill_(float("nan"))
    with pytest.raises(DataError, match="NaN"):
        QUICK.evaluate(broken)
    file = FeatureSource(name="file", sha256=None, model=None)
    with pytest.raises(ConfigError, match="runs the network"):
        QUICK.evaluate(EvalContext(file, data, Compute()))


GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "d_sensitivity.npz")
FIRST, SECOND = (torch.from_numpy(GOLDEN[f"case0/ft_{view}"]) for view in (1, 2))


@pytest.mark.parametrize(
    "measure", ["infonce", "self_distill", "cca", "mean_positive_cosine", "mean_negative_cosine"]
)
def test_agrees_with_the_papers_code(measure):
    function = sensitivity.MEASURES[measure]
    assert function(FIRST, SECOND) == pytest.approx(float(GOLDEN[f"case0/{measure}_f64"]), rel=1e-9)
    single = function(FIRST.float(), SECOND.float())
    assert single == pytest.approx(float(GOLDEN[f"case0/{measure}_f32"]), rel=1e-6)


def test_infonce_of_orthogonal_images():
    one = torch.eye(7) * 3
    expected = 2 * 0.2 * math.log(1 + 6 * math.exp(-1 / 0.2))
    assert infonce(one, one * 2) == pytest.approx(expected, rel=1e-12)


def test_infonce_does_not_depend_on_order_or_chunks():
    expected = infonce(FIRST, SECOND)
    order = torch.randperm(len(FIRST))
    assert infonce(FIRST[order], SECOND[order]) == pytest.approx(expected, rel=1e-12)
    assert infonce(FIRST, SECOND, chunk=7) == pytest.approx(expected, rel=1e-12)
    assert infonce(FIRST, SECOND[order]) > expected


def test_features_that_cannot_be_compared():
    with pytest.raises(DataError, match=r"\(64, 128\) and \(63, 128\)"):
        infonce(FIRST, SECOND[1:])
    with pytest.raises(DataError, match="NaN"):
        sensitivity.cca(FIRST, SECOND * float("nan"))
