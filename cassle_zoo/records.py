"""The contracts between the stages, each written once: a run's export, and an evaluation's result.

train writes a `RunExport` that hub reads; eval writes a `Result` that hub, the report and the study
read. Both are JSON with a `format_version`; `cassle-zoo upgrade` rewrites older files.
"""

import datetime
import math
import platform
import re
import subprocess
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Self, TypeVar, get_args, get_origin, get_type_hints

from cassle_zoo.common.config import is_finite
from cassle_zoo.common.errors import DataError, ModelFolderError
from cassle_zoo.common.files import parse_json, to_json, write_json, write_text
from cassle_zoo.specs import RANDOM_INIT, RAW_PIXELS
from cassle_zoo.version import __version__

FORMAT_VERSION = 2
"""Format version of run exports, results and the study's records."""

RESULTS_FOLDER = Path(__file__).resolve().parent / "eval" / "results"
"""The recorded results of the zoo's models and baselines."""

FINAL_FOLDER = "final"
SNAPSHOTS_FOLDER = "snapshots"
"""Folder of a run with an export for each epoch that was asked for; see `snapshot_folder`."""
EXPORT_FILE = "export.json"
BACKBONE_FILE = "backbone.safetensors"
PROJECTOR_FILE = "projector.safetensors"
CHECKPOINT_FILE = "checkpoint.pt"
PREVIOUS_CHECKPOINT_FILE = "checkpoint.previous.pt"

SETTINGS_FILE = "config.json"
"""The settings of a run, in its folder."""
START = "starting_weights"
"""Key in a run's settings that holds the fields of its `StartingWeights`."""

RENAMED_SETTINGS: Mapping[str, str] = {
    "conditioning.how": "conditioning.mode",
    "data.max_bad_share": "data.max_bad_fraction",
}
"""Training settings that were renamed after format 1: the new names by the old ones."""

OF_THE_MODEL = ("input", "network", "chosen", "projector")
"""Prefixes of the parts of a protocol that are about the model and differ between any two."""

Finite = Annotated[float, math.isfinite]
FileName = Annotated[str, lambda name: Path(name).name == name]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class StartingWeights:
    """The weights that a run started from; in its settings and in `RunExport.training`.

    Attributes:
        name: Their name, without folders.
        sha256: SHA-256 of the backbone's file.
        license: Their licence (SPDX); `None` if it is not known.
        origin: Where they come from, in words or as an address; `None` if it is not known.
        projector: Whether the projector started from them, too.
        interpolation: How images were resized for them.
    """

    name: str
    sha256: str
    license: str | None
    origin: str | None
    projector: bool = False
    interpolation: str = "bicubic"


