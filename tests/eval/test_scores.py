"""Scores of single images: their means are the metrics, and their file gives them back."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import make_image
from PIL import Image
from safetensors.torch import save_file

from cassle_zoo.common.errors import DataError
from cassle_zoo.eval.base import Compute, EvalContext, EvalData, Outcome, Task
from cassle_zoo.eval.protocols.few_shot import FewShot
from cassle_zoo.eval.protocols.knn import KNN
from cassle_zoo.eval.protocols.linear_probe import LinearProbe
from cassle_zoo.eval.protocols.regression import Regression
from cassle_zoo.eval.protocols.retrieval import Retrieval
from cassle_zoo.eval.protocols.semi_supervised import SemiSupervised
from cassle_zoo.eval.runner import evaluate, score_file, write
from cassle_zoo.eval.scores import ScoreFile, Scores
from cassle_zoo.eval.sources import FeatureSource
from cassle_zoo.eval.statistics import permutation_test
from cassle_zoo.features.extract import FeatureSet

COUNT = 300
NAMES = tuple(f"folder/{number}.png" for number in range(COUNT))


class Images:
    """Noise; one image cannot be read."""

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        if index == 299:
            raise OSError("torn")
        return make_image(index, (90, 60)), 0


def make_context(kind: str = "classification", seed: int = 0) -> EvalContext:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(COUNT) % 7
    features = torch.randn(7, 12, generator=generator)[labels]
    features += 2 * torch.randn(COUNT, 12, generator=generator)
    targets = features[:, :3] * 2 + torch.randn(COUNT, 3) if kind == "regression" else labels
    rows = torch.arange(COUNT)
    task = Task(
        name="made",
        kind=kind,  # type: ignore[arg-type]
        targets=targets,
        splits={"train": rows[:150], "val": rows[150:200], "test": rows[200:]},
        classes=tuple("abcdefg") if kind == "classification" else (),
    )
    data = EvalData(name="made", sha256="0", images=Images(), tasks=(task,), names=NAMES)
    known = FeatureSet(features=features, sources=list(NAMES))
    source = FeatureSource(name="f", sha256=None, model=None, features=known)
    return EvalContext(source, data, Compute())


PROTOCOLS = [
    ("classification", KNN()),
    ("classification", LinearProbe(sweep_tolerance=0.1)),
    ("classification", FewShot(ways=3, queries=4, episodes=20)),
    ("classification", SemiSupervised(fractions=(0.2, 0.5), draws=2, sweep_tolerance=0.1)),
    ("classification", Retrieval(examples=0)),
    ("regression", Regression()),
]


def test_images_in_memory_are_not_changed() -> None:
    context = make_context()
    images = [(make_image(number, (90, 60)), 0) for number in range(COUNT)]
    context.data = dataclasses.replace(context.data, images=images)
    score_file(context, KNN().evaluate(context).scores)
    assert {image.size for image, _ in images} == {(90, 60)}


@pytest.mark.parametrize(("kind", "protocol"), PROTOCOLS)
def test_means_of_scores_are_the_metrics(kind, protocol, tmp_path: Path) -> None:
    context = make_context(kind)
    outcome = protocol.evaluate(context)
    path = tmp_path / "a.scores.safetensors"
    path.write_bytes(score_file(context, outcome.scores).to_bytes())
    found = {}
    for scores in ScoreFile.load(path).scores:
        for metric in scores.metrics:
            columns, statistic, strata = scores.columns(metric)
            means = columns.mean(0)
            if strata is not None:
                by_class = [columns[strata == label].mean(0) for label in strata.unique()]
                means = torch.stack(by_class).mean(0)
            found[metric] = float(statistic(means))
    spreads = ("_ci95", "_std")
    expected = {k: v for k, v in outcome.metrics["made"].items() if not k.endswith(spreads)}
    assert found == pytest.approx(expected, abs=1e-6)


def test_a_file_gives_back_scores_names_and_thumbnails(tmp_path: Path) -> None:
    context = make_context()
    (own,) = KNN().evaluate(context).scores
    path = tmp_path / "a.scores.safetensors"
    content = score_file(context, [own]).to_bytes()
    path.write_bytes(content)
    file = ScoreFile.load(path)
    (again,) = file.scores
    assert again.pairs_with(own)
    assert again.predicted is not None and own.predicted is not None
    assert torch.equal(again.predicted, own.predicted)
    assert (again.classes, again.by_class) == (own.classes, own.by_class)
    assert file.names[200] == "folder/200.png"
    assert set(file.sample.tolist()) == set(range(200, 300))
    assert set(file.thumbnails) == set(range(200, 299))  # 299 cannot be read
    (tmp_path / "t.webp").write_bytes(file.thumbnails[200])
    assert Image.open(tmp_path / "t.webp").size == (64, 43)
    assert file.sample_features.shape == (100, 12)
    assert score_file(context, [own]).to_bytes() == content
    # Two models: the same images, for maps side by side.
    other = make_context(seed=1)
    assert torch.equal(score_file(other, KNN().evaluate(other).scores).sample, file.sample)


def test_p_values_are_the_same_after_saving(tmp_path: Path) -> None:
    """Rounded fifths would differ by 0.2 and not quite 0.2, so that no swap would tie."""
    generator = torch.Generator().manual_seed(0)
    both = torch.randint(6, (2, 10), generator=generator).double() / 5
    first, second = both[:, :, None]
    expected = permutation_test(first, second, generator=generator)
    own = [Scores(task="t", rows=torch.arange(10), values={"top1": values}) for values in both]
    path = tmp_path / "a.scores.safetensors"
    path.write_bytes(ScoreFile(scores=tuple(own)).to_bytes())
    first, second = (scores.columns("top1")[0] for scores in ScoreFile.load(path).scores)
    assert permutation_test(first, second, generator=generator) == expected


def test_names_that_are_not_utf8_are_given_back(tmp_path: Path) -> None:
    own = Scores(task="made", rows=torch.arange(1), values={"top1": torch.ones(1)})
    file = ScoreFile(scores=(own,), names={0: "caf\udce9.png"}, thumbnails={0: b"x"})
    path = tmp_path / "a.scores.safetensors"
    path.write_bytes(file.to_bytes())
    assert ScoreFile.load(path).names == {0: "caf\udce9.png"}


def test_a_result_is_recorded_with_scores_only_if_asked(tmp_path: Path) -> None:
    context = make_context()
    for record in (False, True):
        result, outcome = evaluate("knn", KNN(), context.source, context.data, record=record)
        assert isinstance(outcome, Outcome)
        write(tmp_path / f"{record}.json", result, outcome)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"False.json", "True.json", "True.scores.safetensors"}


def test_other_images_do_not_pair() -> None:
    own = Scores(task="t", rows=torch.arange(5), labels=torch.zeros(5, dtype=torch.int64))
    assert own.pairs_with(dataclasses.replace(own))
    for change in (
        {"rows": torch.arange(1, 6)},
        {"rows": torch.arange(4)},
        {"labels": torch.ones(5, dtype=torch.int64)},
        {"labels": None},
        {"task": "u"},
        {"unit": "query"},
    ):
        assert not own.pairs_with(dataclasses.replace(own, **change))


def test_damaged_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.scores.safetensors"
    path.write_bytes(b"torn")
    with pytest.raises(DataError, match=r"cannot read .*a\.scores\.safetensors"):
        ScoreFile.load(path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(DataError, match="cannot read"):
        ScoreFile.load(path)
    save_file({"x": torch.zeros(1)}, path, {"scores": '{"format_version": 9}'})
    with pytest.raises(DataError, match=r"format_version 9.*update cassle-zoo"):
        ScoreFile.load(path)
    save_file({"x": torch.zeros(1)}, path, {"scores": '{"format_version": 2}'})
    with pytest.raises(DataError, match="contradicts itself"):
        ScoreFile.load(path)
    bad = Scores(task="t", rows=torch.arange(3), values={"m": torch.zeros(4)})
    path.write_bytes(ScoreFile(scores=(bad,)).to_bytes())
    with pytest.raises(DataError, match=r"contradicts itself.*different lengths"):
        ScoreFile.load(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"labels": torch.tensor([0, -1, 1])}, "negative classes"),
        ({"labels": torch.zeros(3, 2, dtype=torch.int64)}, "several numbers"),
        ({"classes": ("a", 5)}, "no texts"),
        ({"sample": torch.arange(2), "sample_features": torch.zeros(3, 2)}, "sample_features"),
        ({"sample": torch.arange(3), "sample_features": torch.zeros(3)}, "sample_features"),
    ],
)
def test_what_a_report_cannot_show_is_refused(
    tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    ones = torch.ones(3, dtype=torch.int64)
    columns = {"rows": torch.arange(3), "labels": ones, "predicted": ones, "classes": ("a", "b")}
    of_file = {name: value for name, value in change.items() if name.startswith("sample")}
    own: Any = {name: change.get(name, value) for name, value in columns.items()}
    path = tmp_path / "a.scores.safetensors"
    path.write_bytes(ScoreFile(scores=(Scores(task="t", **own),), **of_file).to_bytes())
    with pytest.raises(DataError, match=f"contradicts itself.*{says}"):
        ScoreFile.load(path)
