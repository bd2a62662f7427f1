"""Every reader of our own files: whatever is in them, only errors of ours come out."""

import hashlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import image_folder
from hypothesis import given
from hypothesis import strategies as st
from results import make_result
from safetensors.torch import load, save
from small_models import make_model

from cassle_zoo.checkpoints.run_checkpoint import load_checkpoint, save_checkpoint
from cassle_zoo.common.errors import CassleZooError
from cassle_zoo.data.emoji64 import Record, format_metadata, parse_metadata
from cassle_zoo.eval.scores import ScoreFile, Scores
from cassle_zoo.features.extract import Extractor, FeatureSet
from cassle_zoo.features.files import load_features, load_parts, save_features
from cassle_zoo.features.to_folder import extract_to_folder
from cassle_zoo.features.whitening import Whitening
from cassle_zoo.projector import ConditionedProjector, ProjectorConfig
from cassle_zoo.records import CHECKPOINT_FILE, Result, RunExport
from cassle_zoo.specs import MODEL_SPECS
from cassle_zoo.store.folder import read_config
from cassle_zoo.store.tensors import save_model_folder
from cassle_zoo.zoo.create import create_projector
from cassle_zoo.zoo.registry import make_config

pytestmark = pytest.mark.slow

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes of a file after changes, cuts, insertions and repetitions."""
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(changed) - 1)))
        how = draw(st.sampled_from(["change", "cut", "insert", "remove", "repeat"]))
        if how == "change" and changed:
            changed[at] = draw(st.integers(0, 255))
        elif how == "cut":
            del changed[at:]
        elif how == "insert":
            changed[at:at] = draw(st.binary(max_size=8))
        elif how == "remove":
            del changed[at : at + draw(st.integers(1, 40))]
        else:
            changed[at:at] = changed[at : at + 40]
    return bytes(changed)


@st.composite
def altered(draw: st.DrawFn, value: Any) -> Any:
    """A JSON value with something in it replaced, removed or added, at any depth."""
    if isinstance(value, dict) and value and draw(st.integers(0, 9)):
        key = draw(st.sampled_from(sorted(value)))
        changed = {**value, key: draw(altered(value[key]))}
        if draw(st.integers(0, 9)) == 0:
            del changed[key]
        if draw(st.integers(0, 9)) == 0:
            changed[draw(st.text(max_size=8))] = draw(JSON)
        return changed
    if isinstance(value, list) and value and draw(st.booleans()):
        at = draw(st.integers(0, len(value) - 1))
        return [*value[:at], draw(altered(value[at])), *value[at + 1 :]]
    return draw(JSON)


@st.composite
def damaged_json(draw: st.DrawFn, content: bytes) -> bytes:
    """A JSON file whose bytes are damaged, or that holds something else."""
    if draw(st.booleans()):
        return draw(damaged(content))
    return json.dumps(draw(altered(json.loads(content)))).encode()


def only_our_errors(read: Callable[[], Any]) -> None:
    try:
        read()
    except CassleZooError as error:
        assert str(error)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with a small projector."""
    folder = tmp_path_factory.mktemp("model") / "model"
    projector = ProjectorConfig(in_features=8, out_features=4, encoder_depth=1, encoder_width=4)
    backbone = torch.nn.Linear(2, 8)
    backbone.num_features = 8  # type: ignore[assignment]
    config = make_config(
        MODEL_SPECS["resnet18_cassle_simclr.emoji64"], backbone, projector=projector, training={}
    )
    return save_model_folder(
        folder,
        config=config,
        backbone_state=backbone.state_dict(),
        projector=ConditionedProjector(projector),
    )


@given(st.data())
def test_config_json(folder: Path, tmp_path: Path, data: st.DataObject) -> None:
    content = (folder / "config.json").read_bytes()
    (tmp_path / "config.json").write_bytes(data.draw(damaged_json(content)))
    (tmp_path / "projector.safetensors").write_bytes(
        (folder / "projector.safetensors").read_bytes()
    )
    only_our_errors(lambda: read_config(tmp_path))
    only_our_errors(lambda: create_projector(f"local-dir:{tmp_path}", True))


@given(st.data())
def test_weights(folder: Path, tmp_path: Path, data: st.DataObject) -> None:
    content = (folder / "projector.safetensors").read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    changed = data.draw(damaged(content[: header if data.draw(st.booleans()) else None]))
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    (tmp_path / "projector.safetensors").write_bytes(changed + content[header:])
    only_our_errors(lambda: create_projector(f"local-dir:{tmp_path}", True))


RESULT = make_result(series={"x": [1.0]}, files=["a.png"])


@given(st.data())
def test_results(data: st.DataObject) -> None:
    text = data.draw(damaged_json(RESULT.to_json().encode())).decode("utf-8", "replace")

    def read() -> None:
        result = Result.from_json(text)
        assert Result.from_json(result.to_json()) == result

    only_our_errors(read)


EXPORT = RunExport(
    name="resnet18_simclr.x", method="simclr", timm_arch="resnet18", projector={"depth": 2},
    input_size=(3, 64, 64), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), training={"steps": 1},
)  # fmt: skip


