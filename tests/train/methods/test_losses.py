"""Losses against the paper's code, against their definitions, and their invariances."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cassle_zoo.train.methods.losses import (
    batch_info_nce,
    cross_correlation_loss,
    negative_cosine,
    nt_xent,
    queue_info_nce,
    vicreg_terms,
)

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    with np.load(GOLDEN / "b_losses.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def unit(*shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape, dtype=torch.float64), dim=1)


def standardised(*shape: int) -> Tensor:
    z = torch.randn(*shape, dtype=torch.float64)
    return (z - z.mean(dim=0)) / z.std(dim=0, correction=0)


def of(golden: dict[str, Tensor], method: str) -> Callable[..., Any]:
    return lambda *names: tuple(golden[f"{method}/{name}"] for name in names)


def official(golden: dict[str, Tensor], method: str) -> Tensor:
    """Our value of the loss whose inputs the paper's code was given."""
    get = of(golden, method)
    if method == "simclr":
        z1, z2 = get("z1", "z2")
        return nt_xent(z1, z2, golden["simclr/T"].item())[0]
    if method == "moco":
        query, key, queue = get("z1_query", "z2_key", "queue_before")
        return queue_info_nce(query, key, queue, 0.2)[0]
    if method == "mocov3":
        q1, q2, k1, k2 = get("q1", "q2", "k1", "k2")
        return batch_info_nce(q1, k2, 0.2)[0] + batch_info_nce(q2, k1, 0.2)[0]
    if method == "barlow_twins":
        z1, z2 = get("z1", "z2")
        return cross_correlation_loss(z1, z2, golden["barlow_twins/lambda"].item())[0]
    if method == "simsiam":
        p1, p2, z1, z2 = get("p1", "p2", "z1", "z2")
        return (negative_cosine(p1, z2) + negative_cosine(p2, z1)) / 2
    p1, p2, t1, t2 = get("p1", "p2", "tgt1", "tgt2")
    return 2 * (negative_cosine(p1, t2) + negative_cosine(p2, t1))


METHODS = ["simclr", "moco", "mocov3", "barlow_twins", "simsiam", "byol"]


@pytest.mark.parametrize("method", METHODS)
def test_equals_official(golden: dict[str, Tensor], method: str) -> None:
    value = official(golden, method)
    assert value.dtype == torch.float64
    assert abs(value.item() - golden[f"{method}/loss"].item()) < 1e-9


@pytest.mark.parametrize("method", METHODS)
def test_autocast_does_not_reach_losses(golden: dict[str, Tensor], method: str) -> None:
    single = {key: v.float() if v.is_floating_point() else v for key, v in golden.items()}
    with torch.autocast("cpu", torch.bfloat16):
        value = official(single, method)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(golden[f"{method}/loss"].item(), rel=1e-5)


def test_nt_xent_equals_its_definition() -> None:
    z1, z2 = unit(5, 8), unit(5, 8)
    z, total = torch.cat([z1, z2]), 0.0
    for i in range(10):
        others = [torch.exp(z[i] @ z[j] / 0.3) for j in range(10) if j != i]
        total -= torch.log(torch.exp(z[i] @ z[(i + 5) % 10] / 0.3) / sum(others)).item()
    assert nt_xent(z1, z2, 0.3)[0].item() == pytest.approx(total / 10, abs=1e-12)


def test_info_nce_equals_its_definition() -> None:
    q, k, queue = unit(4, 8), unit(4, 8), unit(6, 8)
    from_queue = from_batch = 0.0
    for i in range(4):
        own = torch.exp(q[i] @ k[i] / 0.3)
        from_queue -= torch.log(own / (own + sum(torch.exp(q[i] @ n / 0.3) for n in queue))).item()
        from_batch -= torch.log(own / sum(torch.exp(q[i] @ n / 0.3) for n in k)).item()
    assert queue_info_nce(q, k, queue, 0.3)[0].item() == pytest.approx(from_queue / 4, abs=1e-12)
    assert batch_info_nce(q, k, 0.3)[0].item() == pytest.approx(0.6 * from_batch / 4, abs=1e-12)


def test_cross_correlation_equals_its_definition() -> None:
    z1, z2 = standardised(7, 4), standardised(7, 4)
    c = np.corrcoef(z1.numpy(), z2.numpy(), rowvar=False)[:4, 4:]
    off = c - np.diag(np.diag(c))
    loss, invariance, redundancy = cross_correlation_loss(z1, z2, 0.1)
    assert invariance.item() == pytest.approx(((1 - np.diag(c)) ** 2).sum(), abs=1e-12)
    assert redundancy.item() == pytest.approx((off**2).sum(), abs=1e-12)
    assert loss.item() == pytest.approx(invariance.item() + 0.1 * redundancy.item(), abs=1e-12)


