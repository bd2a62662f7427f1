"""The types that protocols share: datasets with tasks, `EvalContext`, settings and `Outcome`."""

import re
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeAlias, TypeVar

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Subset
from tqdm import tqdm

from cassle_zoo.common.config import Range, check_fields
from cassle_zoo.common.errors import ConfigError, DataError
from cassle_zoo.common.files import sha256
from cassle_zoo.data.listing import first_few
from cassle_zoo.eval.feature_cache import cache_folder, cached_features, features_of
from cassle_zoo.eval.scores import Scores
from cassle_zoo.eval.sources import FeatureSource
from cassle_zoo.features.extract import extract_features
from cassle_zoo.features.transform import eval_transform
from cassle_zoo.features.whitening import OWN, Whitening, open_whitening, origin_of
from cassle_zoo.projector import ConditionedProjector
from cassle_zoo.records import software_versions

T = TypeVar("T")
WITHOUT_LABELS = ("sensitivity", "equivariance", "spectrum", "view-retrieval")
"""Names of the evaluations that need no labels."""
ON_THE_NETWORK = ("finetune", "detection", "sensitivity", "equivariance", "view-retrieval")
"""Names of the evaluations that run the network, so that files of features do not suffice."""
TaskKind = Literal["classification", "retrieval", "regression", "detection"]


