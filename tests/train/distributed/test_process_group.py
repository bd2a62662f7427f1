"""Two processes with half of the batch each give the gradients of one process with all of it."""

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from changes import small_method
from torch import Tensor, nn

from cassle_zoo.common.errors import CassleZooError, ConfigError
from cassle_zoo.projector import ProjectorConfig
from cassle_zoo.train.distributed import process_group
from cassle_zoo.train.distributed.process_group import agree_on_prefix, all_gather, all_gather_cpu
from cassle_zoo.train.methods import METHODS, Method, Views
from cassle_zoo.train.methods.dino import DINO
from cassle_zoo.train.methods.mocov2 import MoCoV2

PROCESSES = 2
BATCH = 8


def build(name: str) -> Method:
    """A method without BatchNorm, whose statistics SyncBatchNorm would join (on GPUs only)."""
    torch.manual_seed(0)
    shape = ProjectorConfig(
        in_features=6, out_features=8, depth=1, conditioning="raw_cat", descriptors=("crop",)
    )
    method = small_method(name).build(nn.Linear(5, 6), shape).double()
    for parent in method.modules():
        for child_name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm1d):
                setattr(parent, child_name, nn.Identity())
    return method


def views() -> Views:
    torch.manual_seed(1)
    x1, x2, w1, w2 = (torch.randn(BATCH, n, dtype=torch.float64) for n in (5, 5, 4, 4))
    return Views(images=(x1, x2), descriptors=(w1, w2))