def test_vicreg_equals_its_definition() -> None:
    z1, z2 = 0.5 * torch.randn(7, 4).double(), 2 * torch.randn(7, 4).double()
    invariance, variance, covariance = vicreg_terms(z1, z2)
    covariances = [np.cov(z.numpy(), rowvar=False) for z in (z1, z2)]
    hinge = [np.maximum(0, 1 - np.sqrt(np.diag(c) + 1e-4)).mean() for c in covariances]
    off = [((c - np.diag(np.diag(c))) ** 2).sum() / 4 for c in covariances]
    assert invariance.item() == pytest.approx(((z1 - z2).numpy() ** 2).mean(), abs=1e-12)
    assert variance.item() == pytest.approx(sum(hinge) / 2, abs=1e-12)
    assert covariance.item() == pytest.approx(sum(off), abs=1e-12)


def test_negative_cosine() -> None:
    p, z = torch.randn(6, 5).double().requires_grad_(), torch.randn(6, 5).double().requires_grad_()
    expected = -np.mean([np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b) for a, b in
                         zip(p.detach().numpy(), z.detach().numpy(), strict=True)])  # fmt: skip
    loss = negative_cosine(p, z)
    assert loss.item() == pytest.approx(expected, abs=1e-12)
    assert negative_cosine(p, 3 * p).item() == pytest.approx(-1)
    torch.testing.assert_close(negative_cosine(5 * p, z / 7), loss)
    loss.backward()
    assert p.grad is not None
    assert z.grad is None


def first(loss: Callable[..., Any]) -> Callable[..., Tensor]:
    return lambda *z: loss(*z)[0]


def vicreg(z1: Tensor, z2: Tensor) -> Tensor:
    return torch.stack(vicreg_terms(z1, z2))


LOSSES: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "nt_xent": (first(nt_xent), unit),
    "batch_info_nce": (first(batch_info_nce), unit),
    "queue_info_nce": (
        lambda q, k: queue_info_nce(q, k, torch.eye(8, dtype=torch.float64))[0],
        unit,
    ),
    "cross_correlation": (first(cross_correlation_loss), standardised),
    "negative_cosine": (negative_cosine, unit),
    "vicreg": (vicreg, functools.partial(torch.randn, dtype=torch.float64)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_order_of_the_batch_does_not_matter(name: str) -> None:
    loss, make = LOSSES[name]
    z1, z2 = make(6, 8), make(6, 8)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(loss(z1[order], z2[order]), loss(z1, z2))
    assert not torch.allclose(loss(z1, z2[order]), loss(z1, z2))


@pytest.mark.parametrize("name", ["nt_xent", "cross_correlation", "negative_cosine", "vicreg"])
def test_views_may_change_places(name: str) -> None:
    loss, make = LOSSES[name]
    z1, z2 = make(6, 8), make(6, 8)
    torch.testing.assert_close(loss(z1, z2), loss(z2, z1))


@pytest.mark.parametrize("name", ["nt_xent", "batch_info_nce", "negative_cosine"])
def test_rotation_does_not_matter(name: str) -> None:
    loss, make = LOSSES[name]
    z1, z2 = make(6, 8), make(6, 8)
    rotation = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64)).Q
    torch.testing.assert_close(loss(z1 @ rotation, z2 @ rotation), loss(z1, z2))


@pytest.mark.parametrize("name", ["cross_correlation", "vicreg"])
def test_order_and_sign_of_features_do_not_matter(name: str) -> None:
    loss, make = LOSSES[name]
    z1, z2 = make(6, 8), make(6, 8)
    change = torch.eye(8, dtype=torch.float64)[torch.randperm(8)] * torch.tensor([1, -1] * 4)
    torch.testing.assert_close(loss(z1 @ change, z2 @ change), loss(z1, z2))


@pytest.mark.parametrize("name", LOSSES)
def test_agreeing_views_are_better(name: str) -> None:
    loss, make = LOSSES[name]
    z1, z2 = make(6, 8), make(6, 8)
    assert loss(z1, z1).sum() < loss(z1, z2).sum()


@pytest.mark.parametrize("name", LOSSES)
def test_gradients(name: str) -> None:
    loss, make = LOSSES[name]
    z1, z2 = make(4, 8).requires_grad_(), make(4, 8)
    assert torch.autograd.gradcheck(lambda z: loss(z, z2), z1)


