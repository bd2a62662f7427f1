"""Scores: the per-image values that metrics are means of, and their file beside a result.

With them a report computes intervals, paired tests, per-class results, confusion matrices, and
shows the images that a model gets wrong, without the dataset and without the model.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from cassle_zoo.common.errors import DataError
from cassle_zoo.common.files import parse_json
from cassle_zoo.eval.metrics import hits, mean_per_class
from cassle_zoo.eval.statistics import Statistic, first_column, r2_columns, r2_of_means
from cassle_zoo.records import FORMAT_VERSION, without_format_version

SCORES_FILE = "scores.safetensors"
"""Ending of the file's name, after the stem of the result's."""

Unit = Literal["image", "query", "episode"]

_TENSORS = ("rows", "labels", "predicted", "confidence", "outputs", "targets")
_R2 = "r2"


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """The scores of one task, measured in one way.

    Attributes:
        task: Name of the task.
        unit: What a row is: a test image, a query of retrieval, or a few-shot episode.
        rows: (N,) index of each image in the dataset, or number of the episode.
        values: By metric, (N,) scores whose mean is the metric: 0 and 1 of an accuracy.
        by_class: Those metrics that are means over classes of the mean in each class.
        labels: (N,) classes of the images; None without classes.
        predicted: (N,) predicted classes, if there is one prediction per image.
        confidence: (N,) the classifier's probability (or fraction of votes) of it.
        classes: Names of the classes.
        outputs: (N, K) predicted values of a regression, whose metric `r2` is not a mean.
        targets: (N, K) true values of a regression.
    """

    task: str
    unit: Unit = "image"
    rows: Tensor
    values: Mapping[str, Tensor] = field(default_factory=dict)
    by_class: tuple[str, ...] = ()
    labels: Tensor | None = None
    predicted: Tensor | None = None
    confidence: Tensor | None = None
    classes: tuple[str, ...] = ()
    outputs: Tensor | None = None
    targets: Tensor | None = None

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that can be computed from the scores."""
        return (*([_R2] if self.outputs is not None else []), *self.values)

    def means(self) -> dict[str, float]:
        """Return the metrics that are means of values."""
        found = {}
        for metric in self.values:
            columns, _, strata = self.columns(metric)
            own = columns[:, 0]
            found[metric] = float(own.mean()) if strata is None else mean_per_class(own, strata)
        return found

    @property
    def answers(self) -> tuple[Tensor, Tensor]:
        """The labels (N,) and predicted classes (N,).

        Raises:
            ValueError: If there is no prediction per image.
        """
        if self.labels is None or self.predicted is None:
            raise ValueError(f"the scores of {self.task} have no prediction per image")
        return self.labels, self.predicted

    @property
    def wrong(self) -> Tensor:
        """(N,) bool: whether the predicted class is not the image's."""
        labels, predicted = self.answers
        return labels != predicted

    def by_confidence(self, chosen: Tensor) -> Tensor:
        """Return the positions of chosen (N,) bool, the most confident predictions first."""
        at = chosen.nonzero().flatten()
        if self.confidence is None:
            return at
        return at[self.confidence[at].argsort(descending=True, stable=True)]

    def columns(self, metric: str) -> tuple[Tensor, Statistic, Tensor | None]:
        """Return the columns, statistic and strata of a metric: see `eval.statistics`."""
        if metric == _R2 and self.outputs is not None and self.targets is not None:
            return r2_columns(self.outputs, self.targets), r2_of_means, None
        strata = self.labels if metric in self.by_class else None
        return self.values[metric].double()[:, None], first_column, strata

    def pairs_with(self, other: "Scores") -> bool:
        """Return whether both are of the same images with the same labels, in the same order."""
        return (
            (self.task, self.unit) == (other.task, other.unit)
            and torch.equal(self.rows, other.rows)
            and _equal(self.labels, other.labels)
        )


