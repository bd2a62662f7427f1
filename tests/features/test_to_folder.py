"""Extraction into a folder: parts, continuation, refusals, sharing out, guards."""

import csv
import json
import os
import shutil
import signal
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import image_folder, make_image
from safetensors.torch import load_file
from small_models import count_computed, make_model

from cassle_zoo import extract_features, extract_to_folder, load_features, load_parts
from cassle_zoo.common import workers
from cassle_zoo.common.errors import (
    ConfigError,
    DataError,
    FolderInUseError,
    NotEnoughMemoryError,
    StorageError,
)
from cassle_zoo.common.faults import locked
from cassle_zoo.features import parts, to_folder
from cassle_zoo.features.extract import Extractor, FeatureSet
from cassle_zoo.features.files import save_part_safetensors
from cassle_zoo.features.to_folder import FolderResult
from cassle_zoo.projector import ConditionedProjector, ProjectorConfig

BAD = {"03.png": b"broken", "10.png": b"", "11.png": b""}
kinds = pytest.mark.parametrize("kind", ["safetensors", "parquet"])


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """14 images, of which those of BAD cannot be read: parts of 2 with one, none, and both bad."""
    folder = tmp_path_factory.mktemp("images")
    image_folder(folder, [f"{i:02d}.png" for i in range(14)])
    for name, content in BAD.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    return Extractor(make_model(), device="cpu")


def extract(extractor: Extractor, images: Any, folder: Path, **options: Any) -> FolderResult:
    options = {"part_images": 2, "batch_size": 2, **options}
    return extract_to_folder(extractor, images, folder, **options)


def content(folder: Path) -> dict[str, bytes]:
    """All files, hidden ones included."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if not p.is_dir()}


@kinds
def test_parts_are_what_one_call_in_memory_returns(
    extractor: Extractor, images: Path, tmp_path: Path, kind: str
) -> None:
    result = extract(extractor, images, tmp_path, kind=kind)
    assert result == FolderResult(images=11, skipped=3, stopped=False, complete=True)
    names = [f"part-{number:06d}.{kind}" for number in range(7)]
    assert sorted(os.listdir(tmp_path)) == ["index.json", *names, "skipped.csv"]
    expected = extract_features(make_model(), images, device="cpu", batch_size=2)
    whole = load_features(tmp_path)
    assert torch.equal(whole.features, expected.features)
    assert whole.sources == expected.sources
    assert whole.skipped == expected.skipped
    assert [len(part) for part in load_parts(tmp_path)] == [2, 1, 2, 2, 2, 0, 2]
    part = load_features(tmp_path, part=1)
    assert torch.equal(part.features, expected.features[2:3])
    assert part.sources == [str(images / "02.png")]
    for absent in (-1, 7):
        with pytest.raises(ConfigError, match=f"part={absent}: .* has parts 0 to 6"):
            load_features(tmp_path, part=absent)
    with (tmp_path / "skipped.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [["source", "reason"], *([s.source, s.reason] for s in expected.skipped)]


def test_parts_are_mapped_into_memory(extractor: Extractor, images: Path, tmp_path: Path) -> None:
    extract(extractor, images, tmp_path, part_images=14)
    features = load_features(tmp_path).features
    if sys.platform == "linux":
        maps = Path("/proc/self/maps").read_text()
        assert str(tmp_path / "part-000000.safetensors") in maps
    before = (tmp_path / "part-000000.safetensors").read_bytes()
    features += 1  # in this process only
    assert (tmp_path / "part-000000.safetensors").read_bytes() == before


def test_several_outputs_in_float16(images: Path, tmp_path: Path) -> None:
    names = ("pooled", "stage:1", "tokens")
    extractor = Extractor(make_model(), device="cpu", outputs=names, dtype="float16")
    extract(extractor, images, tmp_path)
    whole = load_features(tmp_path)
    expected = extract_features(
        make_model(), images, device="cpu", outputs=names, dtype="float16", batch_size=2
    )
    assert set(whole.outputs) == set(names)
    for name in names:
        assert whole.outputs[name].dtype == torch.float16
        assert torch.equal(whole.outputs[name], expected.outputs[name])
    assert torch.equal(whole.features, expected.features)
    assert set(load_file(tmp_path / "part-000000.safetensors")) == {"features", *names[1:]}
    with pytest.raises(ConfigError, match="safetensors"):
        extract(extractor, images, tmp_path / "other", kind="parquet")


def test_features_are_pooled_as_in_a_file(images: Path, tmp_path: Path) -> None:
    names = ("stage:1", "pooled")
    extract(Extractor(make_model(), device="cpu", outputs=names), images, tmp_path)
    expected = extract_features(make_model(), images, device="cpu", outputs=names, batch_size=2)
    assert torch.equal(expected.features, expected.outputs["pooled"])
    assert torch.equal(load_features(tmp_path).features, expected.features)


def stop_after(extractor: Extractor, monkeypatch: pytest.MonkeyPatch, batches: int) -> None:
    """Let a SIGTERM arrive while a later batch is computed."""
    compute = Extractor.compute
    left = [batches]

    def stopping(self: Extractor, ready: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return compute(self, ready)

    monkeypatch.setattr(Extractor, "compute", stopping)


@kinds
@pytest.mark.parametrize("batches", range(1, 9))
def test_sigterm_loses_nothing(
    extractor: Extractor,
    images: Path,
    tmp_path: Path,
    kind: str,
    batches: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(to_folder, "_SAMPLES", 1)  # the first of the batches that are counted
    options = {"part_images": 6, "batch_size": 2, "kind": kind}
    extract(extractor, images, tmp_path / "alone", **options)
    lines: list[str] = []
    with monkeypatch.context() as patch:
        stop_after(extractor, patch, batches)
        first = extract(extractor, images, tmp_path / "out", report=lines.append, **options)
    if not first.stopped:  # it came in the last batch
        assert batches >= 7
    else:
        assert any("stopped with" in line for line in lines)
        done = len(list((tmp_path / "out").glob("part-*")))
        assert (first.images, first.skipped) == [(0, 0), (5, 1), (9, 3)][done]
        with pytest.raises(DataError, match=r"incomplete: \d of 3 parts"):
            load_features(tmp_path / "out")
        computed = count_computed(monkeypatch)
        assert extract(extractor, images, tmp_path / "out", **options).complete
        # The probe; batches that were done are not done again.
        assert len(computed) - 1 <= 6 - (batches - 1)
    assert content(tmp_path / "out") == content(tmp_path / "alone")


def stopped_in_the_first_part(
    extractor: Extractor, images: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stop after the first batch of two images."""
    monkeypatch.setattr(to_folder, "_SAMPLES", 1)  # the first of the batches that are counted
    with monkeypatch.context() as patch:
        stop_after(extractor, patch, 2)
        assert extract(extractor, images, folder, part_images=8).stopped
    assert (folder / ".1-of-1" / parts.UNFINISHED).exists()