@given(st.data())
def test_exports_of_runs(tmp_path: Path, data: st.DataObject) -> None:
    EXPORT.save(tmp_path, sync=False)
    content = (tmp_path / "export.json").read_bytes()
    (tmp_path / "export.json").write_bytes(data.draw(damaged_json(content)))
    only_our_errors(lambda: RunExport.read(tmp_path))


SCORES = ScoreFile(
    scores=(
        Scores(
            task="skin", rows=torch.arange(3), values={"top1": torch.tensor([1, 0, 1])},
            labels=torch.tensor([0, 1, 1]), predicted=torch.tensor([0, 0, 1]), classes=("a", "b"),
        ),
    ),
    names={0: "a.png", 2: "c.png"}, thumbnails={0: b"xyz"},
    sample=torch.arange(2), sample_features=torch.zeros(2, 2),
)  # fmt: skip


@given(st.data())
def test_scores(tmp_path: Path, data: st.DataObject) -> None:
    content = SCORES.to_bytes()
    if data.draw(st.booleans()):
        content = data.draw(damaged(content))
    else:
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        about = data.draw(altered(json.loads(header["__metadata__"]["scores"])))
        content = save(load(content), {"scores": json.dumps(about)})
    (tmp_path / "scores.safetensors").write_bytes(content)
    only_our_errors(lambda: ScoreFile.load(tmp_path / "scores.safetensors"))


STATE = {"step": 3, "method": {"weight": torch.zeros(3)}, "rng": torch.zeros(2), "cuda_rng": None}


@given(st.data())
def test_checkpoints(tmp_path: Path, data: st.DataObject) -> None:
    save_checkpoint(tmp_path, STATE)
    content = (tmp_path / CHECKPOINT_FILE).read_bytes()
    if data.draw(st.booleans()):
        changed = data.draw(damaged(content))
    else:  # somebody computes the hash anew
        inner = data.draw(damaged(content.partition(b"\n")[2]))
        changed = hashlib.sha256(inner).hexdigest().encode() + b"\n" + inner
    (tmp_path / CHECKPOINT_FILE).write_bytes(changed)
    for path in tmp_path.glob("*.previous.pt"):
        path.unlink()
    only_our_errors(lambda: load_checkpoint(tmp_path))


@pytest.mark.parametrize("ending", ["safetensors", "npz", "csv", "parquet"])
@given(data=st.data())
def test_feature_files(tmp_path: Path, ending: str, data: st.DataObject) -> None:
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"features.{ending}"
    save_features(FeatureSet(torch.arange(6.0).view(3, 2), ["a", "b", "c"]), path)
    path.write_bytes(data.draw(damaged(path.read_bytes())))

    def read() -> None:
        loaded = load_features(path)
        assert len(loaded.features) == len(loaded.sources)
        assert all(isinstance(source, str) for source in loaded.sources)

    only_our_errors(read)


@pytest.mark.parametrize("name", ["features", "sources", "skipped"])
@given(
    array=st.sampled_from(["f4", "U3", "S3", "i8", "c8", "M8[s]"]),
    shape=st.lists(st.integers(0, 3), max_size=3),
)
def test_npz_of_other_arrays(tmp_path: Path, name: str, array: str, shape: list[int]) -> None:
    arrays: dict[str, Any] = {
        "features": np.zeros((2, 3), "f4"),
        "sources": np.array(["a", "b"]),
        "skipped": np.zeros((0, 2), "U1"),
        name: np.zeros(shape, array),
    }
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    (tmp_path / "x.npz").write_bytes(buffer.getvalue())
    only_our_errors(lambda: load_features(tmp_path / "x.npz"))


@given(st.data())
def test_whitenings(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "whitening.safetensors"
    Whitening(mean=torch.zeros(3), projection=torch.eye(3), images=6).save(path)
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    only_our_errors(lambda: Whitening.load(path))


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Extractor, Path, Path]:
    """An extractor, images, and a folder of their features in two parts."""
    root = tmp_path_factory.mktemp("extracted")
    images = image_folder(root / "images", ["a.png", "b.png", "c.png"])
    extractor = Extractor(make_model(), device="cpu")
    extract_to_folder(extractor, images, root / "parts", part_images=2, batch_size=2)
    return extractor, images, root / "parts"


@given(st.data())
def test_folders_of_features(
    extracted: tuple[Extractor, Path, Path], tmp_path: Path, data: st.DataObject
) -> None:
    extractor, images, whole = extracted
    folder = tmp_path / "parts"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    (folder / "index.json").write_bytes(
        data.draw(damaged_json((whole / "index.json").read_bytes()))
    )
    only_our_errors(lambda: load_features(folder))
    only_our_errors(lambda: list(load_parts(folder)))
    (folder / "part-000001.safetensors").unlink()  # the same call continues
    only_our_errors(lambda: extract_to_folder(extractor, images, folder, batch_size=2))


RECORDS = [
    Record(
        file_name=f"noto/{i}.png", vendor="noto", unified="1F600", base="1F600", name="grin, \"x\"",
        category="Smileys", subcategory="face", skin_tone="none", split="train",
    )
    for i in range(3)
]  # fmt: skip


@given(st.data())
def test_emoji64_metadata(data: st.DataObject) -> None:
    content = data.draw(damaged(format_metadata(RECORDS).encode()))
    only_our_errors(lambda: parse_metadata(content.decode("utf-8", "replace"), "metadata.csv"))
