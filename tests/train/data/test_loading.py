import json
import os
import pickle
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import write_tar
from changes import change
from PIL import Image
from torch.utils.data import DataLoader

from cassle_zoo.common.errors import DataError
from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.data import loading as data
from cassle_zoo.train.data.datasets import open_dataset
from cassle_zoo.train.data.loading import batches, steps_per_epoch
from cassle_zoo.train.data.streams import Sample
from cassle_zoo.train.run.faults import BadImages


def read(config: TrainConfig, first: int = 0, last: int = 10) -> list[Sample]:
    return list(batches(config, open_dataset(config.data), first, last))


def assert_same(left: list[Sample], right: list[Sample]) -> None:
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            assert torch.equal(a[key], b[key])


def test_batches(config: TrainConfig) -> None:
    got = read(config)
    assert len(got) == 10
    assert got[0]["crops"].shape == (4, 2, 3, 32, 32)
    assert got[0]["crops"].dtype == torch.uint8
    assert got[0]["source"].tolist() == [[20, 28]] * 4
    assert not torch.equal(got[0]["crops"][:, 0], got[0]["crops"][:, 1])


class AsWideAsNice:
    def __len__(self) -> int:
        return 12

    def __getitem__(self, _: int) -> tuple[Image.Image, int]:
        return Image.new("RGB", (20 + os.nice(0), 20)), 0


def test_workers_leave_the_processors_to_the_computation(config: TrainConfig) -> None:
    config = change(change(config, "run", device="cpu"), "data", workers=1)
    (batch,) = batches(config, AsWideAsNice(), 0, 1)
    assert (batch["source"][:, 1] == 20 + min(19, os.nice(0) + 10)).all()


@pytest.mark.parametrize(("device", "pinned"), [(None, True), ("cpu", False)])
def test_batches_are_pinned_for_the_gpu_of_the_run(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, device: str | None, pinned: bool
) -> None:
    monkeypatch.setattr(data, "pick_device", lambda name: torch.device(name or "cuda"))
    asked: list[bool] = []

    class Loader(DataLoader[Any]):
        def __init__(self, *args: Any, pin_memory: bool, **kwargs: Any) -> None:
            asked.append(pin_memory)
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(data, "DataLoader", Loader)
    config = change(config, "run", device=device)
    assert len(list(batches(config, AsWideAsNice(), 0, 1))) == 1
    assert asked == [pinned]


def test_epochs_differ_and_cover_the_data(config: TrainConfig) -> None:
    from cassle_zoo.train.data.loading import epoch_batches

    keys = list(epoch_batches(22, 4, 0, range(10)))
    assert len({sample for batch in keys[:5] for _, sample in batch}) == 20
    assert [epoch for batch in keys for epoch, _ in batch] == [0] * 20 + [1] * 20
    assert keys[:5] != [[(0, s) for _, s in batch] for batch in keys[5:]]
    assert keys != list(epoch_batches(22, 4, 1, range(10)))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_matter(config: TrainConfig, workers: int) -> None:
    assert_same(read(config), read(change(config, "data", workers=workers)))


@pytest.mark.parametrize("first", [1, 5, 7])
def test_any_start_gives_the_same_rest(config: TrainConfig, first: int) -> None:
    assert_same(read(config)[first:], read(config, first))


def test_flat_folder_and_tar(config: TrainConfig, images: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in sorted(images.rglob("*.png")):
        shutil.copy(path, flat)
    with tarfile.open(tmp_path / "flat.tar", "w") as tar:
        tar.add(images, ".")
    for root in (flat, tmp_path / "flat.tar"):
        assert read(change(config, "data", root=str(root)), 0, 1)[0]["crops"].shape[0] == 4


def test_bad_image_is_replaced_and_reported(
    config: TrainConfig, images: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(images, copy)
    victim = copy / "class1" / "07.png"
    victim.write_bytes(victim.read_bytes()[:200])
    config = change(config, "data", root=str(copy))
    got = read(config, 0, 10)
    assert len(torch.cat([batch["uniforms"] for batch in got]).unique(dim=0)) == 40
    bad = torch.cat([batch["bad"] for batch in got])
    assert len(set(bad[bad >= 0].tolist())) == 1
    guard = BadImages(open_dataset(config.data), max_fraction=0.05)
    assert guard.note(bad) == [repr(str(Path("class1") / "07.png"))]
    assert guard.note(bad) == []
    with pytest.raises(DataError, match=r"07\.png.*max-bad-fraction"):
        BadImages(open_dataset(config.data), max_fraction=0.01).note(bad)


def test_all_images_bad(config: TrainConfig, tmp_path: Path) -> None:
    for index in range(22):
        (tmp_path / f"{index}.jpg").write_bytes(b"not an image")
    with pytest.raises(DataError, match="one after the other"):
        read(change(config, "data", root=str(tmp_path)))


@pytest.mark.parametrize(
    ("dataset", "root", "said"),
    [
        ("emoji64", "does/not/exist", "does/not/exist"),
        ("", "does/not/exist", "check the path"),
        ("", "s3://bucket", "addresses are not read"),
    ],
)
def test_missing_data(config: TrainConfig, dataset: str, root: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        open_dataset(change(config, "data", dataset=dataset, root=root).data)


def test_folder_without_images(config: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no images here")
    with pytest.raises(DataError, match="cannot open"):
        open_dataset(change(config, "data", root=str(tmp_path)).data)


def test_fewer_images_than_a_batch() -> None:
    with pytest.raises(DataError, match=r"--optim\.batch-size 22 or less"):
        steps_per_epoch(range(22), 23)
    assert steps_per_epoch(range(22), 22) == 1


def write_shard(folder: Path, members: dict[str, bytes], filename: str = "train.tar") -> None:
    write_tar(folder / "train.tar", members)
    split = {"name": "train", "num_samples": 22, "filenames": [filename], "shard_lengths": [22]}
    (folder / "_info.json").write_text(json.dumps({"splits": {"train": split}}))


def test_webdataset_stream(config: TrainConfig, images: Path, tmp_path: Path) -> None:
    pytest.importorskip("webdataset")
    members = {}
    for index, path in enumerate(sorted(images.rglob("*.png"))):
        members[f"{index:06d}.png"] = path.read_bytes()
        members[f"{index:06d}.cls"] = str(index % 2).encode()
    write_shard(tmp_path, members)
    config = change(config, "data", dataset="wds/images", root=str(tmp_path), workers=1)
    everything = read(config)
    assert len(everything) == 10
    assert_same(everything[7:], read(config, 7))


class Trap:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("filename", ["train.tar", "pipe:touch {mark}", "pipe:touch {mark} #.tar"])
def test_shards_run_no_code(
    config: TrainConfig, images: Path, tmp_path: Path, filename: str
) -> None:
    pytest.importorskip("webdataset")
    mark = tmp_path / "mark"
    trap, image = pickle.dumps(Trap(mark)), next(images.rglob("*.png")).read_bytes()
    endings = {"png": image, "cls": b"0", "pyd": trap, "pickle": trap, "pth": trap, "npz": trap}
    members = {f"{i:06d}.{end}": content for i in range(22) for end, content in endings.items()}
    write_shard(tmp_path, members, filename.format(mark=mark))
    config = change(config, "data", dataset="wds/images", root=str(tmp_path))
    if filename == "train.tar":
        assert len(read(config, 0, 1)) == 1
    else:
        with pytest.raises(DataError):
            read(config, 0, 1)
    assert not mark.exists()
    pickle.loads(trap)
    assert mark.exists()
