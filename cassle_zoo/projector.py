"""The conditioned projector: pi(features | omega).

An ordinary SSL projector sees only the features of a view, so the loss rewards features that
ignore the augmentation. The conditioned projector also sees the view's augmentation descriptor
omega and can undo the augmentation itself, provided that the features still hold what it changed
(paper, section 3 and figure 4).
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Self

import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin, hf_hub_download
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError
from torch import Tensor, nn

from cassle_zoo.augmentation.descriptors import PAPER_DESCRIPTORS, DescriptorLayout
from cassle_zoo.common.config import OneOf, Range, check_fields
from cassle_zoo.common.errors import (
    CassleZooError,
    ConfigError,
    ModelFolderError,
    UnknownNameError,
)
from cassle_zoo.common.files import read_json
from cassle_zoo.common.hub_client import client_errors, download_error

CONDITIONINGS: tuple[str, ...] = (
    "cat",
    "add",
    "mul",
    "hypernet",
    "hypernet_bn",
    "raw_cat",
    "raw_add",
    "raw_mul",
    "none",
)
"""How omega enters the projector: `cat`, `add`, `mul` join the encoded omega with the features,
`raw_*` join omega itself, `hypernet` generates the projector's weights from omega, `hypernet_bn`
also has an ordinary, learned BatchNorm after each generated hidden layer, `none` ignores omega (the
plain projector)."""

_HYPERNETS = ("hypernet", "hypernet_bn")

Count = Annotated[int, Range(1)]
Depth = Annotated[int, Range(1, 100)]


@dataclass(frozen=True, kw_only=True)
class ProjectorConfig:
    """Shape and conditioning of a projector.

    Attributes:
        in_features: Width of the backbone's features.
        out_features: Width of the projection.
        hidden_features: Width of the hidden layers; `None` means `in_features`.
        depth: Number of Linear layers, at most 100.
        last_bn: Whether a BatchNorm follows the last Linear (which then has no bias, unless it is
            generated: BatchNorm does not cancel a bias that differs from sample to sample).
        last_bn_affine: Whether that BatchNorm has weight and bias.
        conditioning: One of :data:`CONDITIONINGS`.
        descriptors: Names of the descriptors that make up omega; stored sorted.
        columns: For descriptors that are not the paper's: what each of their numbers means, by
            descriptor name. Taken from their augmentations by default; stored with the
            configuration, so that a projector also loads where these are not installed.
        encoder_depth: Number of Linear layers of the augmentation encoder (or hypernetwork), at
            most 100.
        encoder_width: Width of its hidden layers, and of its output for `cat`.

    Raises:
        ConfigError: If a value is not allowed, or values exclude each other.
        UnknownNameError: If `conditioning` or a descriptor does not exist.

    Examples:
        >>> config = cassle_zoo.ProjectorConfig(in_features=512, descriptors=("crop", "color"))
        >>> config.layout.width, config.hidden, config.conditioning
        (8, 512, 'cat')
    """

    in_features: Count
    out_features: Count = 128
    hidden_features: Annotated[int | None, Range(1)] = None
    depth: Depth = 2
    last_bn: bool = False
    last_bn_affine: bool = True
    conditioning: Annotated[str, OneOf(CONDITIONINGS)] = "cat"
    descriptors: tuple[str, ...] = PAPER_DESCRIPTORS
    columns: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict, hash=False)
    encoder_depth: Depth = 6
    encoder_width: Count = 64

    def __post_init__(self) -> None:
        """Check every field."""
        check_fields(self)
        layout = self.layout
        object.__setattr__(self, "descriptors", layout.names)
        object.__setattr__(self, "columns", layout.columns)
        if self.conditioning != "none" and not layout.names:
            raise ConfigError(
                f"conditioning {self.conditioning!r} needs at least one descriptor; "
                "use conditioning 'none' for the plain projector."
            )
        if self.conditioning in ("raw_add", "raw_mul") and layout.width != self.in_features:
            raise ConfigError(
                f"conditioning {self.conditioning!r} joins omega ({layout.width} numbers) with "
                f"the features ({self.in_features}) element by element, so both widths must be "
                "equal; use 'raw_cat', 'add' or 'mul'."
            )
        if self.conditioning == "hypernet" and self.last_bn:
            raise ConfigError(
                "conditioning 'hypernet' has no BatchNorm; set last_bn=False, or use 'hypernet_bn'."
            )
        if self.conditioning == "hypernet_bn" and self.depth == 1 and not self.last_bn:
            raise ConfigError(
                "conditioning 'hypernet_bn' with depth 1 and no last_bn has no layer that a "
                "BatchNorm could follow; use 'hypernet', or depth 2 or more."
            )

    @property
    def hidden(self) -> int:
        """Width of the hidden layers with the default filled in."""
        return self.in_features if self.hidden_features is None else self.hidden_features

    @property
    def layout(self) -> DescriptorLayout:
        """Names and columns of omega."""
        return DescriptorLayout(self.descriptors, self.columns)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types; `columns` only if there are any."""
        values = {**dataclasses.asdict(self), "descriptors": list(self.descriptors)}
        columns = {name: list(texts) for name, texts in values.pop("columns").items()}
        return {**values, "columns": columns} if columns else values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ProjectorConfig":
        """Build a configuration from what :meth:`to_dict` returned.

        Args:
            values: Field names and values.

        Raises:
            ConfigError: If a field is unknown or missing, or has a wrong value.
            UnknownNameError: If `conditioning` or a descriptor does not exist.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ConfigError(f"unknown projector fields {unknown}; known: {sorted(known)}.")
        if "in_features" not in values:
            raise ConfigError("the projector configuration lacks 'in_features'.")
        return cls(**values)


class ConditionedProjector(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="cassle-zoo",
    paper_url="https://arxiv.org/abs/2306.06082",
    tags=["self-supervised-learning", "cassle"],
):
    """Projects the features of views, given how these were augmented, for the SSL loss.

    `save_pretrained`, `push_to_hub` and `from_pretrained` save and load a projector on its own;
    unlike huggingface_hub's default, loading refuses missing weights and unknown settings. To load
    the projector of a model folder, use :func:`cassle_zoo.create_projector`.

    Attributes:
        config: The configuration.
        layout: Names and columns of omega.
        encoder: The augmentation encoder or, for `hypernet*`, the hypernetwork; `None` when omega
            is used raw or not at all.
        layers: The projector itself; `None` for `hypernet*`, which generate its weights.
        norms: The BatchNorms of `hypernet_bn`, one per layer that has one; else `None`.

    Examples:
        >>> projector = cassle_zoo.ConditionedProjector(cassle_zoo.ProjectorConfig(in_features=512))
        >>> features, omega = torch.rand(8, 512), torch.rand(8, 13)
        >>> projector(features, omega).shape
        torch.Size([8, 128])
    """

    def __init__(self, config: ProjectorConfig | Mapping[str, Any]) -> None:
        """Build the projector with PyTorch's default initialisation.

        Args:
            config: The configuration, or its fields by name.

        Raises:
            ConfigError: See :meth:`ProjectorConfig.from_dict`.
            UnknownNameError: See :meth:`ProjectorConfig.from_dict`.
        """
        super().__init__()
        if not isinstance(config, ProjectorConfig):
            config = ProjectorConfig.from_dict(config)
        self.config = config
        self._hub_mixin_config = config.to_dict()
        self.layout = config.layout
        self.encoder = _build_encoder(config, self.layout.width)
        last = {"last_bn": config.last_bn, "last_bn_affine": config.last_bn_affine}
        generated = config.conditioning in _HYPERNETS
        self.layers = None if generated else build_mlp(mlp_widths(config), **last)
        self.norms = _build_norms(config) if config.conditioning == "hypernet_bn" else None

    def forward(self, features: Tensor, descriptors: Tensor | None = None) -> Tensor:
        """Project features, given how their views were augmented.

        Args:
            features: (B, in_features), the backbone's output.
            descriptors: (B, D) omega of each view, columns as in `layout`. Ignored, and may be
                `None`, only when `conditioning` is `none`.

        Returns:
            (B, out_features), not normalised.

        Raises:
            ConfigError: If a shape does not fit the configuration.
        """
        if features.ndim != 2 or features.shape[1] != self.config.in_features:
            raise ConfigError(
                f"features must be (batch, {self.config.in_features}), got {tuple(features.shape)}."
            )
        conditioning = self.config.conditioning
        if conditioning == "none":
            return self._project(features)
        expected = (len(features), self.layout.width)
        if descriptors is None or tuple(descriptors.shape) != expected:
            got = None if descriptors is None else tuple(descriptors.shape)
            raise ConfigError(
                f"descriptors must be {expected} with columns {self.layout.slices()}, got {got}."
            )
        omega = descriptors.to(features.dtype)
        if self.encoder is not None:
            omega = self.encoder(omega)
        if self.layers is None:
            return _apply_generated_mlp(features, omega, mlp_widths(self.config), self.norms)
        return self._project(_join(features, omega, conditioning))

    def _project(self, x: Tensor) -> Tensor:
        assert self.layers is not None
        projection: Tensor = self.layers(x)
        return projection

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, **kwargs: Any
    ) -> "ConditionedProjector":
        """Load a projector that `save_pretrained` or `push_to_hub` wrote.

        Args:
            pretrained_model_name_or_path: A folder, or `ORG/NAME` on the Hub.
            **kwargs: Arguments of huggingface_hub: `revision`, `token`, `cache_dir`,
                `force_download`, `local_files_only`, `map_location`, `strict`, and `config`, which
                replaces config.json.

        Returns:
            The projector, in evaluation mode.

        Raises:
            WeightsUnavailableError: If there is no such repository or revision, it is private or
                gated, or it cannot be reached and its files are not cached.
            UnknownNameError: If it is neither a folder nor a valid name of a repository.
            ModelFolderError: If it holds no projector, or a file is damaged.
            ConfigError: If config.json holds settings that a projector does not have.
            RuntimeError: If the weights do not fit the configuration.
        """
        name = str(pretrained_model_name_or_path)
        try:
            projector: ConditionedProjector = super().from_pretrained(name, **kwargs)
        except CassleZooError:
            raise
        except json.JSONDecodeError as error:
            raise ModelFolderError(f"config.json of {name} is damaged: {error}.") from error
        except AttributeError as error:
            if error.name != "items":  # huggingface_hub expects an object in config.json
                raise
            raise ModelFolderError(f"config.json of {name} is not a JSON object.") from error
        except SafetensorError as error:
            raise ModelFolderError(f"model.safetensors of {name} is damaged: {error}.") from error
        except HFValidationError:
            raise UnknownNameError(
                f"{name!r} is neither a folder nor the name of a Hub repository, ORG/NAME."
            ) from None
        except client_errors() as error:
            if isinstance(error, FileNotFoundError) and Path(name).is_dir():
                raise ModelFolderError(f"{name} holds no projector: {error}.") from error
            if Path(name).is_dir():
                raise
            revision = kwargs.get("revision") or "main"
            file = "model.safetensors"
            raise download_error(error, name, revision, file, kwargs.get("cache_dir")) from None
        return projector

    @classmethod
    def _from_pretrained(cls, *, strict: bool = True, **kwargs: Any) -> Self:
        """Load all weights or none, where huggingface_hub's default would load what fits."""
        if "config" not in kwargs:
            name = str(kwargs["model_id"])
            if Path(name).is_dir():
                raise ModelFolderError(
                    f"{name} has no config.json, so save_pretrained did not write it."
                )
            kwargs["config"] = cls._download_config(name, **kwargs)
        module: Self = super()._from_pretrained(strict=strict, **kwargs)
        return module

    @classmethod
    def _download_config(cls, name: str, **kwargs: Any) -> ProjectorConfig:
        """Request config.json again: huggingface_hub only logs why it could not get it."""
        names = ("revision", "cache_dir", "force_download", "local_files_only", "token")
        options = {key: kwargs[key] for key in names if key in kwargs}
        try:
            path = hf_hub_download(name, "config.json", **options)
        except client_errors() as error:
            revision, cache = options.get("revision") or "main", options.get("cache_dir")
            raise download_error(error, name, revision, "config.json", cache) from None
        config: ProjectorConfig = cls._decode_arg(ProjectorConfig, read_json(path))
        return config

    @classmethod
    def _decode_arg(cls, expected_type: Any, value: Any) -> Any:
        """Check the configuration; huggingface_hub would silently drop unknown fields."""
        if not isinstance(value, Mapping):
            return value
        if "cassle_zoo" in value:
            raise ModelFolderError(
                "this is a model folder, not a projector written by save_pretrained; use "
                "cassle_zoo.create_projector('local-dir:DIR', pretrained=True)."
            )
        return ProjectorConfig.from_dict(value)


