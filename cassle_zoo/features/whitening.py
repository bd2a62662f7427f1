"""PCA whitening, after which every principal component counts equally in a cosine.

Raw cosines mostly compare the few directions along which features vary most; docs/study.md measures
the effect of whitening. See Jégou and Chum, "Negative evidences and co-occurrences in image
retrieval: the benefit of PCA and whitening", ECCV 2012.
"""

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from cassle_zoo.common.errors import ConfigError, DataError, ModelFolderError, StorageError
from cassle_zoo.common.files import expand_home, sha256, write_bytes
from cassle_zoo.features.wrappers import unwrap
from cassle_zoo.store.folder import WHITENING_FILE
from cassle_zoo.store.model_files import resolve_optional
from cassle_zoo.store.tensors import layer_prefixes, state_sha256

OWN = "model"
"""Given instead of a file, it means the whitening in the model's folder."""

_CHUNK = 8192  # rows at a time
_FORMAT_VERSION = "1"
_MARK = 12  # hexadecimal digits
_COUNTER = "num_batches_tracked"
_DTYPES = (torch.float32, torch.float64)  # on disk; version 0.2.0 writes the first
_ENOUGH = 2  # images per component; with fewer, the smallest variances are near 0 by chance


@dataclass(frozen=True, kw_only=True, eq=False)
class Whitening:
    """An affine map, fitted to features so that they have unit covariance after it.

    Attributes:
        mean: (D,) float64, with values that float32 holds exactly.
        projection: (D, K), likewise: principal directions, divided by their standard deviations.
        images: Number of feature vectors that it was fitted to.
        origin: Which features those were, from :func:`origin_of`; empty if that is not known, so
            that nothing can be checked.
    """

    mean: Tensor
    projection: Tensor
    images: int = 0
    origin: str = ""

    @property
    def components(self) -> int:
        """The number K of principal components."""
        return self.projection.shape[1]

    @classmethod
    def fit(cls, features: Tensor, components: int, *, origin: str = "") -> "Whitening":
        """Fit to features, for example of the gallery to be searched; no labels are used.

        Args:
            features: (N, D), N at least 2 K.
            components: K, the number of principal components; at most D.
            origin: The `origin` of the features' FeatureSet or Extractor, so that the whitening is
                not applied to those of another model.

        Raises:
            ConfigError: If `components` is not in [1, D].
            DataError: If features are not finite, too few, or vary in too few directions.
        """
        features = features.detach()
        check_features(features)
        count, width = features.shape
        if not 1 <= components <= width:
            raise ConfigError(
                f"{components} components: expected 1 to {width}, the width of the features."
            )
        if count < _ENOUGH * components:
            raise DataError(
                f"whitening to {components} components needs {_ENOUGH * components} images, got "
                f"{count}; use at most {count // _ENOUGH} components."
            )
        mean, covariance = mean_and_covariance(features)
        variances, directions = (found.flip(-1) for found in torch.linalg.eigh(covariance))
        # Even equal features have some variance, from rounding.
        noise = torch.finfo(torch.float64).eps * width * torch.trace(covariance + mean.outer(mean))
        rank = int((variances > noise).sum())
        if rank < components:
            raise DataError(
                f"the features vary in {rank} directions only; {components} components requested."
            )
        largest = slice(components)
        projection = directions[:, largest] / variances[largest].sqrt()
        # Rounded to float32 here, so that saving does not change the whitening.
        mean, projection = mean.float().double(), projection.float().double()
        return cls(mean=mean, projection=projection, images=count, origin=origin)

    def check_origin(self, origin: str, what: object) -> None:
        """Check that it was fitted to features of the same origin.

        Args:
            origin: That of the features to be whitened; empty if it is not known.
            what: What was asked for, for messages: the whitening, its file, or `model`.

        Raises:
            ConfigError: It was fitted to other features.

        Warns:
            UserWarning: Either origin is not known.
        """
        if isinstance(what, Whitening):
            what = "given"
        elif str(what) == OWN:
            what = "in the model's folder"
        advice = "fit one to features of the same model and output (`cassle-zoo whiten`)"
        if not self.origin or not origin:
            silent = "the features do" if self.origin else "it does"
            warnings.warn(
                f"the whitening {what} is applied unchecked, since {silent} not say of which "
                f"model; if it is of another, {advice}.",
                stacklevel=3,
            )
        elif self.origin != origin:
            raise ConfigError(
                f"the whitening {what} was fitted to features {self.origin}, but is applied to "
                f"{origin}; {advice}."
            )

    def sha256(self) -> str:
        """Return a hash of mean and projection."""
        tensors = (self.mean, self.projection)
        return sha256(b"".join(t.cpu().contiguous().numpy().tobytes() for t in tensors))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a .safetensors file: `mean`, `projection` (float32); metadata `images`, `origin`.

        Raises:
            ConfigError: If the path has another ending.
            StorageError: If it cannot be written.
        """
        path = Path(path)
        if path.suffix != ".safetensors":
            raise ConfigError(f"{path}: a whitening is saved as .safetensors.")
        found = {"mean": self.mean, "projection": self.projection}
        tensors = {name: values.float().cpu().contiguous() for name, values in found.items()}
        metadata = {"format_version": _FORMAT_VERSION, "images": str(self.images)}
        metadata |= {"origin": self.origin} if self.origin else {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, save(tensors, metadata))
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror or error}.") from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Whitening":
        """Read from a file.

        Raises:
            DataError: If there is no such file, or it does not hold a whitening.
        """
        path = Path(path)
        if not path.is_file():
            raise DataError(f"there is no whitening {path}; `cassle-zoo whiten` fits one.")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format_version") != _FORMAT_VERSION:
                    raise ValueError(f"format_version is not {_FORMAT_VERSION}")
                mean, projection = (file.get_tensor(name) for name in ("mean", "projection"))
                images, origin = int(metadata["images"]), metadata.get("origin", "")
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise DataError(
                f"{path} is not a whitening, or damaged: {error}. `cassle-zoo whiten` fits one."
            ) from error
        fits = projection.ndim == 2 and mean.shape == projection.shape[:1] and projection.numel()
        if not fits or not all(
            tensor.dtype in _DTYPES and bool(torch.isfinite(tensor).all())
            for tensor in (mean, projection)
        ):
            raise DataError(
                f"{path} is not a whitening, or damaged: mean {tuple(mean.shape)} and projection "
                f"{tuple(projection.shape)} must be (D,) and (D, K) of finite float32."
            )
        mean, projection = mean.double(), projection.double()
        return cls(mean=mean, projection=projection, images=images, origin=origin)

    def __call__(self, features: Tensor) -> Tensor:
        """Return whitened features.

        Args:
            features: (N, D), on the device of the whitening.

        Returns:
            (N, K) float32.

        Raises:
            DataError: If D is not the width of the features that it was fitted to.
        """
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            raise DataError(
                f"features {tuple(features.shape)}: expected (N, {len(self.mean)}), as the "
                "whitening was fitted to."
            )
        parts = features.split(_CHUNK)
        return torch.cat([((x.double() - self.mean) @ self.projection).float() for x in parts])


def origin_of(model: nn.Module, output: str = "pooled") -> str:
    """Return which features a model's are: the output, and a hash of weights and buffers.

    The classifier does not count, as features are its input, nor do BatchNorm's counters, which
    only training reads. It is empty of weights that were cast or quantised, because their hash is
    not that of the model they are of, and of a module around models of timm: only running it shows
    whether it changes their features.
    """
    found = unwrap(model)
    state = found.network.state_dict()
    is_around = found.several or found.model not in (None, found.network)
    if is_around or not all(map(_as_published, state.values())):
        return ""
    heads = layer_prefixes(getattr(found.network, "pretrained_cfg", None) or {}, "classifier")
    counters = [name for name in state if name.endswith(_COUNTER)]
    mark = state_sha256(found.network, without=(*heads, *counters))[:_MARK]
    return f"{output!r} of weights {mark}"


def _as_published(value: object) -> bool:
    if type(value) is not Tensor or value.is_quantized:  # torchao's are subclasses
        return False
    return value.dtype == torch.float32 or not value.is_floating_point()


def model_whitening(name: str) -> Whitening | None:
    """Return the whitening in the folder of a model; `None` if there is none.

    Args:
        name: As for :func:`cassle_zoo.create_model`.

    Raises:
        DataError: If the file is damaged.
        ChecksumError: If it is not the published one.
    """
    path = resolve_optional(name, WHITENING_FILE)
    return None if path is None else Whitening.load(path)


def open_whitening(what: str | os.PathLike[str], model: str | None) -> Whitening:
    """Open the whitening in a file or, for `model`, the one in the model's folder.

    Args:
        what: The file, or `model`.
        model: Name of the model, if it has one.

    Raises:
        ConfigError: If it is no path.
        DataError: If there is no such file, or it does not hold a whitening.
        ModelFolderError: If the model's folder has none.
    """
    if not isinstance(what, str | os.PathLike):
        raise ConfigError(f"whiten is {what!r}; give a Whitening, the file of one, or {OWN!r}.")
    if os.fspath(what) != OWN:
        return Whitening.load(expand_home(Path(what)))
    found = None if model is None else model_whitening(model)
    if found is None:
        raise ModelFolderError(
            f"{model or 'the model'} comes without {WHITENING_FILE}; fit one with `cassle-zoo "
            f"whiten FEATURES -o FILE` and pass the file. (A file called {OWN!r}: ./{OWN}.)"
        )
    return found


def check_features(features: Tensor) -> None:
    """Check that features are (N, D), N at least 2, and finite.

    Raises:
        DataError: If not.
    """
    if features.ndim != 2 or len(features) < 2 or features.shape[1] < 1:
        raise DataError(f"features {tuple(features.shape)}: expected (N, D) with N at least 2.")
    # In chunks, since torch makes copies of what it checks.
    if not all(bool(torch.isfinite(part).all()) for part in features.split(_CHUNK)):
        raise DataError("features are NaN or infinite.")


def mean_and_covariance(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean (D,) and covariance (D, D), with N - 1 in the denominator, in float64."""
    total = torch.zeros(features.shape[1], dtype=torch.float64, device=features.device)
    for part in features.split(_CHUNK):
        total += part.double().sum(0)
    mean = total / len(features)
    return mean, second_moments(features, mean) / (len(features) - 1)


def second_moments(features: Tensor, centre: Tensor) -> Tensor:
    """Return the sum over rows of (x - centre) (x - centre)ᵀ as (D, D) float64.

    Args:
        features: (N, D).
        centre: (D,) float64.
    """
    width = features.shape[1]
    total = torch.zeros(width, width, dtype=torch.float64, device=features.device)
    for part in features.split(_CHUNK):
        centred = part.double() - centre
        total += centred.T @ centred
    return total