def classification(
    task: str,
    rows: Tensor,
    labels: Tensor,
    logits: Tensor,
    *,
    prefix: str,
    confidence: Tensor | None = None,
    classes: Sequence[str] = (),
    top5: bool = True,
) -> Scores:
    """Return the scores of a classifier, with the metrics of `eval.metrics.accuracies`.

    Args:
        task: Name of the task.
        rows: (N,) indices of the images.
        labels: (N,) integers in [0, C).
        logits: (N, C), the larger the likelier.
        prefix: Prefix of the metrics' names, such as `knn_`.
        confidence: (N,) probability of the predicted class; by default the softmax's.
        classes: Names of the classes.
        top5: Whether top-5 is a metric (of more than five classes).
    """
    logits, labels = logits.cpu(), labels.cpu()
    if confidence is None:
        confidence = logits.double().softmax(1).amax(1)
    right = hits(logits, labels)
    values = {f"{prefix}{name}": own for name, own in right.items() if top5 or name != "top5"}
    mean = f"{prefix}mean_per_class"
    return Scores(
        task=task,
        rows=rows,
        values={**values, mean: right["top1"]},
        by_class=(mean,),
        labels=labels,
        predicted=logits.argmax(1),
        confidence=confidence.cpu(),
        classes=tuple(classes),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoreFile:
    """All scores of a result, and what shows the images they are of.

    Attributes:
        scores: By task.
        names: Names of images, by their index in the dataset.
        thumbnails: Small WebP images, by the index of the image.
        sample: (M,) indices of the images of the 2-D map, the same for all models.
        sample_features: (M, P) their features, as principal components of the sample.
    """

    scores: tuple[Scores, ...]
    names: Mapping[int, str] = field(default_factory=dict)
    thumbnails: Mapping[int, bytes] = field(default_factory=dict)
    sample: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    sample_features: Tensor = field(default_factory=lambda: torch.empty(0, 0))

    def to_bytes(self) -> bytes:
        """Return the content of a safetensors file; all floats but `values` are rounded."""
        tensors: dict[str, Tensor] = {
            "sample": self.sample.int(),
            "sample_features": self.sample_features.half(),
            "named": torch.tensor(list(self.names), dtype=torch.int32),
            "shown": torch.tensor(list(self.thumbnails), dtype=torch.int32),
        }
        content = b"".join(self.thumbnails.values())
        tensors["thumbnails"] = torch.frombuffer(bytearray(content or b"\0"), dtype=torch.uint8)
        described = []
        for place, own in enumerate(self.scores):
            for name in _TENSORS:
                if (tensor := getattr(own, name)) is not None:
                    tensors[f"{place}/{name}"] = _compact(tensor, name)
            for number, values in enumerate(own.values.values()):
                tensors[f"{place}/values/{number}"] = _compact(values, "values")
            described.append(
                {
                    "task": own.task,
                    "unit": own.unit,
                    "values": list(own.values),
                    "by_class": own.by_class,
                    "classes": own.classes,
                }
            )
        about = {
            "format_version": FORMAT_VERSION,
            "scores": described,
            "names": list(self.names.values()),
            "thumbnail_sizes": list(map(len, self.thumbnails.values())),
        }
        # Metrics may share their values, which safetensors refuses.
        tensors = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
        # In ASCII, since names whose bytes are not UTF-8 cannot be saved as text.
        return save(tensors, {"scores": json.dumps(about)})

    @classmethod
    def load(cls, path: str | Path) -> "ScoreFile":
        """Read what :meth:`to_bytes` made.

        Raises:
            DataError: If the file cannot be read, is of another format, or contradicts itself.
        """
        try:
            with safe_open(path, "pt") as file:
                about = parse_json((file.metadata() or {}).get("scores", ""))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError) as error:
            raise DataError(f"cannot read {path}: {error}.") from error
        about = without_format_version(about, str(path))
        try:
            return cls._from(about, tensors)
        except (KeyError, TypeError, IndexError, ValueError, RuntimeError) as error:
            raise DataError(f"{path} contradicts itself ({error!r}); measure again.") from error

    @classmethod
    def _from(cls, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "ScoreFile":
        scores = []
        for place, own in enumerate(about["scores"]):
            parts = {
                name: _wide(tensors[f"{place}/{name}"])
                for name in _TENSORS
                if f"{place}/{name}" in tensors
            }
            values = {
                metric: _wide(tensors[f"{place}/values/{number}"])
                for number, metric in enumerate(own["values"])
            }
            count = len(parts["rows"])
            if any(len(tensor) != count for tensor in (*parts.values(), *values.values())):
                raise ValueError("columns of different lengths")
            flat = [tensor for name, tensor in parts.items() if name not in ("outputs", "targets")]
            if any(tensor.ndim != 1 for tensor in (*flat, *values.values())):
                raise ValueError("columns of several numbers")
            if any(bool((parts[k] < 0).any()) for k in ("labels", "predicted") if k in parts):
                raise ValueError("negative classes")
            scores.append(
                Scores(
                    task=own["task"],
                    unit=own["unit"],
                    by_class=tuple(own["by_class"]),
                    classes=tuple(own["classes"]),
                    values=values,
                    **parts,
                )
            )
        texts = [*about["names"], *(name for own in scores for name in own.classes)]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("names that are no texts")
        points = tensors["sample_features"].shape
        if len(tensors["sample"]) != points[0] or (points[0] and len(points) != 2):
            raise ValueError(f"sample_features of shape {tuple(points)}")
        pieces = tensors["thumbnails"][: sum(about["thumbnail_sizes"])].split(
            about["thumbnail_sizes"]
        )
        return cls(
            scores=tuple(scores),
            names=dict(zip(tensors["named"].tolist(), about["names"], strict=True)),
            thumbnails=dict(
                zip(
                    tensors["shown"].tolist(),
                    (piece.numpy().tobytes() for piece in pieces),
                    strict=True,
                )
            ),
            sample=tensors["sample"].long(),
            sample_features=tensors["sample_features"].float(),
        )


def _compact(tensor: Tensor, name: str) -> Tensor:
    """Return a tensor in the smallest type that holds its content."""
    if tensor.is_floating_point():
        # Differences of rounded values would not tie, and p-values of permutations be too small.
        kinds = {"values": torch.float64, "confidence": torch.float16}
        return tensor.to(kinds.get(name, torch.float32))
    if tensor.dtype == torch.uint8 or not len(tensor):
        return tensor
    fits = int(tensor.max()) <= torch.iinfo(torch.int16).max
    return tensor.to(torch.int16 if fits and int(tensor.min()) >= 0 else torch.int32)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor.long()


def _equal(first: Tensor | None, second: Tensor | None) -> bool:
    if first is None or second is None:
        return first is second
    return torch.equal(first, second)
