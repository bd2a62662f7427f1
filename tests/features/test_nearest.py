import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from cassle_zoo.common.errors import DataError
from cassle_zoo.features.nearest import nearest_by_cosine


def features(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 12, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize(("chunk", "gallery_chunk"), [(33, 50), (1, 7), (80, 2), (512, 16_384)])
def test_agrees_with_the_whole_matrix(chunk: int, gallery_chunk: int, exclude_self: bool) -> None:
    gallery = features(300) * torch.rand(300, 1).add(0.1)
    queries = gallery if exclude_self else features(80, seed=1)
    full = cosine_similarity(queries[:, None], gallery[None], dim=2)
    if exclude_self:
        full.fill_diagonal_(-2)
    expected = full.topk(9, dim=1)
    cosine, index = nearest_by_cosine(
        gallery, queries, 9, chunk=chunk, gallery_chunk=gallery_chunk, exclude_self=exclude_self
    )
    torch.testing.assert_close(cosine, expected.values)
    assert torch.equal(index, expected.indices)


def test_no_more_neighbours_than_there_are() -> None:
    gallery = features(4)
    assert nearest_by_cosine(gallery, features(3), 9)[0].shape == (3, 4)
    cosine, index = nearest_by_cosine(gallery, gallery, 9, gallery_chunk=2, exclude_self=True)
    assert cosine.isfinite().all()
    assert all(own not in row for own, row in enumerate(index.tolist()))


def test_squares_beyond_the_range_of_float32() -> None:
    gallery = features(20)
    expected = nearest_by_cosine(gallery, gallery, 3)
    cosine, index = nearest_by_cosine(gallery * 1e25, gallery, 3)
    torch.testing.assert_close(cosine, expected[0], atol=1e-5, rtol=0)
    assert torch.equal(index, expected[1])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_finite(value: float) -> None:
    broken = features(5)
    broken[3, 2] = value
    for gallery, queries in ((broken, features(2)), (features(2), broken)):
        with pytest.raises(DataError, match="not finite"):
            nearest_by_cosine(gallery, queries, 1)


def test_features_of_a_network_that_is_being_trained() -> None:
    gallery = features(5).requires_grad_()
    cosine, _ = nearest_by_cosine(gallery, gallery, 2)
    assert not cosine.requires_grad