@dataclass(frozen=True, kw_only=True)
class RunExport:
    """The description of a run's weights, in `RUN/final/export.json`.

    Backbone (under timm's keys) and projector are beside it in `BACKBONE_FILE` and
    `PROJECTOR_FILE`, in float32; `export.json` is written last. Snapshots
    (`RUN/snapshots/EPOCH/`) have the same files. `RUN/export.json` describes the weights in
    checkpoints.

    Attributes:
        name: Full name of the model.
        method: Joint-embedding method.
        timm_arch: Name of the timm model that the weights fit.
        model_args: Arguments of the timm model.
        projector: Fields of `ProjectorConfig`.
        input_size: (channels, height, width) in pixels.
        mean: Per-channel mean subtracted from images in [0, 1].
        std: Per-channel standard deviation they are divided by.
        interpolation: How images are resized for the network.
        training: How the weights were made: `config` (all settings), `steps`, `total_steps` if
            that is more, `images` (`count`, `names` and perhaps `sha256`), `command`, `init`
            (fields of :class:`StartingWeights`, if it was not trained from random weights), and
            the versions of :func:`code_version`.
    """

    name: str
    method: str
    timm_arch: str
    model_args: dict[str, Any] = field(default_factory=dict)
    projector: dict[str, Any]
    input_size: tuple[int, int, int]
    mean: tuple[Finite, ...]
    std: tuple[Finite, ...]
    training: dict[str, Any]
    interpolation: str = "bicubic"

    def save(self, folder: Path, *, sync: bool = True) -> None:
        """Write `export.json`; the weights come first. With `sync`, it survives a crash."""
        values = {"format_version": FORMAT_VERSION, **asdict(self)}
        write_json(folder / EXPORT_FILE, values, sync=sync)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read `export.json` in a folder.

        Raises:
            ModelFolderError: If it is missing, malformed, or of another format.
        """
        path = folder / EXPORT_FILE
        try:
            export = _from_json(cls, path.read_text(encoding="utf-8"), str(path))
            for name in ("mean", "std"):
                values, count = list(getattr(export, name)), export.input_size[0]
                if len(values) != count:
                    raise DataError(f"{path}: {name} is {values!r}, expected {count} values.")
            return export
        except FileNotFoundError:
            raise ModelFolderError(
                f"{path} is missing, so {folder} does not hold the weights of a run. Repeat the "
                "`cassle-zoo train` command of the run to continue it."
            ) from None
        except (DataError, OSError, UnicodeDecodeError) as error:
            raise ModelFolderError(f"{error} If it is damaged, continue the run.") from error


@dataclass(frozen=True, kw_only=True)
class MeasuredModel:
    """The model that was measured.

    Attributes:
        name: Name, without folders.
        sha256: SHA-256 of its weights; `None` if there are none.
    """

    name: str
    sha256: str | None


@dataclass(frozen=True, kw_only=True)
class MeasuredData:
    """The dataset that a model was measured on.

    Attributes:
        name: Name, without folders.
        sha256: SHA-256 of images and labels.
    """

    name: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of one evaluation of one model, with everything needed to repeat it.

    Attributes:
        task: The evaluation, for example `emoji64`.
        model: The model.
        data: The dataset.
        protocol: How it was measured, by part.
        metrics: Values by sub-task and metric; accuracies and recalls are in [0, 1].
        seed: Seed of everything random.
        versions: Versions of the software.
        command: The command that repeats the measurement.
        seconds: Duration of each part.
        created: Time of the measurement, in UTC (ISO 8601).
        series: Curves by name, for figures.
        files: Names of files written beside the result: images, pages, and the scores of each image
            (`cassle_zoo.eval.scores`).
    """

    task: str
    model: MeasuredModel
    data: MeasuredData
    protocol: dict[str, Any]
    metrics: dict[str, dict[str, Finite]]
    seed: int
    versions: dict[str, str]
    command: str
    seconds: dict[str, Finite]
    created: str
    series: dict[str, list[float]] = field(default_factory=dict)
    files: list[FileName] = field(default_factory=list)

    @property
    def is_baseline(self) -> bool:
        """Whether the model is untrained: raw pixels, or a random network."""
        return self.model.name == RAW_PIXELS or self.model.name.startswith(RANDOM_INIT)

    @property
    def argument(self) -> str:
        """The model as the command names it, with folders; its name if there is no command."""
        found = re.match(r"cassle-zoo eval \S+ (.+?) --data ", self.command)
        return found[1].strip("'") if found else self.model.name

    def is_comparable(self, other: "Result") -> bool:
        """Return whether both were measured in the same way on the same data."""
        return self._conditions() == other._conditions()

    def _conditions(self) -> tuple[object, ...]:
        protocol = {k: v for k, v in self.protocol.items() if not k.startswith(OF_THE_MODEL)}
        return self.task, self.data, self.seed, protocol

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object that :meth:`to_json` writes."""
        return {"format_version": FORMAT_VERSION, **asdict(self)}

    def to_json(self) -> str:
        """Return the result as JSON; equal results give equal text."""
        return to_json(self.to_dict())

    @classmethod
    def from_json(cls, text: str, source: str = "result") -> Self:
        """Read what :meth:`to_json` wrote.

        Args:
            text: The JSON text.
            source: Its name in error messages.

        Raises:
            DataError: If it is not JSON, of another format, incomplete, or holds a value of a
                wrong type or a metric that is not finite.
        """
        return _from_json(cls, text, source)

    def save(self, path: str | Path) -> None:
        """Write to a file, whole or not at all; its folder is created."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_text(path, self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read from a file.

        Raises:
            DataError: See :meth:`from_json`; also if the file cannot be read.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read {path}: {error}") from error
        return cls.from_json(text, str(path))


def read_results(folder: Path = RESULTS_FOLDER) -> list[Result]:
    """Read all recorded results of a folder, in the order of their file names.

    Raises:
        DataError: If a file is not a result.
    """
    return [Result.load(path) for path in sorted(folder.glob("*.json"))]


