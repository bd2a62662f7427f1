"""Features from folders and shards of JPEGs, end to end, beside peers; resnet50 at 224 px.

Beside timm's loop and lightly-train's `embed`: all in this process, without data workers, with the
same threads. The goals are for `auto`, bf16 where the processor computes in it, against the fastest
peer in any precision.
"""

import copy
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

from benchmarks.speed.lightly_train import Embedder
from benchmarks.speed.timing import Check, Row, medians, take_turns, times_faster
from benchmarks.speed.workloads import jpeg_folder
from cassle_zoo import create_model, extract_features
from cassle_zoo.common.devices import autocast_dtype
from cassle_zoo.features.extract import Extractor
from cassle_zoo.features.inputs import expand_inputs

NAME, SIZE, BATCH = "resnet50_cassle_simclr", 224, 32
_OF_TRANSFORM = ("input_size", "interpolation", "mean", "std", "crop_pct")
LARGE, LARGE_FILES, SMALL_FILES = (4032, 3024), 20, 48


def measure_large(rounds: int) -> Row:
    """Measure on a folder of phone photos."""
    with tempfile.TemporaryDirectory() as folder:
        root = jpeg_folder(Path(folder, "images"), LARGE_FILES, LARGE)
        return _measure(rounds, root, LARGE_FILES, "JPEGs of 4032x3024", 3)


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
    native = autocast_dtype("auto", torch.device("cpu")) is not None
    peer = Embedder(copy.deepcopy(model), root.parent / "lightly-train")

    def ours(source: Path, precision: str, decode: str = "fast") -> Any:
        return extract_features(
            model, source, batch_size=BATCH, precision=precision, device="cpu", decode=decode
        ).features

    def theirs(precision: str) -> float:
        return peer.seconds(root, count, SIZE, BATCH, precision)

    contestants: dict[str, Callable[[], Any]] = {
        "decode alone": lambda: [read(batch) for batch in batches],
        "network alone (auto)": lambda: [extractor.compute(x) for x in ready if x is not None],
        "auto": lambda: ours(root, "auto"),
        "timm": lambda: _timm(model, root),
        "lightly-train": lambda: theirs("32-true"),
    }
    peers = ["timm", "lightly-train"]
    if native:
        contestants["fp32"] = lambda: ours(root, "fp32")
        contestants["lightly-train bf16"] = lambda: theirs("bf16-mixed")
        peers.append("lightly-train bf16")
    if shard is None:
        contestants["auto, exact"] = lambda: ours(root, "auto", "exact")
    else:
        contestants["auto, shards"] = lambda: ours(shard, "auto")
    exact = ours(root, "fp32", "exact")
    features = {"auto": ours(root, "auto"), "timm": _timm(model, root)}
    if native:
        features["fp32"] = ours(root, "fp32")
    seconds = take_turns(contestants, rounds, warm=0)  # all but lightly-train have been run before
    median = medians(seconds)
    fastest = min(peers, key=median.__getitem__)
    alone = zip(seconds["decode alone"], seconds["network alone (auto)"], strict=True)
    bound = statistics.median(
        (decode + network) / whole
        for (decode, network), whole in zip(alone, seconds["auto"], strict=True)
    )
    cosines = {name: float(cosine_similarity(own, exact).min()) for name, own in features.items()}
    checks = [
        Check(
            f"auto / {fastest}, the fastest peer",
            times_faster(seconds, "auto", fastest),
            at_least=goal,
        )
    ]
    checks += [
        Check(f"{name} / {other}", times_faster(seconds, name, other))
        for name in ("auto", "fp32", "auto, shards")
        for other in peers
        if name in seconds and (name, other) != ("auto", fastest)
    ]
    checks.append(Check("auto: fraction of decode + network alone", bound, at_least=0.95))
    if native:
        checks.append(
            Check("fp32, fast: smallest cosine to exact", cosines["fp32"], at_least=0.9999)
        )
    checks += [
        Check("auto, fast: smallest cosine to fp32, exact", cosines["auto"], at_least=0.999),
        Check("timm: smallest cosine to exact", cosines["timm"]),
    ]
    return Row(
        title=f"features end to end, resnet50, 224 px, {what}",
        amounts={name: count / own for name, own in median.items()},
        unit="img/s",
        checks=checks,
        seconds=seconds,
        note="" if native else "this processor gains nothing from bf16, so auto is fp32",
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
