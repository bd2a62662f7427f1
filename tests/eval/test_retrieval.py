import pytest
import torch

from cassle_zoo.errors import DataError
from cassle_zoo.eval.retrieval import recall_at_k

GALLERY = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
LABELS = torch.tensor([10, 11, 12])


def test_by_hand():
    queries = torch.tensor([[5.0, 0.1], [0.1, 0.2], [0.0, -1.0]])
    labels = torch.tensor([10, 11, 12])
    # Nearest first: 10 12 11; 12 11 10; 10 12 11.
    assert recall_at_k(queries, labels, GALLERY, LABELS) == pytest.approx(1 / 3)
    assert recall_at_k(queries, labels, GALLERY, LABELS, k=2) == pytest.approx(1.0)


def test_chunks_do_not_matter():
    generator = torch.Generator().manual_seed(0)
    gallery = torch.randn(500, 16, generator=generator)
    queries = gallery + torch.randn(500, 16, generator=generator)
    labels = torch.arange(500) // 2
    expected = recall_at_k(queries, labels, gallery, labels, k=3)
    assert 0.2 < expected < 0.9
    found = recall_at_k(queries, labels, gallery, labels, k=3, chunk=7, gallery_chunk=13)
    assert found == expected


def test_wrong_data():
    with pytest.raises(DataError, match="1 query labels do not occur in the gallery"):
        recall_at_k(GALLERY, LABELS, GALLERY[:2], LABELS[:2])
    with pytest.raises(DataError, match="no queries"):
        recall_at_k(GALLERY[:0], LABELS[:0], GALLERY, LABELS)
    with pytest.raises(DataError, match="3 and 2 labels"):
        recall_at_k(GALLERY, LABELS, GALLERY, LABELS[:2])
