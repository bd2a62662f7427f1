"""Processes that start again agree on a new name, whatever dead ones left in the store."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch.distributed as dist

from cassle_zoo.common.errors import CassleZooError
from cassle_zoo.train.distributed.rendezvous import Store, agree


def together(store: Store, count: int) -> list[str]:
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda rank: agree(store, rank, count, 60), reversed(range(count))))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_all_agree_and_never_twice_on_the_same_name(count: int) -> None:
    store = dist.HashStore()
    names = [together(store, count) for _ in range(3)]
    assert all(len(set(agreed)) == 1 for agreed in names)
    assert len({agreed[0] for agreed in names}) == 3


def test_words_of_the_dead_are_no_answer() -> None:
    store = dist.HashStore()
    with pytest.raises(CassleZooError, match="process 0 has not answered"):
        agree(store, 1, 2, 0.1)
    with pytest.raises(CassleZooError, match="process 1 of 2 has not come"):
        agree(store, 0, 2, 0.1)
    with pytest.raises(CassleZooError, match="process 0 has not answered"):
        agree(store, 1, 2, 0.1)
    assert len(set(together(store, 2))) == 1
