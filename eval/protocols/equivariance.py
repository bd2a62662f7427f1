"""Equivariance: how well ω is predicted from features, and identified by the projector."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from cassle_zoo.augmentation.augment import AugmentConfig
from cassle_zoo.augmentation.descriptors import DescriptorLayout
from cassle_zoo.common.config import Range
from cassle_zoo.common.errors import DataError
from cassle_zoo.common.files import sha256
from cassle_zoo.eval.augmented import views
from cassle_zoo.eval.augmented.stages import project
from cassle_zoo.eval.base import EvalContext, EvalData, Outcome, Settings
from cassle_zoo.eval.metrics import r2_scores
from cassle_zoo.eval.report.figures import render, require_matplotlib
from cassle_zoo.eval.report.sensitivity_figures import equivariance_figure
from cassle_zoo.eval.solvers.ridge import Ridge
from cassle_zoo.projector import ConditionedProjector

L2_GRID: tuple[float, ...] = tuple(10 ** (exponent / 2) for exponent in range(-12, 9))
"""Per sample and standardised feature: 21 values from 1e-6 to 1e4."""


def probe(
    features: Tensor,
    targets: Tensor,
    splits: Mapping[str, Tensor],
    columns: Mapping[str, slice],
) -> dict[str, float]:
    """Return the R² of each group of targets on held-out images, the mean over its columns.

    The l2 penalty is, for each group, the one of `L2_GRID` with the highest R² on `val` after
    fitting `train`; then train and val are fitted, and `test` is predicted once.

    Args:
        features: (N, D).
        targets: (N, T).
        splits: Indices of `train`, `val` and `test`.
        columns: Columns of the targets, by group.

    Raises:
        DataError: If values are not finite, or a target is constant in `val` or `test`.
    """
    train, val, test = (splits[name] for name in ("train", "val", "test"))
    ridge = Ridge(features[train], targets[train])
    names = {i: name for name, own in columns.items() for i in range(own.start, own.stop)}
    predictions = (ridge.predict(features[val], l2 * len(train)) for l2 in L2_GRID)
    tried = torch.stack([r2_scores(own, targets[val], names) for own in predictions])
    both = torch.cat([train, val])
    final = Ridge(features[both], targets[both])
    scores = {}
    for name, own in columns.items():
        l2 = L2_GRID[int(tried[:, own].mean(1).argmax())]
        predicted = final.predict(features[test], l2 * len(both))
        scores[name] = float(r2_scores(predicted, targets[test], names)[own].mean())
    return scores


def ranks_of_first(scores: Tensor) -> Tensor:
    """Return the rank of column 0 within each row of (N, C) scores, 1 being the highest.

    Equal scores get the mean of their ranks, so that constant scores rank as at random.
    """
    right = scores[:, :1]
    higher = (scores > right).sum(1)
    equal = (scores == right).sum(1) - 1
    return 1 + higher + equal / 2


def split_images(data: EvalData, indices: Tensor) -> dict[str, Tensor]:
    """Split drawn images into `train`, `val` and `test`, as positions in `indices`.

    Images in the test split of any task are for testing; every fifth of the others is for
    validation. If no task has a test split, every fifth image is for testing.

    Raises:
        DataError: If a part has fewer than 10 images.
    """
    places = torch.arange(len(indices))
    held = data.test_images()
    test = torch.isin(indices, held) if len(held) else places % 5 == 4
    rest = places[~test]
    fifth = torch.arange(len(rest)) % 5 == 4
    splits = {"train": rest[~fifth], "val": rest[fifth], "test": places[test]}
    small = [f"{len(part)} {name}" for name, part in splits.items() if len(part) < 10]
    if small:
        raise DataError(
            f"too few images to fit and test: {', '.join(small)}; use at least 10 of each."
        )
    return splits


def _encode(
    context: EvalContext, indices: Tensor, recipe: AugmentConfig
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return features of images and of their views, (N, D) each, and ω of both, (N, 14) or more."""
    drawn = sha256(indices.numpy().tobytes())
    key = ("equivariance", drawn, str(recipe), str(context.compute.seed))
    table = context.cached(key, lambda: _extract(context, indices, recipe))
    width = recipe.layout.width
    features = (table.shape[1] - 2 * width) // 2
    original, augmented, clear, omega = table.split([features, features, width, width], dim=1)
    return original, augmented, clear, omega


def _extract(context: EvalContext, indices: Tensor, recipe: AugmentConfig) -> Tensor:
    kinds = [views.make_view(name, recipe) for name in (views.ORIGINAL, views.RECIPE)]
    features, omegas = views.embed_views(context, indices, kinds)
    return torch.cat([*features, *omegas], dim=1)