class Images(Protocol):
    """The images of a dataset by index; picklable, so that workers can read them."""

    def __len__(self) -> int:
        """Return the number of images."""

    def __getitem__(self, index: int) -> tuple[Image.Image, Any]:
        """Return an image of any mode, and a second value that is ignored."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """A task on a dataset: targets and splits.

    Attributes:
        name: Unique within the dataset, for example `skin_tone`.
        kind: `classification` and `regression` have the splits `train`, `val` and `test`;
            `retrieval` has `query` and `gallery`; `detection` has `train` and `test`.
        targets: Targets of all N images: (N,) int64 class numbers, or (N, K) float32 values; those
            of images in no split are ignored. For detection (N, K, 6) float32: class number, left,
            top, right, bottom (pixels) and 0/1 (difficult) of up to K objects, padded with -1.
        splits: Indices of images, int64, by split.
        classes: Names of the classes in the order of their numbers; empty for regression.
        metric: The metric that is usually reported and used for selection on validation data:
            `top1` or `mean_per_class` for classification, else `r2`, `recall@1` or `mAP50`.
    """

    name: str
    kind: TaskKind
    targets: Tensor
    splits: Mapping[str, Tensor]
    classes: tuple[str, ...] = ()
    metric: str = "top1"


@dataclass(frozen=True, kw_only=True, eq=False)
class EvalData:
    """A dataset with its tasks.

    Attributes:
        name: Name in results and on the command line.
        sha256: Hash of images and labels.
        images: The N images of all tasks.
        tasks: Its tasks; none if there are no labels.
        notes: Notes for readers of the numbers: splits, licence, differences.
        names: Names of the images: file names without the user's folders.
        root: Folder that the names are relative to; None if the images are not files in it.
        captions: Descriptions of the images, for galleries.
        unlabelled: Why there are no tasks, in a sentence.
    """

    name: str
    sha256: str
    images: Images
    tasks: tuple[Task, ...]
    notes: Mapping[str, str] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    root: Path | None = None
    captions: tuple[str, ...] = ()
    unlabelled: str = ""

    def without(self, bad: Sequence[int], note: str) -> "EvalData":
        """Return the dataset without some of its images.

        Args:
            bad: Their indices.
            note: Why, for readers of the numbers.
        """
        kept = torch.ones(len(self.images), dtype=torch.bool)
        kept[list(bad)] = False
        rows = kept.nonzero().flatten()
        number = kept.cumsum(0) - 1
        before = self.notes.get("left out")

        def pick(values: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(values[row] for row in rows.tolist()) if values else ()

        tasks = tuple(
            replace(
                task,
                targets=task.targets[rows],
                splits={name: number[own[kept[own]]] for name, own in task.splits.items()},
            )
            for task in self.tasks
        )
        return replace(
            self,
            sha256=sha256(f"{self.sha256} without {sorted(bad)}"),
            images=Subset(self.images, rows.tolist()),  # type: ignore[arg-type]
            tasks=tasks,
            notes={**self.notes, "left out": "; ".join(filter(None, [before, note]))},
            names=pick(self.names),
            captions=pick(self.captions),
        )

    def name_of(self, index: int) -> str:
        """Return the name of an image, for messages."""
        return self.names[index] if self.names else f"number {index}"

    def tasks_of(self, *kinds: TaskKind) -> tuple[Task, ...]:
        """Return the tasks of the given kinds.

        Raises:
            DataError: If there are none.
        """
        found = tuple(task for task in self.tasks if task.kind in kinds)
        if not self.tasks:
            raise DataError(
                f"{self.name} has no labels: {self.unlabelled} Without labels there are "
                f"{', '.join(WITHOUT_LABELS)}."
            )
        if not found:
            raise DataError(
                f"{self.name} has no task of the kind {' or '.join(kinds)}; its tasks are "
                f"{', '.join(f'{task.name} ({task.kind})' for task in self.tasks)}."
            )
        return found

    def seen_images(self) -> Tensor:
        """Return the sorted indices of images for fitting without labels.

        These are the training and validation images of all classification tasks or, if there are
        none, the galleries of retrieval tasks.
        """
        if any(task.kind == "classification" for task in self.tasks):
            return self._images_in("train", "val")
        return self._images_in("gallery")

    def test_images(self) -> Tensor:
        """Return the sorted indices of images in the test split of any task; there may be none."""
        return self._images_in("test")

    def _images_in(self, *names: str) -> Tensor:
        parts = [t.splits[name] for t in self.tasks for name in names if name in t.splits]
        return torch.cat(parts).unique() if parts else torch.empty(0, dtype=torch.int64)


class UnreadableImagesError(DataError):
    """Some images of a dataset cannot be read; this error holds the features of the others.

    Attributes:
        data: The dataset.
        reasons: Why images cannot be read, by index.
        features: Features of the others of those that were asked for, in their order.
    """

    def __init__(self, data: EvalData, reasons: Mapping[int, str], features: Tensor) -> None:
        """Store the attributes."""
        bad = [(data.name_of(index), reason) for index, reason in reasons.items()]
        says = _unreadable(data.name, bad, len(reasons) + len(features))
        super().__init__(f"{says}; repair or remove them.")
        self.data, self.reasons, self.features = data, reasons, features


def leave_out(
    whose: object, bad: Sequence[tuple[str, str]], count: int, max_bad_fraction: float
) -> str:
    """Warn of images that cannot be read and are left out; return a note about them.

    Args:
        whose: The dataset, for messages.
        bad: Their names, each with the reason.
        count: Number of all images.
        max_bad_fraction: Fraction of `count` that may be unreadable.

    Raises:
        DataError: If there are more.
    """
    says = _unreadable(whose, bad, count)
    if len(bad) > max_bad_fraction * count:
        raise DataError(f"{says}; repair or remove them, or allow more with --max-bad-fraction")
    warnings.warn(f"{says}; left out.", stacklevel=3)
    return f"{len(bad)} images cannot be read: {first_few([name for name, _ in bad], 20)}"


def _unreadable(whose: object, bad: Sequence[tuple[str, str]], count: int) -> str:
    named = first_few([f"{name} ({reason})" for name, reason in bad], 20)
    return f"{whose}: {len(bad)} of {count} images cannot be read: {named}"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A dataclass whose fields are checked against their types and declared ranges."""

    def __post_init__(self) -> None:
        """Check the fields."""
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class Compute(Settings):
    """Where and how to compute; only `seed` and `size` change numbers beyond rounding.

    Attributes:
        seed: Seed of random initialisations and of everything an evaluator draws.
        batch_size: Images per batch.
        workers: Processes that read images.
        device: `cpu` or `cuda:0`, for example; by default a GPU if there is one.
        cache: Folder for extracted features; by default the user's cache folder.
        no_cache: Extract features without reading or writing the cache.
        progress: Whether to show progress bars; by default on a terminal.
        max_bad_fraction: Fraction of the images that may be unreadable. Unreadable ones are named
            and left out of all splits.
        size: Height and width in pixels of the networks' input. By default models of the zoo take
            their own; `random-init:` and timm's models that of the zoo's model they are compared
            with, or else that of the first of them.
    """

    seed: Annotated[int, Range(0, 2**63 - 1)] = 0
    batch_size: Annotated[int, Range(1)] = 64
    workers: Annotated[int, Range(0)] = 0
    device: str | None = None
    cache: Path | None = None
    no_cache: bool = False
    progress: bool | None = None
    max_bad_fraction: Annotated[float, Range(0, 1)] = 0.05
    size: Annotated[int | None, Range(1)] = None

    def bar(self, items: Iterable[T] | None = None, **settings: Any) -> "tqdm[T]":
        """Return a tqdm progress bar on standard error, shown if `progress` says so."""
        disable = None if self.progress is None else not self.progress
        return tqdm(items, file=sys.stderr, disable=disable, **settings)


