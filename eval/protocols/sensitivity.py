"""Sensitivity: the distance between features of an image and of its augmented version.

The measures of the paper's analysis (section 5, figure 3), as its code computes them, by
augmentation, strength and stage. All are in float64: sums over many negatives would otherwise
depend on how they are cut into chunks.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cassle_zoo.augmentation.augment import AugmentConfig
from cassle_zoo.augmentation.registry import augmentations
from cassle_zoo.common.config import Range
from cassle_zoo.common.errors import ConfigError, DataError, unknown_name
from cassle_zoo.eval.augmented import views
from cassle_zoo.eval.augmented.stages import BACKBONE, embed_stages, project
from cassle_zoo.eval.augmented.views import View
from cassle_zoo.eval.base import EvalContext, Outcome, Settings
from cassle_zoo.eval.report.figures import render, require_matplotlib
from cassle_zoo.eval.report.sensitivity_figures import (
    projector_figure,
    stage_figure,
    strength_figure,
)
from cassle_zoo.features.inference import choose_device, inference
from cassle_zoo.projector import ConditionedProjector
from cassle_zoo.store.tensors import state_sha256

TEMPERATURE = 0.2
BARLOW_LAMBDA = 0.0051
PROJECTOR = "projector"
_Values = tuple[dict[str, float], dict[str, float]]


def infonce(first: Tensor, second: Tensor, *, chunk: int = 1024) -> float:
    """Return InfoNCE times 2T: how hard it is to recognise an image's augmented version.

    2T · mean_i[-log(exp(cos(a_i, b_i)/T) / Σ_j exp(cos(a_i, b_j)/T))] with T = 0.2. The higher,
    the less invariant. It grows with the number of images N, so compare values of equal N only.

    Args:
        first: (N, D) features of images.
        second: (N, D) features of their augmented versions, in the same order.
        chunk: Rows of the similarity matrix at a time, which bounds the memory.

    Raises:
        DataError: If shapes differ, or features are not finite.
    """
    a, b = _directions(first, second)
    total = 0.0
    for rows in torch.arange(len(a), device=a.device).split(chunk):
        total += float(F.cross_entropy(a[rows] @ b.T / TEMPERATURE, rows, reduction="sum"))
    return 2 * TEMPERATURE * total / len(a)


def mean_positive_cosine(first: Tensor, second: Tensor) -> float:
    """Return the mean cosine of an image's (N, D) and its augmented version's features.

    Raises:
        DataError: If shapes differ, or features are not finite.
    """
    a, b = _directions(first, second)
    return float((a * b).sum(1).mean())


def cca(first: Tensor, second: Tensor) -> float:
    """Return Barlow Twins' loss of the features as they are, not standardised.

    With C = firstᵀ·second / N: Σ_i (C_ii - 1)² + λ · Σ_i≠j C_ij².

    Raises:
        DataError: If shapes differ, or features are not finite.
    """
    a, b = _checked(first, second)
    correlation = a.T @ b / len(a)
    on = correlation.diagonal()
    off = correlation.square().sum() - on.square().sum()
    return float((on - 1).square().sum() + BARLOW_LAMBDA * off)


def _directions(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    a, b = _checked(first, second)
    return F.normalize(a, dim=1), F.normalize(b, dim=1)


def _checked(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    if first.ndim != 2 or first.shape != second.shape or 0 in first.shape:
        raise DataError(
            f"features {tuple(first.shape)} and {tuple(second.shape)}: expected two of (N, D)."
        )
    if not (torch.isfinite(first).all() and torch.isfinite(second).all()):
        raise DataError("features are NaN or infinite.")
    return first.double(), second.double()


Measure = Literal["infonce", "mean_positive_cosine", "mean_negative_cosine", "self_distill", "cca"]
MEASURES: Mapping[str, Callable[[Tensor, Tensor], float]] = MappingProxyType(
    {
        "infonce": infonce,
        "mean_positive_cosine": mean_positive_cosine,
        # Pairs the i-th image with the augmented version of the i-th last.
        "mean_negative_cosine": lambda first, second: mean_positive_cosine(first, second.flip(0)),
        # SimSiam's loss without predictor.
        "self_distill": lambda first, second: -mean_positive_cosine(first, second),
        "cca": cca,
    }
)


class _Projections:
    """Projections of images and of their augmented versions, by the ω they are conditioned on.

    Right: each under its own ω. Zero: both under ω = 0. Shuffled: the augmented version under the
    ω that the whole recipe drew for another image, the image itself under its own.
    """

    def __init__(
        self,
        context: EvalContext,
        projector: ConditionedProjector,
        recipe: AugmentConfig,
        original: Tensor,
        clear: Tensor,
    ) -> None:
        # `original` are the features of the images (N, D), `clear` their ω in `recipe`'s layout.
        self.context, self.recipe = context, recipe
        self.projector, self.device = projector, context.compute.device
        plain = projector.config.conditioning == "none"
        self.conditions = ("right",) if plain else ("right", "zero", "shuffled")
        right = self._project(original, clear)
        self.original = {
            "right": right, "zero": self._project(original, clear * 0), "shuffled": right,
        }  # fmt: skip

    def pairs(
        self, features: Tensor, omega: Tensor, wrong: Tensor
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Return projections (N, K) of the images and of their augmented versions.

        Args:
            features: (N, D) features of the augmented versions.
            omega: (N, W) their ω.
            wrong: (N, W) ω of other images.
        """
        omegas = {"right": omega, "zero": omega * 0, "shuffled": wrong}
        return {
            name: (self.original[name], self._project(features, omegas[name]))
            for name in self.conditions
        }

    @property
    def protocol(self) -> str:
        text = f"Projector sha256 {state_sha256(self.projector)}"
        if len(self.conditions) == 1:
            return f"{text}, not conditioned on ω"
        return (
            f"{text}; in curves under the right ω; projector_cosine: mean cosine of an image's "
            "and its augmented version's projections, both under their own ω (right), both under "
            "0 (zero), or the augmented version under the ω that the whole recipe drew for "
            "another image (shuffled)"
        )

    def _project(self, features: Tensor, omega: Tensor) -> Tensor:
        known = views.as_trained(omega, self.recipe, self.context)
        layout = self.recipe.layout
        return project(self.projector, features, known, layout, device=self.device)


