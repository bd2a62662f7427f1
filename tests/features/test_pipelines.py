"""Extractor inside the packages that read data: datasets, ray.data, a plain DataLoader; S3."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import encoded, make_image
from small_models import make_model
from torch import nn
from torch.utils.data import DataLoader

from cassle_zoo.features.extract import Extractor, extract_features

IMAGES = [make_image(index) for index in range(12)]


@pytest.fixture(scope="module")
def expected(model: nn.Module) -> np.ndarray:
    found: np.ndarray = extract_features(model, IMAGES).features.numpy()
    return found


def in_worker(batch: list[Any]) -> Any:
    torch.set_num_threads(1)
    return Extractor(make_model().eval(), device="cpu")(batch)["pooled"]


@pytest.mark.slow
def test_dataloader_with_two_workers(model: nn.Module, expected: np.ndarray) -> None:
    loader: DataLoader[Any] = DataLoader(
        IMAGES,  # type: ignore[arg-type]
        batch_size=5,
        num_workers=2,
        collate_fn=in_worker,
    )
    np.testing.assert_allclose(torch.cat(list(loader)), expected, atol=1e-5)
    shipped: DataLoader[Any] = DataLoader(
        IMAGES,  # type: ignore[arg-type]
        batch_size=5,
        num_workers=2,
        collate_fn=Extractor(model, device="cpu"),
        multiprocessing_context="spawn",
    )
    found = torch.cat([batch["pooled"] for batch in shipped])
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.slow
def test_datasets_map_with_two_processes(model: nn.Module, expected: np.ndarray) -> None:
    datasets = pytest.importorskip("datasets")
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])}
    dataset = datasets.Dataset.from_dict(
        {"image": IMAGES, "label": [0, 1] * 6}, features=datasets.Features(kinds)
    )
    extractor = Extractor(model, outputs=("pooled", "stage:1"), device="cpu")
    found = dataset.map(extractor, batched=True, batch_size=5, num_proc=2, remove_columns=["image"])
    assert found.features["label"] == kinds["label"]
    assert found["label"] == [0, 1] * 6 or list(found["label"]) == [0, 1] * 6
    np.testing.assert_allclose(np.array(found["pooled"]), expected, atol=1e-5)
    assert np.array(found["stage:1"]).shape == (12, 32)


@pytest.mark.slow
def test_ray_data_with_two_workers(model: nn.Module, expected: np.ndarray) -> None:
    ray = pytest.importorskip("ray")
    pytest.importorskip("ray.data")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        rows = [{"id": i, "image": np.asarray(image)} for i, image in enumerate(IMAGES)]
        dataset = ray.data.from_items(rows, override_num_blocks=4)
        made = dataset.map_batches(Extractor(model, device="cpu"), batch_size=3)
        actors = dataset.map_batches(
            Extractor,
            fn_constructor_args=(model,),
            fn_constructor_kwargs={"device": "cpu"},
            batch_size=3,
            concurrency=2,
        )
        for found in (made.take_all(), actors.take_all()):
            table = np.stack([row["pooled"] for row in sorted(found, key=lambda row: row["id"])])
            np.testing.assert_allclose(table, expected, atol=1e-5)
    finally:
        ray.shutdown()


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server_of = pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    server = server_of.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    for variable, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(variable, value)
    s3fs.S3FileSystem.clear_instance_cache()
    place = s3fs.S3FileSystem()
    name = f"bucket-{port}"  # all servers of a process share their buckets
    place.mkdir(name)
    for index, image in enumerate(IMAGES):
        place.pipe(f"{name}/sub/{index:02d}.png", encoded(image))
    place.pipe(f"{name}/notes.txt", b"none")
    try:
        yield f"s3://{name}"
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        server.stop()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_s3(
    model: nn.Module, expected: np.ndarray, bucket: str, workers: int, tmp_path: Path
) -> None:
    (tmp_path / "l.txt").write_text("".join(f"{bucket}/sub/{i:02d}.png\n" for i in range(12)))
    for place in (bucket, f"{bucket}/**/*.png", tmp_path / "l.txt"):
        found = extract_features(model, place, num_workers=workers, batch_size=5)
        assert found.sources == [f"{bucket}/sub/{index:02d}.png" for index in range(12)]
        np.testing.assert_allclose(found.features, expected, atol=1e-5)