def part(joint: Views, rank: int) -> Views:
    rows = slice(rank * BATCH // PROCESSES, (rank + 1) * BATCH // PROCESSES)
    (x1, x2), (w1, w2) = joint.images, joint.descriptors
    return Views(images=(x1[rows], x2[rows]), descriptors=(w1[rows], w2[rows]))


def gradients(name: str, batch: Views, average: Callable[[Tensor], None]) -> dict[str, Tensor]:
    """Of two steps: gradients, joined as DistributedDataParallel does, logs, and the queue."""
    method = build(name)
    result = {}
    for step in range(2):
        method.zero_grad()
        loss, logs = method(batch)
        loss.backward()
        for key, value in logs.items():
            result[f"{step}/logs/{key}"] = value.detach().clone()
            average(result[f"{step}/logs/{key}"])
        for key, p in method.named_parameters():
            if p.grad is not None:
                average(p.grad)
                result[f"{step}/{key}"] = p.grad.clone()
                p.data.sub_(p.grad, alpha=0.1)
        method.after_step(0.5)
    if isinstance(method, DINO):
        result["center"] = method.center
    if isinstance(method, MoCoV2):
        result |= {"queue": method.queue.clone(), "position": method.position.clone()}
    return result


def average_over_processes(grad: Tensor) -> None:
    dist.all_reduce(grad)
    grad.div_(PROCESSES)


def work(rank: int, folder: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=PROCESSES
    )
    result = {
        name: gradients(name, part(views(), rank), average_over_processes) for name in METHODS
    }
    x = torch.full((2, 3), float(rank), requires_grad=True)
    joint = all_gather(x)
    (joint * torch.arange(12.0).view(4, 3) * (rank + 1)).sum().backward()
    assert x.grad is not None
    result["all_gather"] = {"joint": joint.detach(), "grad": x.grad}
    torch.save(result, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    folder: Path = tmp_path_factory.mktemp("processes")
    mp.spawn(work, (str(folder),), nprocs=PROCESSES)  # type: ignore[attr-defined]
    return [torch.load(folder / f"{rank}.pt") for rank in range(PROCESSES)]


@pytest.mark.parametrize("name", METHODS)
def test_gradients_and_logs_equal_those_of_one_process(
    results: list[dict[str, dict[str, Tensor]]], name: str
) -> None:
    expected = gradients(name, views(), lambda _: None)
    assert any(value.abs().max() > 1e-3 for value in expected.values())
    for result in results:
        assert result[name].keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(result[name][key], value, rtol=0, atol=1e-10)


def test_all_gather(results: list[dict[str, dict[str, Tensor]]]) -> None:
    for rank, result in enumerate(results):
        assert result["all_gather"]["joint"][:, 0].tolist() == [0, 0, 1, 1]
        rows = torch.arange(12.0).view(4, 3)[2 * rank : 2 * rank + 2]
        assert torch.equal(result["all_gather"]["grad"], 3 * rows)  # weights 1 and 2


def test_one_process_gathers_nothing() -> None:
    x = torch.randn(3)
    assert all_gather(x) is x
    assert all_gather_cpu(x, torch.device("meta")) is x


@pytest.fixture
def second_of_two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of the second of two processes, on a machine that seems to have two GPUs."""
    ranks = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    for name, value in (ranks | {"MASTER_ADDR": "localhost", "MASTER_PORT": "1"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(process_group, "pick_device", torch.device)
    for where, name in (
        (torch.cuda, "set_device"),
        (dist, "init_process_group"),
        (dist, "barrier"),
        (dist, "destroy_process_group"),
    ):
        monkeypatch.setattr(where, name, lambda *_, **__: None)


@pytest.mark.usefixtures("second_of_two_gpus")
@pytest.mark.parametrize("device", [None, "cuda"])
def test_each_process_gets_its_own_gpu(device: str | None) -> None:
    with process_group.init(device, timeout=1) as own:
        assert own == torch.device("cuda:1")


@pytest.mark.usefixtures("second_of_two_gpus")
def test_one_gpu_for_all_processes_is_refused() -> None:
    with (
        pytest.raises(ConfigError, match="cuda:0 is one GPU for all processes"),
        process_group.init("cuda:0", 1),
    ):
        pass


def test_the_gpu_of_one_process_is_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    current = [torch.device("cuda:0")]

    @contextlib.contextmanager
    def use(device: torch.device) -> Iterator[None]:
        current.append(device)
        yield
        current.pop()

    monkeypatch.setattr(process_group, "pick_device", torch.device)
    monkeypatch.setattr(torch.cuda, "device", use)
    with process_group.init("cuda:1", timeout=1) as own:
        assert current[-1] == own == torch.device("cuda:1")
    assert current == [torch.device("cuda:0")]


def together(store: Any, count: int) -> list[str]:
    with ThreadPoolExecutor(count) as pool:
        return list(
            pool.map(lambda rank: agree_on_prefix(store, rank, count, 60), reversed(range(count)))
        )


@pytest.mark.parametrize("count", [1, 2, 5])
def test_all_agree_and_never_twice_on_the_same_prefix(count: int) -> None:
    store = dist.HashStore()  # type: ignore[attr-defined]
    prefixes = [together(store, count) for _ in range(3)]
    assert all(len(set(agreed)) == 1 for agreed in prefixes)
    assert len({agreed[0] for agreed in prefixes}) == 3


def test_tokens_of_dead_processes_are_not_answered() -> None:
    store = dist.HashStore()  # type: ignore[attr-defined]
    with pytest.raises(CassleZooError, match="process 0 has not answered"):
        agree_on_prefix(store, 1, 2, 0.1)
    with pytest.raises(CassleZooError, match="process 1 of 2 has not come"):
        agree_on_prefix(store, 0, 2, 0.1)
    with pytest.raises(CassleZooError, match="process 0 has not answered"):
        agree_on_prefix(store, 1, 2, 0.1)
    assert len(set(together(store, 2))) == 1


def test_a_needless_warning_of_every_resnet_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    for name in ("init_process_group", "barrier", "destroy_process_group"):
        monkeypatch.setattr(dist, name, lambda *_, **__: None)
    with warnings.catch_warnings(record=True) as shown, process_group.init("cpu", 1):
        warnings.warn("Grad strides do not match bucket view strides. This may", stacklevel=1)
        warnings.warn("another", stacklevel=1)
    assert [str(one.message) for one in shown] == ["another"]