class _Encoder:
    """Features of the chosen images under a view, after every stage, and their ω."""

    def __init__(self, context: EvalContext, indices: Tensor, plan: list[View]) -> None:
        self.model = context.model
        self.device = choose_device(self.model, context.compute.device)
        self.batch_size = context.compute.batch_size
        self.uniforms = views.image_uniforms(indices, context.compute.seed)
        # The others look at the same central square as the original.
        cut = [v for v in plan if v.name in (views.ORIGINAL, "crop", views.RECIPE)]
        self.place = {view: place for place, view in enumerate(cut)}
        parts = list(views.read_crops(context, indices, self.uniforms, cut))
        self.crops = torch.cat([crops for crops, _ in parts])
        self.source = torch.cat([source for _, source in parts])

    def __call__(self, view: View) -> tuple[dict[str, Tensor], Tensor]:
        place = self.place.get(view, 0)
        features: dict[str, list[Tensor]] = {}
        omegas = []
        for rows in torch.arange(len(self.crops)).split(self.batch_size):
            images, omega = view.render(
                self.crops[rows, place].to(self.device), self.uniforms[rows], self.source[rows]
            )
            for stage, values in embed_stages(self.model, images).items():
                features.setdefault(stage, []).append(values)
            omegas.append(omega)
        return {stage: torch.cat(parts) for stage, parts in features.items()}, torch.cat(omegas)