def mlp_widths(config: ProjectorConfig) -> tuple[int, ...]:
    """Return the widths of the projector's layers, from its input to its output."""
    width = config.in_features
    if config.conditioning == "cat":
        width += config.encoder_width
    elif config.conditioning == "raw_cat":
        width += config.layout.width
    return (width, *([config.hidden] * (config.depth - 1)), config.out_features)


def build_mlp(
    widths: Sequence[int], *, last_bn: bool = False, last_bn_affine: bool = True
) -> nn.Sequential:
    """Return the MLP that projectors and predictors of SSL are made of.

    Each hidden layer is a Linear without bias, a BatchNorm and a ReLU; the last is a Linear.

    Args:
        widths: Widths of the input, the hidden layers and the output.
        last_bn: Whether a BatchNorm follows the last Linear, which then has no bias.
        last_bn_affine: Whether that BatchNorm has weight and bias.
    """
    modules: list[nn.Module] = []
    for n_in, n_out in pairwise(widths[:-1]):
        modules += [nn.Linear(n_in, n_out, bias=False), nn.BatchNorm1d(n_out), nn.ReLU()]
    modules.append(nn.Linear(widths[-2], widths[-1], bias=not last_bn))
    if last_bn:
        modules.append(nn.BatchNorm1d(widths[-1], affine=last_bn_affine))
    return nn.Sequential(*modules)