def _protocol(splits: dict[str, Tensor], recipe: AugmentConfig) -> str:
    counts = " / ".join(str(len(splits[name])) for name in ("train", "val", "test"))
    return (
        f"ridge regression in closed form from standardised features of one view (r2_single), or "
        f"of the image and its view side by side (r2_pair), to ω; {counts} images to fit / "
        "choose the penalty / test, test being in the test part of some task (every fifth drawn, "
        f"if there are none), val every fifth of the others; {len(L2_GRID)} penalties from "
        f"{L2_GRID[0]:g} to {L2_GRID[-1]:g} per sample, chosen for each descriptor, refitted "
        "on fit and val; true R², mean over a descriptor's numbers; one view an image from "
        f"training's recipe at {recipe.size} px, images being central squares, bilinear"
        f"{views.in_words(recipe)}"
    )


@dataclass(frozen=True, kw_only=True)
class Equivariance(Settings):
    """How well ω is predicted from features, and the right ω identified by the projector.

    Attributes:
        images: Maximum number of images; each gives one view drawn from the whole training recipe.
        candidates: Number of ω among which the right one is to be found.
        extra: Further augmentations of the views, by name, such as `rotation`; with the settings
            that the model was trained with, or else their defaults, and probability 0.5.
        figures: Draw figures, which needs the extra `figures`; `--no-figures` does without.
    """

    images: Annotated[int, Range(1)] = 4000
    candidates: Annotated[int, Range(2)] = 100
    extra: tuple[str, ...] = ()
    figures: bool = True

    def evaluate(self, context: EvalContext) -> Outcome:
        """Return `r2_single` and `r2_pair` of each descriptor and their means.

        With a conditioned projector also `omega_top1` and `omega_mrr`.
        """
        if self.figures:
            require_matplotlib()
        everything = torch.arange(len(context.data.images))
        indices = views.draw_images(everything, self.images, context.compute.seed)
        splits = split_images(context.data, indices)
        projector = context.projector
        if projector is not None and projector.config.conditioning == "none":
            projector = None
        if projector is not None and len(splits["test"]) < self.candidates:
            raise DataError(
                f"{len(splits['test'])} held-out images do not give {self.candidates} candidates "
                "for ω; ask for fewer candidates or more images."
            )
        recipe = views.context_recipe(context, self.extra)
        original, augmented, clear, omega = _encode(context, indices, recipe)
        columns = recipe.layout.slices()
        pairs = torch.cat([original, augmented], dim=1)
        single = probe(augmented, omega, splits, columns)
        pair = probe(pairs, omega, splits, columns)
        metrics = {name: {"r2_single": single[name], "r2_pair": pair[name]} for name in columns}
        metrics["mean"] = {
            metric: sum(values[metric] for values in metrics.values()) / len(columns)
            for metric in ("r2_single", "r2_pair")
        }
        protocol = {"equivariance": _protocol(splits, recipe)}
        if projector is not None:
            test = splits["test"]
            known = (views.as_trained(own[test], recipe, context) for own in (clear, omega))
            metrics["omega"] = self._find_omega(
                context, projector, recipe.layout, original[test], augmented[test], *known
            )
            protocol["finding ω"] = (
                f"the projections of {len(test)} held-out views under {self.candidates} ω, their "
                "own and those of other held-out views, ranked by cosine to the projection of the "
                "image itself under its own ω; omega_top1: how often the right ω is first; "
                "omega_mrr: mean of 1/rank"
            )
        files = {}
        if self.figures:
            files["r2.png"] = render(equivariance_figure(metrics, context.source.name))
        return Outcome(metrics=metrics, protocol=protocol, files=files)

    def _find_omega(
        self,
        context: EvalContext,
        projector: ConditionedProjector,
        layout: DescriptorLayout,
        original: Tensor,
        augmented: Tensor,
        clear: Tensor,
        omega: Tensor,
    ) -> dict[str, float]:
        device = context.compute.device
        target = F.normalize(
            project(projector, original, clear, layout, device=device).double(), dim=1
        )
        scores = []
        for step in range(self.candidates):
            candidate = omega[views.derangement(len(omega), context.compute.seed, step)]
            found = project(projector, augmented, candidate, layout, device=device).double()
            scores.append((F.normalize(found, dim=1) * target).sum(1))
        ranks = ranks_of_first(torch.stack(scores, dim=1))
        return {
            "omega_top1": float((ranks == 1).double().mean()),
            "omega_mrr": float((1 / ranks).double().mean()),
        }