@dataclass(frozen=True, kw_only=True)
class Sensitivity(Settings):
    """How much each augmentation changes features, by strength and network stage.

    Attributes:
        images: Number of images to draw from the test images; InfoNCE grows with it.
        augmentations: Applied one at a time, followed by `recipe`, all of training's at once. A
            further augmentation (`rotation`, ...) is drawn from its whole range: the model's in
            training if known, else the default.
        strengths: Fractions of the training range, for augmentations that have a strength.
        measure: Compares features of images and their augmented versions.
        figures: Draw figures, which needs the extra `figures`; `--no-figures` does without.
    """

    images: Annotated[int, Range(2)] = 512
    augmentations: tuple[str, ...] = views.AUGMENTATIONS
    strengths: Annotated[tuple[float, ...], Range(0, 1, open_low=True)] = (0.25, 0.5, 0.75, 1.0)
    measure: Measure = "infonce"
    figures: bool = True

    def evaluate(self, context: EvalContext) -> Outcome:
        """Return the measure at the greatest strength as metrics, and the rest as series.

        Metrics, by augmentation (and of `original`, not augmented, which shows how similar the
        images are): `{measure}_backbone` and, with a projector, `{measure}_projector` and
        `projector_cosine_right`, `_zero` and `_shuffled`. Series by strength, from 0:
        `strength/{augmentation}`, `value/{augmentation}` (the parameter) and
        `{measure}/{augmentation}/{stage}`.
        """
        if self.figures:
            require_matplotlib()
        further = [name for name in self.augmentations if name not in views.AUGMENTATIONS]
        for name in further:
            if name not in (known := augmentations()):
                raise unknown_name("augmentation", name, (*views.AUGMENTATIONS, *known))
        recipe = views.context_recipe(context, further)
        plan = self._plan(recipe)
        indices = views.draw_test_images(context.data, self.images, context.compute.seed)
        encoder = _Encoder(context, indices, plan)
        found: dict[View, _Values] = {}
        with inference(encoder.model, encoder.device):
            original, clear = encoder(plan[0])
            _, drawn = encoder(plan[-1])
            wrong = drawn[views.derangement(len(drawn), 1)]
            projections = None
            if context.projector is not None:
                projections = _Projections(
                    context, context.projector, recipe, original[BACKBONE], clear
                )
            for view in context.compute.bar(plan, unit="view", desc="sensitivity"):
                stages, omega = encoder(view)
                pairs = {name: (original[name], stages[name]) for name in stages}
                cosines = {}
                if projections is not None:
                    projected = projections.pairs(stages[BACKBONE], omega, wrong)
                    pairs[PROJECTOR] = projected["right"]
                    cosines = {
                        f"{PROJECTOR}_cosine_{name}": mean_positive_cosine(*pair)
                        for name, pair in projected.items()
                    }
                measured = {name: MEASURES[self.measure](*pair) for name, pair in pairs.items()}
                found[view] = (measured, cosines)
        metrics, series = self._metrics(found), self._series(found)
        return Outcome(
            metrics=metrics,
            protocol={
                "sensitivity": self._protocol(len(indices), recipe),
                "projector": "none" if projections is None else projections.protocol,
            },
            series=series,
            files=self._draw(context.source.name, metrics, series) if self.figures else {},
        )

    def _metrics(self, found: dict[View, _Values]) -> dict[str, dict[str, float]]:
        # The last view of an augmentation is that of the greatest strength.
        return {
            view.name: {
                f"{self.measure}_{end}": measured[end]
                for end in (BACKBONE, PROJECTOR)
                if end in measured
            }
            | cosines
            for view, (measured, cosines) in found.items()
        }

    def _series(self, found: dict[View, _Values]) -> dict[str, list[float]]:
        series: dict[str, list[float]] = {}
        first = next(iter(found))
        for view, (measured, _) in found.items():
            points = [(view.strength, view.value, measured)]
            if view is not first and f"strength/{view.name}" not in series:
                points.insert(0, (0.0, 1.0 if view.name == "crop" else 0.0, found[first][0]))
            for strength, value, by_stage in points:
                series.setdefault(f"strength/{view.name}", []).append(strength)
                series.setdefault(f"value/{view.name}", []).append(value)
                for stage, number in by_stage.items():
                    name = f"{self.measure}/{view.name}/{stage}"
                    series.setdefault(name, []).append(number)
        return series

    def _plan(self, recipe: AugmentConfig) -> list[View]:
        strengths = sorted(set(self.strengths))
        if not strengths or not self.augmentations:
            raise ConfigError("name at least one augmentation and one strength.")
        plan = [
            views.make_view(name, recipe, strength)
            for name in dict.fromkeys(self.augmentations)
            for strength in (strengths if name in views.GRADED else [1.0])
        ]
        first, last = (views.make_view(name, recipe) for name in (views.ORIGINAL, views.RECIPE))
        return [first, *plan, last]

    def _protocol(self, count: int, recipe: AugmentConfig) -> str:
        greatest = max(self.strengths)
        at = "" if greatest == 1 else f"; graded metrics are at {greatest:g} of full strength"
        return (
            f"{self.measure} of {count} images drawn from the test parts (from all if there are "
            "none), each against its augmented version, all others being negatives; InfoNCE with "
            "T=0.2, times 2T; evaluation mode, stages pooled globally; images are central "
            f"squares, bilinear, {recipe.size} px. Full strength: crop to "
            f"{recipe.crop_scale[0]:g} of the area (ratio {recipe.crop_ratio[0]:.3g}-"
            f"{recipe.crop_ratio[1]:.3g}); brightness, contrast, saturation 1 ± "
            f"{recipe.brightness:g}, hue ± {recipe.hue:g}, random signs and order; blur sigma "
            f"{recipe.blur_sigma[1]:g} px, kernel {recipe.kernel}; recipe: training's "
            f"augmentations with their probabilities{views.in_words(recipe)}{at}"
        )

    def _draw(
        self, name: str, metrics: dict[str, dict[str, float]], series: dict[str, list[float]]
    ) -> dict[str, bytes]:
        files = {
            "stages.png": render(stage_figure({name: series}, name)),
            "strengths.png": render(strength_figure(series, name)),
        }
        if any(f"{PROJECTOR}_cosine_right" in values for values in metrics.values()):
            files["projector.png"] = render(projector_figure(metrics, name))
        return files
