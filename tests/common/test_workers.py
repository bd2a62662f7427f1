"""Workers whose batches do not fit into shared memory say so; the main process never waits."""

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import encoded, make_image
from start_methods import forked, spawning
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import pil_to_tensor

from cassle_zoo.common import workers as common_workers
from cassle_zoo.common.errors import DataError, NotEnoughMemoryError
from cassle_zoo.common.workers import share_batch
from cassle_zoo.data.readers import ImageFiles
from cassle_zoo.eval.batches import read_batches
from cassle_zoo.features.extract import Extractor, extract_features

FULL = "unable to allocate shared memory(shm) for file </torch_1_2>: No space left on device (28)"


@dataclass
class Pair:
    images: torch.Tensor
    names: list[str]


class Samples(Dataset[Any]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.full((3, 8, 8), index / 10)


class Handlers(Dataset[Any]):
    def __getitem__(self, _: int) -> Any:
        return signal.getsignal(signal.SIGINT)


def stack(samples: list[Any]) -> Any:
    return {"a": [Pair(torch.stack(samples), ["x"])]}


class Shared(Dataset[Any]):
    def __getitems__(self, indices: list[int]) -> Any:
        batch = share_batch(stack([Samples()[index] for index in indices]))
        return batch["a"][0].images.is_shared()


def unchanged(batch: Any) -> Any:
    return batch


def test_tensors_anywhere_in_a_batch_are_shared_in_workers_only() -> None:
    for workers, shared in ((0, False), (1, True)):
        loader: DataLoader[Any] = DataLoader(
            Shared(), sampler=range(2), batch_size=2, num_workers=workers, collate_fn=unchanged
        )
        assert list(loader) == [shared]


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave no shared memory for the workers, which are forked."""

    def share(_: object) -> None:
        raise RuntimeError(FULL)

    monkeypatch.setattr(torch.Tensor, "share_memory_", share)


@forked
@pytest.mark.usefixtures("full")
def test_extraction_explains_it() -> None:
    model = torch.nn.Flatten()
    for run in (
        lambda: extract_features(model, Samples(), num_workers=2, transform="as_is"),
        lambda: list(Extractor(model, transform="as_is").stream(Samples(), workers=1)),
    ):
        with pytest.raises(NotEnoughMemoryError, match=r"\(28\)\)\. Enlarge /dev/shm.*0 workers"):
            run()
    assert len(extract_features(model, Samples(), transform="as_is")) == 4


@forked
@pytest.mark.usefixtures("full")
def test_evaluation_explains_it() -> None:
    with pytest.raises(NotEnoughMemoryError, match="Enlarge /dev/shm"):
        list(read_batches(Samples(), [[0, 1]], workers=1, collate=stack))
    assert len(list(read_batches(Samples(), [[0, 1]], workers=0, collate=stack))) == 1


def test_evaluations_workers_leave_stop_signals_to_the_main_process() -> None:
    [[handler]] = read_batches(Handlers(), [[0]], workers=1, collate=list)
    assert handler is signal.SIG_IGN


def test_other_errors_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def share(_: object) -> None:
        raise RuntimeError("another")

    monkeypatch.setattr(common_workers, "get_worker_info", object)
    monkeypatch.setattr(common_workers, "_share", share)
    with pytest.raises(RuntimeError, match="another"):
        share_batch(torch.zeros(1))


def test_spawned_workers_have_pillows_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cut.jpg").write_bytes(encoded(make_image(0, (32, 32)), "JPEG")[:-50])
    make_image(0, (100, 100)).save(tmp_path / "large.png")
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 1000)
    monkeypatch.setattr("PIL.ImageFile.LOAD_TRUNCATED_IMAGES", True)
    images = ImageFiles(tmp_path, ["cut.jpg", "large.png"])
    with spawning():
        batches = read_batches(images, [[0], [1]], workers=1, collate=list)
        [(image, _)] = next(batches)
        assert image.tobytes() == images[0][0].tobytes()
        with pytest.raises(DataError, match="more than 2,000 pixels"):
            next(batches)
    with spawning(), pytest.raises(DataError, match="more than 2,000 pixels"):
        extract_features(
            torch.nn.Flatten(), tmp_path / "large.png", num_workers=1, transform=pil_to_tensor
        )