@dataclass(eq=False)
class EvalContext:
    """A feature source on a dataset.

    Attributes:
        source: The model, or its features.
        data: The dataset.
        compute: How to compute.
    """

    source: FeatureSource
    data: EvalData
    compute: Compute

    @property
    def model(self) -> nn.Module:
        """The network, in training or evaluation mode.

        Raises:
            ConfigError: If the source is a file of features.
        """
        if self.source.model is None:
            raise needs_network(self.source.name)
        return self.source.model

    @cached_property
    def projector(self) -> ConditionedProjector | None:
        """The projector that belongs to the network, if there is one."""
        return None if self.source.projector is None else self.source.projector()

    @property
    def transform(self) -> Callable[[Image.Image], Tensor]:
        """The function from an image to the network's input (C, H, W)."""
        return self.source.transform or eval_transform(self.model)

    @cached_property
    def features(self) -> Tensor:
        """Features (N, D) of all images, float32 on the CPU; extracted once.

        Features of a network are cached on disk if the source allows it.

        Raises:
            DataError: If images cannot be read, a feature file does not match the images, or the
                features cannot be used: NaN, infinite, all zero, or of width 0.
        """
        source, data = self.source, self.data
        if source.features is not None:
            count = len(data.images)
            features, unread = features_of(source.features, data.names, count, data.root)
            features = features.float()  # norms of float16 features may overflow
            if unread:
                raise UnreadableImagesError(data, unread, features)
        else:
            steps = re.sub(r" at 0x[0-9a-f]+", "", str(self.transform))
            features = self.cached([steps], lambda: self.extract(self.model))
        self._check(features)
        return features

    def with_features(self, features: Tensor) -> "EvalContext":
        """Take features that were extracted before, and return the context.

        Raises:
            DataError: If the features cannot be used.
        """
        self._check(features)
        self.__dict__["features"] = features  # where cached_property looks
        return self

    def cached(self, key: Sequence[str], extract: Callable[[], Tensor]) -> Tensor:
        """Return features of the images, cached on disk if the source allows it.

        Args:
            key: Everything they depend on besides network, data and device.
            extract: Computes the features.
        """
        source, compute = self.source, self.compute
        if compute.no_cache or not source.cacheable:
            return extract()
        own = (
            source.sha256 or source.name,
            source.network,
            self.data.sha256,
            str(compute.device),
            str(software_versions()),  # as in the result; other versions may give other features
        )
        return cached_features(compute.cache or cache_folder(), [*own, *key], extract)

    def extract(self, model: nn.Module, rows: Tensor | None = None) -> Tensor:
        """Return the features (N, D) of images of the dataset.

        Args:
            model: A network with the same input as the context's.
            rows: Indices of the images; by default all.

        Raises:
            UnreadableImagesError: (a DataError) If images cannot be read.
        """
        images: Any = self.data.images
        if rows is not None:
            images = Subset(images, rows.tolist())
        found = extract_features(
            model,
            images,
            transform=self.transform,
            batch_size=self.compute.batch_size,
            num_workers=self.compute.workers,
            device=self.compute.device,
            progress=self.compute.progress,
        )
        if found.skipped:
            by_source = {skip.source: skip.reason for skip in found.skipped}
            reasons = {
                index: by_source[source]
                for place, index in enumerate(range(len(images)) if rows is None else rows.tolist())
                if (source := f"dataset[{place}]") in by_source
            }
            raise UnreadableImagesError(self.data, reasons, found.features)
        return found.features

    def _check(self, features: Tensor) -> None:
        whose = f"{self.source.name} on {self.data.name}"
        if features.ndim != 2 or not features.shape[1]:
            raise DataError(f"the features of {whose} are {tuple(features.shape)}; (N, D) needed.")
        bad = (~torch.isfinite(features)).any(1).nonzero().flatten()
        if len(bad):
            raise DataError(
                f"{len(bad)} of {len(features)} feature vectors of {whose} are NaN or infinite, "
                f"the first is that of image {self.data.name_of(int(bad[0]))}."
            )
        if not features.any():
            raise DataError(f"all features of {whose} are zero.")


