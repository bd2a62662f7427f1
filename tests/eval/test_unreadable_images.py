"""Images that cannot be read are named, counted and left out, up to a fraction."""

from pathlib import Path
from typing import Any

import pytest
import torch
from builders import image_folder
from small_models import count_computed, make_model

from cassle_zoo.common.errors import DataError
from cassle_zoo.data.readers import ImageFiles
from cassle_zoo.eval.base import Compute, EvalContext, EvalData, Outcome, Task
from cassle_zoo.eval.protocols.knn import KNN
from cassle_zoo.eval.runner import evaluate
from cassle_zoo.features.extract import extract_features
from cassle_zoo.features.files import save_features

COUNT, BAD = 30, (4, 11)


def data(root: Path, names: list[str]) -> EvalData:
    targets = torch.tensor([int(name[:2]) % 2 for name in names])
    number = {name: row for row, name in enumerate(names)}

    def rows(*wanted: int) -> torch.Tensor:
        return torch.tensor([number[n] for i in wanted if (n := f"{i:02d}.png") in number])

    splits = {
        "train": rows(*range(0, 16)), "val": rows(*range(16, 20)), "test": rows(*range(20, 30)),
    }  # fmt: skip
    task = Task(name="parity", kind="classification", targets=targets, splits=splits,
                classes=("even", "odd"))  # fmt: skip
    return EvalData(
        name="toy",
        sha256="0" * 64,
        images=ImageFiles(root, names),
        tasks=(task,),
        names=tuple(names),
        captions=tuple(f"caption of {name}" for name in names),
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    image_folder(tmp_path, [f"{i:02d}.png" for i in range(COUNT)])
    for number in BAD:
        (tmp_path / f"{number:02d}.png").write_bytes(b"broken")
    return tmp_path


NAMES = [f"{i:02d}.png" for i in range(COUNT)]
COMPUTE: dict[str, Any] = {"no_cache": True, "device": "cpu"}


def test_the_result_is_that_of_the_others(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computed = count_computed(monkeypatch)
    settings = Compute(max_bad_fraction=0.1, **COMPUTE)
    with pytest.warns(UserWarning, match=r"2 of 30 images cannot be read: 04\.png \(.*11\.png"):
        found, _ = evaluate("knn", KNN(), make_model(), data(root, NAMES), settings)
    assert sum(computed) == COUNT - len(BAD)  # nothing was computed again
    good = [name for row, name in enumerate(NAMES) if row not in BAD]
    expected, _ = evaluate("knn", KNN(), make_model(), data(root, good), settings)
    assert found.metrics == expected.metrics
    assert found.data.sha256 != "0" * 64
    assert found.protocol["left out"] == "2 images cannot be read: 04.png, 11.png"
    assert "left out" not in expected.protocol


def test_more_than_the_fraction_is_an_error_that_names_all(root: Path) -> None:
    says = r"toy: 2 of 30 .*: 04\.png \(.*\), 11\.png \(.*--max-bad-fraction"
    with pytest.raises(DataError, match=says):
        evaluate("knn", KNN(), make_model(), data(root, NAMES), Compute(**COMPUTE))


def test_a_feature_file_says_which_could_not_be_read(root: Path, tmp_path: Path) -> None:
    model = make_model()
    save_features(extract_features(model, root), tmp_path / "features.npz")
    settings = Compute(max_bad_fraction=0.1, **COMPUTE)
    with pytest.warns(UserWarning, match=r"2 of 30 images cannot be read: 04\.png \(.*11\.png"):
        found, _ = evaluate(
            "knn", KNN(), f"features:{tmp_path / 'features.npz'}", data(root, NAMES), settings
        )
    with pytest.warns(UserWarning, match="2 of 30"):
        expected, _ = evaluate("knn", KNN(), model, data(root, NAMES), settings)
    assert found.metrics == expected.metrics
    assert found.data == expected.data


def test_of_an_evaluators_own_data_nothing_is_left_out(root: Path) -> None:
    class Later:
        def evaluate(self, context: EvalContext) -> Outcome:
            later = context.data.without(range(3), "the first")
            return KNN().evaluate(EvalContext(context.source, later, context.compute))

    settings = Compute(max_bad_fraction=0.5, **COMPUTE)
    with pytest.raises(DataError, match=r"toy: 2 of 27 .*: 04\.png \(.*, 11\.png \(.*them\.$"):
        evaluate("later", Later(), make_model(), data(root, NAMES), settings)


def test_indices_are_those_of_what_is_left(root: Path) -> None:
    whole = data(root, NAMES)
    left = whole.without(BAD, "why")
    assert len(left.images) == len(left.names) == len(left.captions) == COUNT - 2
    for name, rows in left.tasks[0].splits.items():
        names = [left.names[row] for row in rows.tolist()]
        before = [NAMES[row] for row in whole.tasks[0].splits[name].tolist() if row not in BAD]
        assert names == before
        for row in rows.tolist():
            assert left.tasks[0].targets[row] == int(left.names[row][:2]) % 2
            assert left.captions[row] == f"caption of {left.names[row]}"
            left.images[row]
    assert left.notes == {"left out": "why"}
