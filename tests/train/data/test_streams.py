"""Images that are read in their own order: WebDataset shards, and streams of timm."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from builders import make_image
from changes import change
from PIL import Image
from shard_files import write_shards
from start_methods import forked
from torch.utils.data import IterableDataset, default_collate

from cassle_zoo.checkpoints.run_checkpoint import load_checkpoint
from cassle_zoo.common.errors import ConfigError, DataError, NotEnoughMemoryError
from cassle_zoo.train import loop
from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.data import streams
from cassle_zoo.train.data.datasets import open_dataset
from cassle_zoo.train.data.loading import batches
from cassle_zoo.train.data.streams import TimmStream
from cassle_zoo.train.run.monitor import Monitor

pytest.importorskip("webdataset")


@pytest.fixture
def config(config: TrainConfig, tmp_path: Path) -> TrainConfig:
    """A run of 2 epochs of 6 steps."""
    write_shards(tmp_path / "shards")
    return change(config, "data", dataset="wds/tiny", root=str(tmp_path / "shards"))


def images_of(config: TrainConfig, first: int = 0, last: int = 6) -> list[int]:
    """Return the numbers of the images that batches are made of (views are unique to one)."""
    got = batches(config, open_dataset(config.data), first, last)
    return [hash(crops.numpy().tobytes()) for batch in got for crops in batch["crops"]]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_an_epoch_shows_every_image_once(config: TrainConfig, workers: int) -> None:
    run = change(config, "data", workers=workers)
    assert len(set(images_of(run))) == 24
    assert set(images_of(run)).isdisjoint(images_of(run, 6, 12))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_look_at_the_features_changes_nothing(config: TrainConfig, workers: int) -> None:
    run = change(config, "data", workers=workers)
    dataset = open_dataset(run.data)
    backbone = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    monitor = Monitor(dataset, run.augment, 20)
    seen = []
    for step, batch in enumerate(batches(run, dataset, 0, 12), 1):
        seen += [hash(crops.numpy().tobytes()) for crops in batch["crops"]]
        if step == 6:
            assert monitor(backbone, torch.device("cpu")) == monitor(backbone, torch.device("cpu"))
    assert seen == images_of(run, 0, 12)
    assert len(set(seen[24:])) == 24


@pytest.mark.parametrize(("workers", "stopped"), [(0, 9), (2, 5), (2, 9)])
def test_a_continued_run_is_the_undisturbed_one(
    config: TrainConfig, tmp_path: Path, fault_at: Any, workers: int, stopped: int
) -> None:
    run = change(config, "data", workers=workers)
    with fault_at(stopped, lambda: os.kill(os.getpid(), 15)):
        assert not loop.train(run, tmp_path / "a").finished
    assert loop.train(run, tmp_path / "a").finished
    assert loop.train(run, tmp_path / "b").finished
    a, b = (load_checkpoint(tmp_path / name)[0] for name in "ab")
    assert a is not None
    assert b is not None
    assert all(torch.equal(a["method"][key], b["method"][key]) for key in a["method"])


def test_the_workers_of_a_stream_stay_as_they_were(config: TrainConfig, tmp_path: Path) -> None:
    assert loop.train(config, tmp_path / "run").finished
    with pytest.raises(ConfigError, match=r"data\.workers: 0 there, 2 now"):
        loop.train(change(config, "data", workers=2), tmp_path / "run")


class Remembering(IterableDataset[Any]):
    """Goes on where it was left, as some of timm's streams do."""

    def __init__(self, seed: int = 42) -> None:
        self.seed, self.epoch, self.done = seed, 0, 0
        self.reader = SimpleNamespace(dist_rank=0, dist_num_replicas=1)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[Image.Image, int]]:
        while self.done < 24:
            self.done += 1
            yield make_image(self.done, (16, 16)), 0

    def __len__(self) -> int:
        return 24


def test_other_streams_are_opened_anew(config: TrainConfig) -> None:
    stream = TimmStream(Remembering, 24)
    for _ in range(2):
        list(zip(range(5), stream, strict=False))
        got = list(batches(config, stream, 0, 6))
        assert len({crops.numpy().tobytes() for batch in got for crops in batch["crops"]}) == 24


def test_other_streams_have_the_seed_of_the_run_and_the_rank_of_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[Remembering] = []

    def open_stream(**options: Any) -> Remembering:
        opened.append(Remembering(**options))
        return opened[-1]

    with monkeypatch.context() as patch:  # which a worker that is spawned does not inherit
        patch.setattr(streams, "rank", lambda: 1)
        patch.setattr(streams, "world_size", lambda: 2)
        stream = TimmStream(open_stream, 24)
    for seed, epoch, repeat in ((0, 0, 0), (0, 3, 0), (0, 0, 1), (1, 0, 0)):
        assert len(list(stream.read(seed, epoch, repeat))) == 24
    assert {(one.reader.dist_rank, one.reader.dist_num_replicas) for one in opened} == {(1, 2)}
    assert [one.epoch for one in opened] == [0, 3, 0, 0]
    first, second, repeated, other = (one.seed for one in opened)
    assert first == second
    assert len({first, repeated, other}) == 3


class Broken(Remembering):
    def __iter__(self) -> Iterator[tuple[Image.Image, int]]:
        yield Image.new("RGB", (40, 40)), 0
        raise OSError("image file is truncated")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stream_that_breaks_off(config: TrainConfig, workers: int) -> None:
    stream = TimmStream(Broken, 24)
    said = r"broke off after 1 images \(OSError: image file is truncated\)\. .* shards .* can\."
    with pytest.raises(DataError, match=f"^the stream {said}$"):
        next(batches(change(config, "data", workers=workers), stream, 0, 1))
    with pytest.raises(DataError, match=said):
        list(stream)


def test_a_batch_in_the_making_holds_no_open_files(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared: list[bool] = []

    def collate(samples: list[dict[str, torch.Tensor]]) -> Any:
        shared.extend(value.is_shared() for sample in samples for value in sample.values())
        return default_collate(samples)

    monkeypatch.setattr(streams, "default_collate", collate)
    run = change(config, "data", workers=1)
    assert len(list(batches(run, open_dataset(run.data), 0, 1))) == 1
    assert len(shared) == 4 * len(("crops", "uniforms", "source", "bad"))
    assert not any(shared)


@forked
def test_a_stop_signal_at_a_workers_start_does_not_end_it(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker_loop = torch.utils.data._utils.worker._worker_loop

    def stopped_at_once(*args: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        worker_loop(*args)

    monkeypatch.setattr(torch.utils.data._utils.worker, "_worker_loop", stopped_at_once)
    assert len(set(images_of(change(config, "data", workers=1)))) == 24


@forked
def test_no_room_in_shared_memory_is_explained(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def share(_: object) -> None:
        full = "unable to allocate shared memory(shm) for file </torch_1_2>: No space left (28)"
        raise RuntimeError(full)

    monkeypatch.setattr(torch.Tensor, "share_memory_", share)
    said = r"\(28\)\)\. Enlarge /dev/shm.*--data\.workers"
    with pytest.raises(NotEnoughMemoryError, match=said):
        loop.train(change(config, "data", workers=1), tmp_path / "run")
