"""Self-supervised losses. Pure tensor functions in the precision of their input."""

import torch
import torch.nn.functional as F
from torch import Tensor


def nt_xent(z1: Tensor, z2: Tensor, temperature: float = 0.2) -> tuple[Tensor, Tensor]:
    """Normalised temperature-scaled cross-entropy (SimCLR, arXiv 2002.05709, equation 1).

    Each of the 2B projections must find its positive, the other view of the same picture, among
    the 2B - 1 others.

    Args:
        z1: (B, D) L2-normalised projections of the first views.
        z2: (B, D) L2-normalised projections of the second views.
        temperature: Divisor of the cosine similarities.

    Returns:
        loss: Scalar, the mean over the 2B projections.
        accuracy: Scalar, the share of projections whose positive is the most similar.
    """
    z = torch.cat([z1, z2])
    similarity = z @ z.T / temperature
    similarity = similarity.masked_fill(
        torch.eye(len(z), dtype=torch.bool, device=z.device), -torch.inf
    )
    positive = torch.arange(len(z), device=z.device).roll(len(z1))
    accuracy = (similarity.detach().argmax(dim=1) == positive).float().mean()
    return F.cross_entropy(similarity, positive), accuracy
