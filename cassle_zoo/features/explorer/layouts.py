"""Places for images on a map, so that similar ones are near each other."""

import importlib.util
import math

import torch
from torch import Tensor

from cassle_zoo.common.errors import DataError, MissingDependencyError, unknown_name
from cassle_zoo.features.explorer.spaces import Space

LAYOUTS = ("auto", "pca", "umap", "grid")
_FEW = 100  # up to so many images, "auto" is a grid


def place(space: Space, layout: str = "auto") -> tuple[Tensor, str]:
    """Place images on a map.

    Args:
        space: The images.
        layout: ``"pca"``: the first two principal components of the raw vectors; ``"umap"``: UMAP
            of the compared vectors (McInnes et al., 2018, arXiv 1802.03426); ``"grid"``: as
            ``"pca"``, but moved into the rows of a grid, without overlaps; ``"auto"``: ``"grid"``
            up to 100 images, else ``"pca"``.

    Returns:
        (N, 2) in [0, 1], and how they were placed, in words.

    Raises:
        UnknownNameError: There is no such layout.
        MissingDependencyError: For ``"umap"``, the extra `umap` is not installed.
        DataError: UMAP gets fewer than 4 images.
    """
    check_layout(layout)
    if layout == "umap":
        return _fill(_umap(space.vectors)), "UMAP"
    points, explained = _pca(space.raw)
    if layout == "grid" or (layout == "auto" and len(points) <= _FEW):
        return _fill(_grid(points)), "grid, ordered by two principal components"
    return _fill(points), f"two principal components ({100 * explained:.0f} % of the variance)"


def check_layout(layout: str) -> None:
    """Check that there is such a layout, and that what it needs is installed.

    Raises:
        UnknownNameError: There is no such layout.
        MissingDependencyError: For ``"umap"``, the extra `umap` is not installed.
    """
    if layout not in LAYOUTS:
        raise unknown_name("layout", layout, LAYOUTS)
    if layout == "umap" and importlib.util.find_spec("umap") is None:
        raise MissingDependencyError(
            "the layout 'umap' needs umap-learn: pip install 'cassle-zoo[umap]'; or use 'pca'."
        )


def _pca(vectors: Tensor) -> tuple[Tensor, float]:
    """Return the first two components (N, 2), and the fraction of the variance along them."""
    centred = vectors.double() - vectors.double().mean(0)
    width = min(centred.shape)
    if width < 2:
        return torch.nn.functional.pad(centred[:, :1], (0, 1)), 1.0
    # The smaller of covariance and Gram matrix.
    if len(centred) <= centred.shape[1]:
        values, vectors_ = torch.linalg.eigh(centred @ centred.T)
        points = vectors_[:, -2:].flip(1) * values[-2:].flip(0).clamp(min=0).sqrt()
    else:
        values, vectors_ = torch.linalg.eigh(centred.T @ centred)
        points = centred @ vectors_[:, -2:].flip(1)
    # Either sign is right; this chooses the same one each time.
    points = points * torch.where(points.sum(0) + points[points.abs().argmax(0), [0, 1]] < 0, -1, 1)
    total = float(values.clamp(min=0).sum())
    return points, float(values[-2:].clamp(min=0).sum()) / total if total else 1.0


def _umap(vectors: Tensor) -> Tensor:
    if len(vectors) < 4:
        raise DataError(f"UMAP needs at least 4 images, got {len(vectors)}; use the layout 'grid'.")
    neighbours = min(15, len(vectors) - 1)
    mapper = importlib.import_module("umap").UMAP(
        n_neighbors=neighbours, metric="cosine", init="random", random_state=0, n_jobs=1
    )
    return torch.from_numpy(mapper.fit_transform(vectors.numpy())).double()


def _grid(points: Tensor) -> Tensor:
    """Move points into the cells of a grid: by y into rows, and by x within each row."""
    columns = math.ceil(math.sqrt(len(points)))
    moved = torch.empty_like(points)
    for row, members in enumerate(points[:, 1].argsort(stable=True).split(columns)):
        order = members[points[members, 0].argsort(stable=True)]
        moved[order, 0] = torch.arange(len(order), dtype=points.dtype)
        moved[order, 1] = row
    return moved


def _fill(points: Tensor) -> Tensor:
    """Stretch points over [0, 1] x [0, 1]; a coordinate that does not vary becomes 0.5."""
    low, high = points.min(0).values, points.max(0).values
    return torch.where(high > low, (points - low) / (high - low).clamp(min=1e-300), 0.5)