def _build_norms(config: ProjectorConfig) -> nn.ModuleList:
    norms = [nn.BatchNorm1d(width) for width in mlp_widths(config)[1:-1]]
    if config.last_bn:
        norms.append(nn.BatchNorm1d(config.out_features, affine=config.last_bn_affine))
    return nn.ModuleList(norms)


def _build_encoder(config: ProjectorConfig, width: int) -> nn.Sequential | None:
    if config.conditioning == "none" or config.conditioning.startswith("raw_"):
        return None
    if config.conditioning in _HYPERNETS:
        out = sum(n_in * n_out + n_out for n_in, n_out in pairwise(mlp_widths(config)))
    elif config.conditioning == "cat":
        out = config.encoder_width
    else:
        out = config.in_features
    hidden = [config.encoder_width] * (config.encoder_depth - 1)
    return build_mlp((width, *hidden, out), last_bn=True)


def _join(features: Tensor, omega: Tensor, conditioning: str) -> Tensor:
    mode = conditioning.removeprefix("raw_")
    if mode == "cat":
        return torch.cat([features, omega], dim=1)
    return features + omega if mode == "add" else features * omega


def _apply_generated_mlp(
    features: Tensor, weights: Tensor, widths: Sequence[int], norms: nn.ModuleList | None
) -> Tensor:
    """Run an MLP whose weights differ per sample: Linear with bias, ReLU between layers."""
    shapes = list(pairwise(widths))
    sizes = [size for n_in, n_out in shapes for size in (n_in * n_out, n_out)]
    parts = iter(weights.split(sizes, dim=1))  # slices would each get a gradient of full size
    hidden = features
    for layer, (n_in, n_out) in enumerate(shapes):
        matrix, bias = next(parts).view(-1, n_in, n_out), next(parts)
        if layer > 0:
            hidden = F.relu(hidden)
        hidden = torch.baddbmm(bias.unsqueeze(1), hidden.unsqueeze(1), matrix).squeeze(1)
        if norms is not None and layer < len(norms):
            hidden = norms[layer](hidden)
    return hidden
