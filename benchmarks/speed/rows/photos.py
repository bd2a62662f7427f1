"""Features from folders and shards of JPEGs, end to end, beside timm's loop; resnet50 at 224 px."""

import io
import statistics
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from timm.data import create_dataset, create_loader
from timm.data.config import resolve_model_data_config
from torch.nn.functional import cosine_similarity

from benchmarks.speed.timing import Check, Row, medians, take_turns, times_faster
from benchmarks.speed.workloads import jpeg_folder, photo
from cassle_zoo import create_model, extract_features
from cassle_zoo.features.extract import Extractor
from cassle_zoo.features.inputs import expand_inputs

NAME, SIZE, BATCH = "resnet50_cassle_simclr", 224, 32
_OF_TRANSFORM = ("input_size", "interpolation", "mean", "std", "crop_pct")
LARGE, LARGE_FILES, SMALL_FILES = (4032, 3024), 16, 64


def measure_large(rounds: int) -> Row:
    """Measure on a folder of photos of a phone."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "class")
        place.mkdir()
        for seed in range(LARGE_FILES):
            image = photo(seed, *LARGE)
            image.save(place / f"{seed:05d}.jpg", quality=90)
        return _measure(rounds, Path(folder), LARGE_FILES, "JPEGs of 4032x3024", 3)


def measure_small(rounds: int) -> Row:
    """Measure on a folder of JPEGs of ImageNet's size, and on shards of the same."""
    with tempfile.TemporaryDirectory() as folder:
        root = jpeg_folder(Path(folder, "images"), SMALL_FILES)
        shard = Path(folder, "a-0000.tar")
        with tarfile.open(shard, "w") as tar:
            for file in sorted(root.rglob("*.jpg")):
                content = file.read_bytes()
                member = tarfile.TarInfo(file.name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        return _measure(rounds, root, SMALL_FILES, "JPEGs of 500x375", 4, shard)


def _measure(
    rounds: int, root: Path, count: int, what: str, goal: float, shard: Path | None = None
) -> Row:
    overlay = {"input_size": (3, SIZE, SIZE)}
    model = create_model(NAME, pretrained=True, pretrained_cfg_overlay=overlay).eval()
    extractor = Extractor(model, device="cpu", precision="auto")
    inputs, _ = expand_inputs(root)
    read = extractor._reader(inputs, 0).read
    batches = [list(range(count))[start : start + BATCH] for start in range(0, count, BATCH)]
    ready = [read(batch)[0] for batch in batches]

    def ours(source: Path, precision: str, decode: str = "fast") -> Any:
        return extract_features(
            model, source, batch_size=BATCH, precision=precision, device="cpu", decode=decode
        ).features

    contestants: dict[str, Callable[[], Any]] = {
        "auto": lambda: ours(root, "auto"),
        "fp32": lambda: ours(root, "fp32"),
        "auto, exact": lambda: ours(root, "auto", "exact"),
        "timm": lambda: _timm(model, root),
        "decode alone": lambda: [read(batch) for batch in batches],
        "network alone (auto)": lambda: [extractor.compute(x) for x in ready if x is not None],
    }
    if shard is not None:
        contestants["auto, shards"] = lambda: ours(shard, "auto")
    features = {name: contestants[name]() for name in ("auto", "fp32", "timm")}
    exact = ours(root, "fp32", "exact")
    seconds = take_turns(contestants, rounds, warm=0)
    median = medians(seconds)
    alone = zip(seconds["decode alone"], seconds["network alone (auto)"], strict=True)
    bound = statistics.median(
        (decode + network) / whole
        for (decode, network), whole in zip(alone, seconds["auto"], strict=True)
    )
    cosines = {name: float(cosine_similarity(features[name], exact).min()) for name in features}
    checks = [
        Check("auto / timm", times_faster(seconds, "auto", "timm"), at_least=goal),
        Check("fp32 / timm", times_faster(seconds, "fp32", "timm")),
        Check("auto: fraction of decode + network alone", bound, at_least=0.95),
        Check("fp32, fast: smallest cosine to exact", cosines["fp32"], at_least=0.9999),
        Check("auto, fast: smallest cosine to fp32, exact", cosines["auto"], at_least=0.999),
        Check("timm: smallest cosine to exact", cosines["timm"]),
    ]
    if shard is not None:
        checks.append(
            Check("auto from shards / timm", times_faster(seconds, "auto, shards", "timm"))
        )
    return Row(
        title=f"features end to end, resnet50, 224 px, {what}",
        amounts={name: count / own for name, own in median.items()},
        unit="img/s",
        checks=checks,
        seconds=seconds,
    )


def _timm(model: Any, root: Path) -> Any:
    """Do what timm's inference script does, in this process."""
    config = resolve_model_data_config(model)  # type: ignore[no-untyped-call]
    loader = create_loader(
        create_dataset("", root=str(root)),
        batch_size=BATCH,
        use_prefetcher=False,
        num_workers=0,
        persistent_workers=False,
        device=torch.device("cpu"),
        **{key: config[key] for key in _OF_TRANSFORM},
    )
    with torch.inference_mode():
        return torch.cat([model(images) for images, _ in loader])
