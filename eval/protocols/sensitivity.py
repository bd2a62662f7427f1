"""Sensitivity of features to each augmentation, by strength and stage."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from cassle_zoo.augmentation.augment import AugmentConfig
from cassle_zoo.common.config import NOT_NEGATIVE, Range, check_fields
from cassle_zoo.common.errors import ConfigError, DataError, unknown_name
from cassle_zoo.eval import sensitivity
from cassle_zoo.eval.augmented import views
from cassle_zoo.eval.augmented.projections import Projections
from cassle_zoo.eval.augmented.stages import BACKBONE, embed_stages
from cassle_zoo.eval.augmented.views import View
from cassle_zoo.eval.base import EvalContext, Outcome
from cassle_zoo.eval.report.figures import render, require_matplotlib
from cassle_zoo.eval.report.sensitivity_figures import (
    projector_figure,
    stage_figure,
    strength_figure,
)
from cassle_zoo.features.inference import choose_device, inference

Measure = Literal["infonce", "mean_positive_cosine", "mean_negative_cosine", "self_distill", "cca"]
MEASURES: Mapping[str, Callable[[Tensor, Tensor], float]] = MappingProxyType(
    {
        "infonce": sensitivity.infonce,
        "mean_positive_cosine": sensitivity.mean_positive_cosine,
        "mean_negative_cosine": sensitivity.mean_negative_cosine,
        "self_distill": sensitivity.self_distill,
        "cca": sensitivity.cca,
    }
)
PROJECTOR = "projector"
_Values = tuple[dict[str, float], dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """How much each augmentation changes features, by strength and network stage.

    Attributes:
        images: At most so many, drawn from the test images; InfoNCE grows with their number.
        augmentations: Applied one at a time; beside them `recipe`, all of training's at once.
        strengths: Shares of the training range, for augmentations that have a strength.
        measure: Compares features of images and their augmented versions.
        figures: Whether to draw figures, which needs the extra `figures`.
    """

    images: Annotated[int, Range(2)] = 512
    augmentations: tuple[str, ...] = views.AUGMENTATIONS
    strengths: Annotated[tuple[float, ...], NOT_NEGATIVE] = (0.25, 0.5, 0.75, 1.0)
    measure: Measure = "infonce"
    figures: bool = True

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_fields(self)

    def evaluate(self, context: EvalContext) -> Outcome:
        """Return the measure at the greatest strength as metrics, and all else as series.

        Metrics, by augmentation (and of `original`, not augmented: what is due to the likeness of
        the images alone): `{measure}_backbone` and, with a projector, `{measure}_projector` and
        `projector_cosine_right`, `_zero` and `_shuffled`. Series by strength, from 0:
        `strength/{augmentation}`, `value/{augmentation}` (the parameter) and
        `{measure}/{augmentation}/{stage}`.
        """
        if self.figures:
            require_matplotlib()
        recipe = views.context_recipe(context)
        plan = self._plan(recipe)
        indices = self._indices(context)
        encoder = _Encoder(context, indices, plan)
        disable = None if context.compute.progress is None else not context.compute.progress
        found: dict[View, _Values] = {}
        with inference(encoder.model, encoder.device):
            original, clear = encoder(plan[0])
            _, drawn = encoder(plan[-1])
            projections = Projections.open(
                context, original[BACKBONE], clear, drawn[views.derangement(len(drawn), 1)]
            )
            for view in tqdm(plan, unit="view", desc="sensitivity", disable=disable):
                stages, omega = encoder(view)
                pairs = {name: (original[name], stages[name]) for name in stages}
                cosines = {}
                if projections is not None:
                    pairs[PROJECTOR] = projections.pair(stages[BACKBONE], omega, "right")
                    cosines = projections.cosines(stages[BACKBONE], omega)
                measured = {name: MEASURES[self.measure](*pair) for name, pair in pairs.items()}
                found[view] = (measured, cosines)
        metrics, series = self._metrics(found), self._series(found)
        return Outcome(
            metrics=metrics,
            protocol={"sensitivity": self._protocol(len(indices), recipe, projections)},
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
        for name in self.augmentations:
            if name not in views.AUGMENTATIONS:
                raise unknown_name("augmentation", name, views.AUGMENTATIONS)
        plan = [
            views.make_view(name, recipe, strength)
            for name in dict.fromkeys(self.augmentations)
            for strength in ([1.0] if name in views.SWITCHES else strengths)
        ]
        first, last = (views.make_view(name, recipe) for name in (views.ORIGINAL, views.RECIPE))
        return [first, *plan, last]

    def _indices(self, context: EvalContext) -> Tensor:
        candidates = views.held_out(context.data)
        if not len(candidates):
            candidates = torch.arange(len(context.data.images))
        drawn = views.draw_images(candidates, self.images, context.compute.seed)
        if len(drawn) < 2:
            raise DataError(f"{context.data.name} has {len(drawn)} images; 2 are needed.")
        return drawn.sort().values

    def _protocol(self, count: int, recipe: AugmentConfig, projections: Projections | None) -> str:
        text = (
            f"{self.measure} of {count} images drawn from the test parts (from all if there are "
            "none), each against its augmented version, all others being negatives; InfoNCE with "
            "T=0.2, times 2T; evaluation mode, stages pooled globally; images are central "
            f"squares, bilinear, {recipe.size} px. Full strength: crop to "
            f"{recipe.crop_scale[0]:g} of the area (ratio {recipe.crop_ratio[0]:.3g}-"
            f"{recipe.crop_ratio[1]:.3g}); brightness, contrast, saturation 1 ± "
            f"{recipe.brightness:g}, hue ± {recipe.hue:g}, random signs and order; blur sigma "
            f"{recipe.blur_sigma[1]:g} px, kernel {recipe.kernel}; recipe: training's "
            "augmentations with their probabilities"
        )
        if projections is None:
            return f"{text}; the model has no projector"
        return f"{text}. {projections.protocol}"

    def _draw(
        self, name: str, metrics: dict[str, dict[str, float]], series: dict[str, list[float]]
    ) -> dict[str, bytes]:
        files = {
            "stages.png": render(stage_figure({name: series}, name)),
            "strengths.png": render(strength_figure(series, name)),
        }
        if any(f"{PROJECTOR}_cosine_right" in values for values in metrics.values()):
            files["projector.png"] = render(projector_figure({name: metrics}))
        return files


class _Encoder:
    """Features of the chosen images under a view, of every stage, and what was done to each."""

    def __init__(self, context: EvalContext, indices: Tensor, plan: list[View]) -> None:
        self.model = context.model
        self.device = choose_device(self.model, context.compute.device)
        self.batch_size = context.compute.batch_size
        self.uniforms = views.image_uniforms(indices, context.compute.seed)
        # The others look at the same central square as the original.
        cut = [v for v in plan if v.name in (views.ORIGINAL, "crop", views.RECIPE)]
        self.place = {view: place for place, view in enumerate(cut)}
        parts = list(
            views.read_crops(
                context.data.images, indices, self.uniforms, cut,
                batch_size=self.batch_size, workers=context.compute.workers,
            )
        )  # fmt: skip
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