def test_accuracies() -> None:
    z = unit(6, 8)
    assert nt_xent(z, z)[1] == batch_info_nce(z, z)[1] == queue_info_nce(z, z, -z)[1] == 1
    assert batch_info_nce(z, z.roll(1, 0))[1] == queue_info_nce(z, -z, z)[1] == 0


EXACT: dict[str, Callable[..., Any]] = {
    "nt_xent": nt_xent,
    "queue_info_nce": lambda q, k: queue_info_nce(q, k, q.flip(0)),
    "batch_info_nce": batch_info_nce,
    "cross_correlation": cross_correlation_loss,
    "negative_cosine": lambda z1, z2: (negative_cosine(z1, z2),),
    "vicreg": vicreg_terms,
}
# Widths and scales at which rounding shows: sums of thousands of squares, projections of length 40.
WIDE = {"cross_correlation": standardised, "vicreg": lambda *s: 3 * torch.randn(*s).double()}


def wide_inputs(name: str) -> tuple[Tensor, Tensor]:
    z1, z2 = (WIDE.get(name, unit)(256, 512) for _ in range(2))
    return z1, 0.9 * z1 + 0.1 * z2 if name == "cross_correlation" else z2


@pytest.mark.parametrize("name", EXACT)
def test_single_precision_is_exact_to_its_last_digits(name: str) -> None:
    z1, z2 = (z.float() for z in wide_inputs(name))
    exact = EXACT[name](z1.double(), z2.double())
    for value, expected in zip(EXACT[name](z1, z2), exact, strict=True):
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), expected.double(), rtol=2e-6, atol=1e-9)


def test_small_terms_beside_large_ones_are_exact() -> None:
    """The covariance is 1e-6 of the squared variances, whose difference would be rounding."""
    signs = torch.tensor([[1.0, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]])
    z = 100 * signs[:, 1:] + 1e-3 * torch.randn(4, 3)
    exact = vicreg_terms(z.double(), z.double())[2]
    torch.testing.assert_close(vicreg_terms(z, z)[2].double(), exact, rtol=1e-2, atol=0)
    z = signs[:, 1:] + 1e-4 * torch.randn(4, 3)
    exact = cross_correlation_loss(z.double(), z.double())[2]
    found = cross_correlation_loss(z, z)[2].double()
    torch.testing.assert_close(found, exact, rtol=1e-2, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", EXACT)
def test_half_precision_is_computed_in_single(name: str, dtype: torch.dtype) -> None:
    z1, z2 = (z.to(dtype) for z in wide_inputs(name))
    z1.requires_grad_()
    values = EXACT[name](z1, z2)
    for value, expected in zip(values, EXACT[name](z1.float(), z2.float()), strict=True):
        assert value.dtype == torch.float32
        assert torch.equal(value, expected)
    values[0].backward()
    assert z1.grad is not None
    assert z1.grad.isfinite().all()
    assert z1.grad.dtype == dtype


@pytest.mark.parametrize("name", EXACT)
def test_mismatched_shapes_are_refused(name: str) -> None:
    for first, second in (((4, 8), (6, 8)), ((4, 8), (4, 1)), ((4, 8), (1, 8)), ((4,), (4,))):
        with pytest.raises(ValueError, match=r"same shape, got \(4"):
            EXACT[name](torch.ones(first), torch.ones(second))


@pytest.mark.parametrize("shape", [(6, 7), (8,), (6, 8, 1)])
def test_a_queue_of_another_width_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="as wide as the keys"):
        queue_info_nce(torch.ones(4, 8), torch.ones(4, 8), torch.ones(shape))


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("rows", [0, 1])
def test_a_batch_that_is_too_small(name: str, rows: int) -> None:
    """Nothing becomes NaN without a word; without negatives, InfoNCE is 0 by its definition."""
    z1, z2 = torch.randn(rows, 8), torch.randn(rows, 8)
    if rows == 0 or name in ("cross_correlation", "vicreg"):
        with pytest.raises(ValueError, match=f"batch of {rows}"):
            EXACT[name](z1, z2)
        return
    assert all(value.isfinite() for value in EXACT[name](z1, z2))
    if name in ("nt_xent", "batch_info_nce"):
        assert EXACT[name](z1, z2)[0] == 0


def test_tensors_may_be_named() -> None:
    z1, z2 = unit(4, 8), unit(4, 8)
    assert nt_xent(z1=z1, z2=z2)[0] == nt_xent(z1, z2)[0]


def test_zero_projections_have_no_direction() -> None:
    z = torch.zeros(4, 8, requires_grad=True)
    loss = negative_cosine(z, torch.ones(4, 8))
    assert loss == 0
    loss.backward()
    assert z.grad is not None
    assert z.grad.isfinite().all()