def needs_network(name: str) -> ConfigError:
    """Return the error for a file of features where the network itself must run."""
    return ConfigError(
        f"{name} is a file of features, but this evaluation runs the network; give a model."
    )


Whiten: TypeAlias = Annotated[int | Path | None, Range(1)]
"""A number of components to fit, the file of a whitening, or `model` for the model's own."""


def whitened(context: EvalContext, whiten: int | Path | None) -> tuple[Tensor, str]:
    """Return a context's features whitened, and how, in words; as they are, and "", without.

    Args:
        context: The features and the dataset.
        whiten: The number of principal components of a whitening that is fitted to
            `EvalData.seen_images`, without labels; or the file of a fitted one, or `model`.

    Raises:
        ConfigError: See `Whitening.fit` and `Whitening.check_origin`.
        DataError: See `Whitening.fit` and `Whitening.load`.
        ModelFolderError: If the model has no whitening.
    """
    if whiten is None:
        return context.features, ""
    if isinstance(whiten, int):
        found = Whitening.fit(context.features[context.data.seen_images()], whiten)
        rule = f"{whiten} principal components of the images compared with, unlabelled"
    else:  # opened before features are extracted, which may take hours
        own = str(whiten) == OWN
        source = context.source
        found = source.whitening() if own else open_whitening(whiten, None)
        if found.origin or not own:
            stored = source.features
            origin = origin_of(context.model) if stored is None else stored.origin
            found.check_origin(origin, whiten)
        rule = (
            f"{found.components} principal components of {found.images:,} other images, "
            f"whitening {found.sha256()[:12]}"
        )
    return found(context.features), f"whitened to {rule}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """The findings of an evaluator.

    Attributes:
        metrics: Values by task (or stage, or augmentation) and metric; accuracies are in [0, 1].
        protocol: How they were measured, by part, in words and numbers, without paths.
        series: Curves by name, for figures: `{"explained_variance": [0.4, ...]}`.
        files: Images and pages to be written beside the result, by name with extension.
        scores: Per-image values that the metrics are means of, for intervals and paired tests.
    """

    metrics: dict[str, dict[str, float]]
    protocol: dict[str, Any]
    series: dict[str, list[float]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    scores: tuple[Scores, ...] = ()


class Evaluator(Protocol):
    """A frozen dataclass whose fields are its settings, and the options of its command."""

    def evaluate(self, context: EvalContext) -> Outcome:
        """Measure.

        Raises:
            DataError: If the data cannot be used.
            ConfigError: If the settings do not fit source and data.
        """


def check_distinct(name: str, values: Sequence[object]) -> None:
    """Check that a setting has at least one value and no duplicates.

    Raises:
        ConfigError: Naming the setting and its values.
    """
    if not values or len(set(values)) < len(values):
        raise ConfigError(f"{name} must be one or more different values, got {tuple(values)}.")
