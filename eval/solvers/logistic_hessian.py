"""The Hessian of multinomial logistic regression, and Newton steps by conjugate gradients.

It is the sum over samples of ``x x^T (kron) S`` with ``S = diag(p) - p p^T``, plus ``2 w I``; never
formed, only multiplied with, in float32. Vectors are (C, D), a row per class: products with few
columns would take 1.4 times as long.
"""

from collections.abc import Callable

import torch
from torch import Tensor

_MAX_STEPS = 2000
_RANK = 64
_FLOOR = 0.01


class Hessian:
    """The Hessian at one point."""

    def __init__(
        self,
        samples: Tensor,
        squares: Tensor,
        probabilities: Tensor,
        weight: float,
        *,
        hard: bool,
    ) -> None:
        """Keep the samples and prepare the preconditioner.

        Args:
            samples: (N, D) float32, in their principal axes.
            squares: Their squares.
            probabilities: (C, N) float64, of the classes.
            weight: Regularisation weight w.
            hard: Whether to use the preconditioner that takes longer to build.
        """
        self.samples = samples
        self.weight = weight
        self.p = probabilities.float()
        self.likeliest = probabilities.argmax(0, keepdim=True)
        build = _precondition_by_class if hard else _precondition_diagonally
        self.precondition = build(samples, squares, probabilities, weight)

    def multiply(self, direction: Tensor) -> Tensor:
        """Multiply with (C, D)."""
        scores = direction @ self.samples.T
        # Relative to the likeliest class: p near 1 cancels, in float32 to nothing but noise.
        scores -= scores.gather(0, self.likeliest)
        scores -= (self.p * scores).sum(0, keepdim=True)
        scores *= self.p
        return torch.addmm(direction, scores, self.samples, beta=2 * self.weight)

    def solve(self, target: Tensor, residual: float) -> tuple[Tensor, int]:
        """Solve for a target by preconditioned conjugate gradients.

        Args:
            target: Right-hand side (C, D), float64.
            residual: Norm of what may remain of it, relative.

        Returns:
            The solution (float64), and how many steps it took.
        """
        norm = target.norm()
        r = (target / norm).float()
        solution = torch.zeros_like(r)
        z = self.precondition(r)
        direction, rz = z, (r * z).sum()
        steps = 0
        while steps < _MAX_STEPS:
            steps += 1
            product = self.multiply(direction)
            length = rz / (direction * product).sum()
            solution += length * direction
            r -= length * product
            if float(r.norm()) <= residual:
                break
            z = self.precondition(r)
            rz, previous = (r * z).sum(), rz
            direction = z + (rz / previous) * direction
        return solution.double() * norm, steps


def _precondition_diagonally(
    samples: Tensor, squares: Tensor, probabilities: Tensor, weight: float
) -> Callable[[Tensor], Tensor]:
    """Divide by the Hessian's diagonal in the eigenvectors of the mean S.

    They account for classes that are confused with each other.
    """
    mean_s = torch.diag(probabilities.sum(1)) - probabilities @ probabilities.T
    mixing = torch.linalg.eigh(mean_s).eigenvectors.T.contiguous()
    spread = mixing.square() @ probabilities - (mixing @ probabilities).square()
    diagonal = spread.clamp_min(0).float() @ squares + 2 * weight
    mixing = mixing.float()

    def precondition(r: Tensor) -> Tensor:
        mixed: Tensor = mixing.T @ ((mixing @ r) / diagonal)
        return mixed

    return precondition


def _precondition_by_class(
    samples: Tensor, squares: Tensor, probabilities: Tensor, weight: float
) -> Callable[[Tensor], Tensor]:
    """Invert an approximation of each class's own block of the Hessian.

    Of a block ``2 w I + sum p (1 - p) x x^T`` the samples that weigh most are taken exactly (by the
    Woodbury identity), of the others the diagonal.
    """
    spread = (probabilities * (1 - probabilities)).float()
    top = spread.topk(min(_RANK, len(samples)), dim=1)
    chosen = samples[top.indices] * top.values.sqrt()[:, :, None]  # (C, rank, D)
    exact = chosen.square().sum(1)
    rest = spread @ squares - exact
    # Without the floor, float32 cannot hold both what is exact and what is left.
    scale = (rest.clamp_min(0) + 2 * weight + _FLOOR * exact).rsqrt()
    chosen *= scale[:, None, :]
    inner = (chosen @ chosen.transpose(1, 2)).double()
    inner.diagonal(dim1=1, dim2=2).add_(1)
    factor = torch.linalg.cholesky(inner).float()
    basis = torch.linalg.solve_triangular(factor, chosen, upper=False)

    def precondition(r: Tensor) -> Tensor:
        scaled = r * scale
        scaled -= (basis.transpose(1, 2) @ (basis @ scaled[:, :, None]))[:, :, 0]
        return scaled * scale

    return precondition
