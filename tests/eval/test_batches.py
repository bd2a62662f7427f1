import torch

from cassle_zoo.eval.batches import Batches


def test_batches_are_shuffled_by_seed_and_cover_an_epoch():
    rows = torch.arange(10, 20)
    batches = Batches(rows, 5, 3, seed=0)
    drawn = list(batches)
    assert len(drawn) == len(batches) == 6
    for epoch in range(3):
        part = [draw for batch in drawn[2 * epoch : 2 * epoch + 2] for draw in batch]
        assert {number for number, _ in part} == {epoch}
        assert sorted(index for _, index in part) == rows.tolist()
    assert list(Batches(rows, 5, 3, seed=0)) == drawn
    assert list(Batches(rows, 5, 3, seed=1)) != drawn
    assert [index for _, index in drawn[0]] != [index for _, index in drawn[2]]


def test_fewer_images_than_a_batch():
    assert [len(batch) for batch in Batches(torch.arange(3), 64, 2, seed=0)] == [3, 3]