def training_settings(training: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings in `training` of an export or a model folder; empty if unknown."""
    config = training.get("config")
    if isinstance(config, Mapping):  # of a converted checkpoint its file is named, too
        config = config.get(SETTINGS_FILE, config)
    return config if isinstance(config, Mapping) else {}


def snapshot_folder(run: Path, epoch: int) -> Path:
    """Return the folder of a run's export after an epoch."""
    return run / SNAPSHOTS_FOLDER / f"{epoch:04d}"


def without_format_version(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Check the `format_version` of a file's content, and return the rest.

    Raises:
        DataError: If it is not the current one.
    """
    found = values.get("format_version")
    if found != FORMAT_VERSION:
        newer = isinstance(found, int) and found > FORMAT_VERSION
        fix = "update cassle-zoo" if newer else "rewrite it with `cassle-zoo upgrade PATH`"
        format_ = "an earlier format" if found is None else f"format_version {found}"
        raise DataError(f"{source} has {format_}, but this version reads {FORMAT_VERSION}; {fix}.")
    return {name: value for name, value in values.items() if name != "format_version"}


def software_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that affect numbers."""
    import timm
    import torch

    return {
        "cassle_zoo": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
    }


def code_version() -> dict[str, str | None]:
    """Return the versions of the software, and the git commit if it runs from a clone."""
    return {**software_versions(), "commit": _commit(Path(__file__).resolve().parents[1])}


def now_utc() -> str:
    """Return the time as recorded in :attr:`Result.created`."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _commit(root: Path) -> str | None:
    """Return the commit of a clone; `None` for an installed package, even in another clone."""
    if not (root / ".git").exists():
        return None
    words = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        git = subprocess.run(words, cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # no git on this machine, or not its clone
        return None
    return git.stdout.strip()


def _from_json(kind: type[T], text: str, source: str) -> T:
    try:
        values = parse_json(text)
    except ValueError as error:
        raise DataError(f"{source} is not a JSON object: {error}.") from error
    values = without_format_version(values, source)
    try:
        content: T = _read_object(kind, values, "")
    except ValueError as error:
        raise DataError(f"{source}: {error}.") from None
    return content


def _read(kind: Any, value: Any, name: str) -> Any:
    """Convert a JSON value to a type: lists to tuples, objects to dataclasses."""
    origin, arguments = get_origin(kind) or kind, get_args(kind)
    if origin is Any or (value is None and NoneType in arguments):
        return value
    if origin is UnionType:
        return _read(arguments[0], value, name)
    if origin is Annotated:
        if not arguments[1](_read(arguments[0], value, name)):
            raise ValueError(f"{name} must not be {value!r}")
        return value
    json_type, word = _JSON.get(origin, (dict, "an object"))
    if not isinstance(value, json_type) or isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}, expected {word}")
    if origin is float and isinstance(value, int) and not is_finite(value):
        raise ValueError(f"{name} is too large for a number")
    if origin is list:
        return [_read(arguments[0], item, name) for item in value]
    if origin is dict:
        return {key: _read(arguments[1], item, f"{name}.{key}") for key, item in value.items()}
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            arguments = arguments[:1] * len(value)
        if len(value) != len(arguments):
            raise ValueError(f"{name} is {value!r}, expected {len(arguments)} values")
        return tuple(_read(own, item, name) for own, item in zip(arguments, value, strict=True))
    return _read_object(kind, value, name) if is_dataclass(kind) else value


def _read_object(kind: Any, values: Mapping[str, Any], name: str) -> Any:
    hints = get_type_hints(kind, include_extras=True)
    needed = {f.name for f in fields(kind) if f.default_factory is MISSING is f.default}
    for what, wrong in (("lacks", needed - set(values)), ("has unknown", set(values) - set(hints))):
        if wrong:
            raise ValueError(f"{name or 'the file'} {what} {', '.join(sorted(wrong))}")
    prefix = f"{name}." if name else ""
    return kind(**{key: _read(hints[key], item, prefix + key) for key, item in values.items()})


_JSON: Mapping[Any, tuple[Any, str]] = {
    str: (str, "a text"),
    int: (int, "a whole number"),
    float: (int | float, "a number"),
    list: (list, "a list"),
    tuple: (list, "a list"),
}