def test_larger_batches_continue_within_a_part(
    extractor: Extractor, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_in_the_first_part(extractor, images, tmp_path, monkeypatch)
    assert extract(extractor, images, tmp_path, part_images=8, batch_size=4).complete
    found = load_features(tmp_path)
    expected = extract_features(make_model(), images, device="cpu")
    assert found.sources == expected.sources
    torch.testing.assert_close(found.features, expected.features, atol=1e-5, rtol=1e-5)


def test_what_was_saved_of_a_deleted_extraction_is_not_used(
    extractor: Extractor, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_in_the_first_part(other_weights(), images, tmp_path / "out", monkeypatch)
    (tmp_path / "out" / "index.json").unlink()  # as `rm out/*` does
    for folder in (tmp_path / "out", tmp_path / "alone"):
        extract(extractor, images, folder, part_images=8)
    assert content(tmp_path / "out") == content(tmp_path / "alone")


def test_nothing_unfinished_is_left_when_others_complete_it(
    extractor: Extractor, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_in_the_first_part(extractor, images, tmp_path, monkeypatch)
    for own in (1, 2):
        extract(extractor, images, tmp_path, part_images=8, part=(own, 2))
    assert not list(tmp_path.rglob(parts.UNFINISHED))


def test_what_was_saved_of_a_part_that_others_complete_is_not_used(
    extractor: Extractor, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_in_the_first_part(extractor, images, tmp_path / "out", monkeypatch)
    extract(extractor, images, tmp_path / "out", part_images=8, part=(1, 2))
    for folder in (tmp_path / "out", tmp_path / "alone"):
        extract(extractor, images, folder, part_images=8)
    assert content(tmp_path / "out") == content(tmp_path / "alone")


def test_an_error_costs_the_part_in_the_making(
    extractor: Extractor, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_folder, "_SAMPLES", 1)  # the first of the batches that are counted
    extract(extractor, images, tmp_path / "alone")
    compute = Extractor.compute
    count = [0]

    def failing(self: Extractor, ready: Any) -> Any:
        count[0] += 1
        if count[0] == 4:
            raise RuntimeError("something else")
        return compute(self, ready)

    monkeypatch.setattr(Extractor, "compute", failing)
    with pytest.raises(RuntimeError, match="something else"):
        extract(extractor, images, tmp_path / "out")
    assert sorted(content(tmp_path / "out")) == ["index.json", *(
        f"part-{number:06d}.safetensors" for number in range(2)
    )]  # fmt: skip
    assert extract(extractor, images, tmp_path / "out").complete
    assert content(tmp_path / "out") == content(tmp_path / "alone")


@pytest.mark.parametrize("processes", [2, 3, 9])
def test_processes_share_the_work_out(
    extractor: Extractor, images: Path, tmp_path: Path, processes: int
) -> None:
    extract(extractor, images, tmp_path / "alone")
    results = [
        extract(extractor, images, tmp_path / "out", part=(own, processes))
        for own in reversed(range(1, processes + 1))
    ]
    assert results[-1].complete
    assert not results[0].complete
    assert sum(result.images for result in results) == 11
    assert content(tmp_path / "out") == content(tmp_path / "alone")


def other_weights() -> Extractor:
    model = make_model()
    with torch.no_grad():
        next(model.parameters()).add_(1)
    return Extractor(model, device="cpu")


@pytest.mark.parametrize(
    ("other", "options", "says"),
    [
        (other_weights, {}, r"model\.sha256: '\w+' there, '\w+' now"),
        (lambda: Extractor(make_model(), device="cpu", precision="bf16"), {},
         r"settings\.precision: 'fp32' there, 'bf16' now"),
        (lambda: Extractor(make_model(), device="cpu", outputs=("pooled", "stage:0")), {},
         r"settings\.outputs\.stage:0: None there, \[\d+\] now"),
        (lambda: Extractor(make_model(), device="cpu", decode="exact"), {},
         "settings.decode: 'fast' there, 'exact' now"),
        (None, {"part_images": 4}, "part_images: 2 there, 4 now"),
        (None, {"kind": "parquet"}, "kind: 'safetensors' there, 'parquet' now"),
    ],
    ids=["weights", "precision", "outputs", "decode", "part_images", "kind"],
)  # fmt: skip
def test_another_extraction_is_refused(
    extractor: Extractor, images: Path, tmp_path: Path, other: Any, options: Any, says: str
) -> None:
    extract(extractor, images, tmp_path)
    before = content(tmp_path)
    with pytest.raises(ConfigError, match=says):
        extract(other() if other else extractor, images, tmp_path, **options)
    assert content(tmp_path) == before


def test_another_projector_is_refused(images: Path, tmp_path: Path) -> None:
    config = ProjectorConfig(in_features=96, conditioning="none", descriptors=())
    projector: Any = ConditionedProjector(config)
    names = ("pooled", "projected")  # the samples are of the first
    own = Extractor(make_model(), device="cpu", outputs=names, projector=projector)
    extract(own, images, tmp_path)
    torch.nn.init.zeros_(projector.layers[0].weight)
    with pytest.raises(ConfigError, match=r"model\.projector_sha256: '\w+' there"):
        extract(own, images, tmp_path)


def test_other_images_are_refused(extractor: Extractor, images: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(images, tmp_path / "images"))
    extract(extractor, own, tmp_path / "out")
    (own / "13.png").rename(own / "14.png")
    with pytest.raises(ConfigError, match=r"images\.names: '\w+' there"):
        extract(extractor, own, tmp_path / "out")
    (own / "14.png").unlink()
    with pytest.raises(ConfigError, match=r"images\.count: 14 there, 13 now"):
        extract(extractor, own, tmp_path / "out")


def test_images_and_models_of_equal_names_and_weights_are_refused(
    extractor: Extractor, tmp_path: Path
) -> None:
    first, second = ([make_image(i) for i in range(start, start + 4)] for start in (0, 4))
    other = Extractor(make_model(act_layer="elu"), device="cpu")
    extract(extractor, first, tmp_path)
    with pytest.raises(ConfigError, match="features of 4 of 4 sampled images differ"):
        extract(extractor, second, tmp_path)
    with pytest.raises(ConfigError, match="another column, transform or model"):
        extract(other, first, tmp_path)
    assert extract(extractor, first, tmp_path).complete


def test_samples_of_other_hardware_are_equal() -> None:
    stored = [0.0, 1.0, -2.0, 3.0]
    assert not parts._samples_differ(stored, [1e-3, 1.01, -1.98, 3.02])
    assert parts._samples_differ(stored, [1.0, -2.0, 3.0, 0.0])
    assert not parts._samples_differ([0.0], [0.0])
    assert not parts._samples_differ(None, stored)


def test_a_damaged_part_is_named_and_made_again(extractor: Extractor, tmp_path: Path) -> None:
    images = image_folder(tmp_path / "images", [f"{i}.png" for i in range(4)])
    (images / "1.png").write_bytes(b"broken")
    extract(extractor, images, tmp_path / "out")
    part = tmp_path / "out" / "part-000000.safetensors"
    part.write_bytes(b"cut")
    with pytest.raises(DataError, match=r"part-000000.*damaged.*delete it"):
        extract(extractor, images, tmp_path / "out")
    part.unlink()
    make_image(1).save(images / "1.png")
    extract(extractor, images, tmp_path / "out")
    assert len(load_features(tmp_path / "out")) == 4
    assert (tmp_path / "out" / "skipped.csv").read_text() == "source,reason\n"


def test_batch_size_and_default_part_may_differ(
    extractor: Extractor, images: Path, tmp_path: Path
) -> None:
    extract(extractor, images, tmp_path, part_images=6)
    before = load_features(tmp_path)
    for part in (0, 2):
        (tmp_path / f"part-{part:06d}.safetensors").unlink()
    extract(extractor, images, tmp_path, part_images=None, batch_size=4)
    found = load_features(tmp_path)
    assert len(found) == 11
    assert found.sources == before.sources
    torch.testing.assert_close(found.features, before.features, atol=1e-5, rtol=1e-5)


def test_batches_are_large_in_parts_of_any_size(
    extractor: Extractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_folder, "_SAMPLES", 1)  # the first of the batches that are counted
    sizes = count_computed(monkeypatch)
    images = [make_image(i) for i in range(14)]
    extract(extractor, images, tmp_path, part_images=7, batch_size=4)
    assert sizes == [1, 4, 3, 4, 3]


@pytest.mark.parametrize(("index", "says"), [("{}", "format_version"), ("{", "no index"),
    ('{"format_version": 1, "part_images": "x"}', "part_images 'x'")])  # fmt: skip
def test_damaged_index(
    extractor: Extractor, images: Path, tmp_path: Path, index: str, says: str
) -> None:
    (tmp_path / "index.json").write_text(index)
    with pytest.raises(ConfigError, match=says):
        extract(extractor, images, tmp_path, part_images=None)
    with pytest.raises(DataError, match=r"index\.json"):
        load_features(tmp_path)


@pytest.mark.parametrize("samples", [5, [5], ["ab"], [[1.0]], [[None]], [[10**400]]])
def test_damaged_samples(extractor: Extractor, images: Path, tmp_path: Path, samples: Any) -> None:
    extract(extractor, images, tmp_path)
    path = tmp_path / "index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "samples": samples}))
    with pytest.raises(ConfigError, match=r"index\.json' is damaged \(samples: "):
        extract(extractor, images, tmp_path)


def test_folders_of_other_things(extractor: Extractor, images: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no index of features"):
        load_features(tmp_path)
    (tmp_path / "part-000000.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match="give another folder"):
        extract(extractor, images, tmp_path)
    with pytest.raises(ConfigError, match="is a file"):
        extract(extractor, images, tmp_path / "part-000000.safetensors" / "below")


def test_a_part_is_done_by_one_process(extractor: Extractor, images: Path, tmp_path: Path) -> None:
    with locked(tmp_path / ".1-of-1"), pytest.raises(FolderInUseError, match="extracting"):
        extract(extractor, images, tmp_path)


def test_nothing_to_read(extractor: Extractor, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"broken")
    with pytest.raises(DataError, match=r"No image could be read: .*a\.png"):
        extract(extractor, tmp_path, tmp_path / "out")


@pytest.mark.parametrize("options", [{"kind": "npz"}, {"part": (0, 2)}, {"part": (3, 2)},
    {"part_images": 0}, {"batch_size": 0}, {"num_workers": -1}])  # fmt: skip
def test_settings_are_checked(
    extractor: Extractor, images: Path, tmp_path: Path, options: Any
) -> None:
    with pytest.raises(ValueError, match=str(next(iter(options.values())))[:2].strip("(")):
        extract(extractor, images, tmp_path / "out", **options)


def test_a_model_is_no_extractor(images: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is a str; give cassle_zoo\.Extractor"):
        extract_to_folder("resnet18_cassle_simclr", images, tmp_path / "out")  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_an_empty_path_is_not_the_current_folder(
    extractor: Extractor, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="folder is an empty path"):
        extract_to_folder(extractor, images, "")


def test_large_outputs_make_small_parts() -> None:
    outputs = {"tokens": torch.empty(1, 196, 768)}
    found = to_folder._default_part_images(outputs, 64)
    assert found % 64 == 0
    assert found * 196 * 768 * 4 <= 2**28
    assert to_folder._default_part_images({"pooled": torch.empty(1, 2048)}, 64) == 4096
    assert to_folder._default_part_images({"huge": torch.empty(2**27)}, 16) == 16


Usage = namedtuple("Usage", "free")


def test_a_full_disk_is_found_before_the_first_image(
    extractor: Extractor, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10))
    with pytest.raises(StorageError, match=r"take about .* GiB, but .*float16"):
        extract(extractor, images, tmp_path)


def test_small_shared_memory_is_found_before_the_first_image(
    extractor: Extractor, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = namedtuple("room", "f_bavail f_frsize")
    monkeypatch.setattr(workers, "_SHARED_MEMORY", tmp_path)  # macOS has no folder of it
    monkeypatch.setattr(os, "statvfs", lambda _: room(5, 4096))
    needed = 3 * 2 * 2 * 3 * 32 * 32 * 4  # workers, batches of each, images, ...
    assert needed > 5 * 4096
    for call in (
        lambda: extract(extractor, images, tmp_path, num_workers=3),
        lambda: extract_features(make_model(), images, num_workers=3, batch_size=2),
    ):
        with pytest.raises(NotEnoughMemoryError, match=r"3 data workers need 0 MiB.*--shm-size"):
            call()
    workers.check_shared_memory(0, 2**30, 2**30, 2**30)


def test_few_images_need_little_shared_memory_whatever_the_batch_size(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = namedtuple("room", "f_bavail f_frsize")
    count, each = 14, 3 * 32 * 32 * 4
    monkeypatch.setattr(workers, "_SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(os, "statvfs", lambda _: room(count * each, 1))
    workers.check_shared_memory(2, 4096, count, each)
    with pytest.raises(NotEnoughMemoryError):
        workers.check_shared_memory(2, 4096, count + 1, each)
    found = extract_features(make_model(), images, num_workers=1, batch_size=4096)
    assert len(found) + len(found.skipped) == count


def test_index_has_no_time_or_machine(extractor: Extractor, images: Path, tmp_path: Path) -> None:
    extract(extractor, images, tmp_path)
    index = json.loads((tmp_path / "index.json").read_text())
    assert set(index) == {
        "format_version", "model_name", "model", "settings", "images", "part_images", "kind",
        "parts", "samples",
    }  # fmt: skip
    assert index["parts"][1] == {"file": "part-000001.safetensors", "images": 1, "skipped": 1}


def write_parts(folder: Path, *widths: int, **index: Any) -> None:
    """Write a folder with a part of two images for each width, and fields of its index."""
    for part, width in enumerate(widths):
        names = [f"{part}-{image}.png" for image in range(2)]
        features = FeatureSet(torch.full((2, width), float(part)), names)
        save_part_safetensors(features, folder / f"part-{part:06d}.safetensors")
    files = [{"file": f"part-{part:06d}.safetensors"} for part in range(len(widths))]
    text = json.dumps({"format_version": 1, "parts": files, **index})
    (folder / "index.json").write_text(text)


def test_the_names_in_an_index_lead_nowhere_else(tmp_path: Path) -> None:
    folder = tmp_path / "features"
    folder.mkdir()
    save_part_safetensors(FeatureSet(torch.ones(2, 3), ["a", "b"]), tmp_path / "own.safetensors")
    for name in ("../own.safetensors", str(tmp_path / "own.safetensors"), 5, ""):
        write_parts(folder, parts=[{"file": name, "images": 2}])
        with pytest.raises(DataError, match=r"index\.json' names .*part-000000\.safetensors"):
            load_features(folder)
        with pytest.raises(DataError, match=r"index\.json' names"):
            next(load_parts(folder))
    damaged: tuple[Any, ...] = (5, [5], [{}], [])
    for own in damaged:
        write_parts(folder, parts=own)
        with pytest.raises(DataError, match=r"index\.json"):
            load_features(folder)


def test_rows_are_those_of_the_parts_whatever_the_index_says(tmp_path: Path) -> None:
    many = [{"file": f"part-{part:06d}.safetensors", "images": 10**15} for part in range(2)]
    write_parts(tmp_path, 3, 3, parts=many)
    found = load_features(tmp_path)
    assert found.sources == ["0-0.png", "0-1.png", "1-0.png", "1-1.png"]
    assert found.features.tolist() == [[0.0] * 3, [0.0] * 3, [1.0] * 3, [1.0] * 3]


def test_parts_of_another_width_are_not_spread_over_the_rows(tmp_path: Path) -> None:
    write_parts(tmp_path, 3, 1)
    with pytest.raises(DataError, match=r"part-000001\.safetensors' holds .*another extraction"):
        load_features(tmp_path)
