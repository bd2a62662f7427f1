"""What a conditioned projector makes of features when it is told the truth about a view, or not."""

from typing import Literal

import torch
from torch import Tensor

from cassle_zoo.eval.base import EvalContext
from cassle_zoo.eval.sensitivity import mean_positive_cosine
from cassle_zoo.eval.sources import state_sha256
from cassle_zoo.features.inference import choose_device, inference
from cassle_zoo.projector import ConditionedProjector

Condition = Literal["right", "zero", "shuffled"]
CONDITIONS: tuple[Condition, ...] = ("right", "zero", "shuffled")


def project(
    projector: ConditionedProjector,
    features: Tensor,
    omega: Tensor,
    *,
    device: str | None = None,
    batch_size: int = 4096,
) -> Tensor:
    """Return projections (N, K), float32 on the CPU, in evaluation mode.

    Args:
        projector: The projector.
        features: (N, D).
        omega: (N, 14) as `ALL_DESCRIPTORS`.
        device: Where to compute.
        batch_size: Rows at a time.
    """
    target = choose_device(projector, device)
    chosen = projector.layout.select(omega)
    with inference(projector, target):
        parts = [
            projector(part.to(target), told.to(target)).cpu()
            for part, told in zip(features.split(batch_size), chosen.split(batch_size), strict=True)
        ]
    return torch.cat(parts)


class Projections:
    """Projections of images and of their augmented versions.

    Right: each under what was done to it. Zero: both under ω = 0. Shuffled: the augmented version
    under what the whole recipe drew for another image, the image itself under its right ω.
    """

    def __init__(
        self, context: EvalContext, projector: ConditionedProjector, original: Tensor, clear: Tensor,
        wrong: Tensor,
    ) -> None:  # fmt: skip
        """Prepare; see `open`."""
        self.projector = projector
        self.device = context.compute.device
        self.wrong = wrong
        self.conditions: tuple[Condition, ...] = (
            ("right",) if projector.config.conditioning == "none" else CONDITIONS
        )
        self._original = {
            "right": self._project(original, clear),
            "zero": self._project(original, clear * 0),
        }

    @classmethod
    def open(
        cls, context: EvalContext, original: Tensor, clear: Tensor, wrong: Tensor
    ) -> "Projections | None":
        """Load the projector of a context, if it has one.

        Args:
            context: Whose projector.
            original: (N, D) features of the images.
            clear: (N, 14) their ω, of `ALL_DESCRIPTORS`.
            wrong: (N, 14) ω of other images' views.
        """
        if context.source.projector is None:
            return None
        return cls(context, context.source.projector(), original, clear, wrong)

    def pair(self, features: Tensor, omega: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """Return the projections of the images and of their augmented versions, each (N, K).

        Args:
            features: (N, D) features of the augmented versions.
            omega: (N, 14) what was done to them.
            condition: What the projector is told.
        """
        told = {"right": omega, "zero": omega * 0, "shuffled": self.wrong}[condition]
        first = self._original["zero" if condition == "zero" else "right"]
        return first, self._project(features, told)

    def cosines(self, features: Tensor, omega: Tensor) -> dict[str, float]:
        """Return `projector_cosine_{condition}`, the mean cosines of the pairs."""
        return {
            f"projector_cosine_{condition}": mean_positive_cosine(
                *self.pair(features, omega, condition)
            )
            for condition in self.conditions
        }

    @property
    def protocol(self) -> str:
        """What was measured, in words."""
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
        return project(self.projector, features, omega, device=self.device)
