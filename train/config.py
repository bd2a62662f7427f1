"""All settings of a training run. Each field is checked when a configuration is made."""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from timm.optim import list_optimizers

from cassle_zoo.augmentation.augment import AugmentConfig
from cassle_zoo.common.config import NOT_NEGATIVE, POSITIVE, OneOf, Range, check_fields
from cassle_zoo.common.devices import PRECISIONS
from cassle_zoo.common.errors import ConfigError, UnknownNameError, unknown_name
from cassle_zoo.common.files import parse_json
from cassle_zoo.specs import ALLOWED_NAME, model_name
from cassle_zoo.train.backbone import backbone_width
from cassle_zoo.train.data.view_config import ViewsConfig
from cassle_zoo.train.methods import METHODS, ConditioningConfig, MethodConfig
from cassle_zoo.train.methods.augself import AugSelfConfig
from cassle_zoo.train.methods.simclr import SimCLRConfig
from cassle_zoo.zoo.names import contradictions, dataset_of, resolve_arch, short_arch

STREAMS = ("hfids/", "tfds/", "wds/")
_DATASETS = (*STREAMS, "hfds/", "torch/")
LOGGERS = ("csv", "tensorboard", "wandb", "mlflow", "trackio")
CLIP_MODES = ("norm", "value", "agc")
_OPTIMIZERS = tuple(map(str, list_optimizers()))
AUTO_NAME = "auto"
OWN_TAG = "mine"
"""Default tag of a model trained on one's own images."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the images come from.

    Attributes:
        root: Folder or archive that holds the data.
        dataset: Empty for a folder or tar of images, or a folder written by `save_to_disk` of
            `datasets` (no labels needed); `emoji64`; or a name for timm's dataset factory:
            `wds/NAME`, `hfds/NAME`, `hfids/NAME`, `torch/NAME`, `tfds/NAME`.
        split: Split to train on, as the dataset names it; in a folder, the sub-folder of this name
            (the whole folder if the name is empty, or `train` and there is no such sub-folder).
        image_column: Column of the images, of `hfds/NAME` or a folder written by `save_to_disk`;
            by default the only one of type Image, or of several the one called `image`.
        samples: Number of images of a streamed dataset (`wds/`) that does not state it.
        workers: Processes that decode and crop; 0 does it in the main process. The shards of a
            stream are divided among them, so its order of images depends on their number.
        max_bad_fraction: Fraction of the images that may be unreadable before the run stops.
        decode: `exact`, or `fast`: JPEGs much larger than the views are decoded at 1/2, 1/4 or 1/8
            of their size, the smallest at which the smallest crop still covers the view; by
            default what the run began with, and `fast` for a new run.
    """

    root: str = ""
    dataset: str = ""
    split: str = "train"
    image_column: str = ""
    samples: Annotated[int | None, Range(1)] = None
    workers: Annotated[int, Range(0, 1024)] = 1
    max_bad_fraction: Annotated[float, Range(0, 1)] = 0.05
    decode: Literal["fast", "exact"] | None = None

    def __post_init__(self) -> None:
        check_fields(self, "data.")
        if self.dataset not in ("", "emoji64") and not self.dataset.startswith(_DATASETS):
            options = ("emoji64", *(f"{prefix}NAME" for prefix in _DATASETS))
            error = unknown_name("data.dataset", self.dataset, options)
            raise UnknownNameError(f"{error} '' is for a folder or tar of images.")

    @property
    def is_stream(self) -> bool:
        """Whether the images are read in the dataset's own order."""
        return self.dataset.startswith(STREAMS)


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How the weights are updated.

    Attributes:
        epochs: Passes over the data.
        batch_size: Images (not views) per step.
        accumulate: Parts in which a batch passes through the backbone, one after another, to save
            memory. Loss (negatives too), gradients, steps and learning rate are those of the whole
            batch; only BatchNorm in the backbone sees one part at a time. Costs a second forward
            pass.
        optimizer: Name for timm's optimiser factory; `momentum` is SGD without Nesterov. A prefix
            `lookahead_` is allowed.
        base_lr: Peak learning rate at batch 256; scaled linearly with the batch size.
        warmup_epochs: Epochs of linear increase from 0, before the cosine decay to 0.
        momentum: Momentum of optimisers that have one, such as SGD and LARS; Adam's have none.
        weight_decay: Weight decay.
        decay_all: Whether weight decay applies to every trained parameter, as in the paper's code
            and MoCo-v3's. If not, it spares biases, normalisation weights, and the parameters in
            the timm model's `no_weight_decay()`, such as a ViT's positions and class token.
        clip_grad: Limit for gradients, as `clip_mode` defines it; `None` does not clip.
        clip_mode: As in timm: `norm` of all gradients together, `value` of each number, or `agc`,
            the norm of each unit relative to that of its weights (arXiv 2102.06171).
        ema_decay: If set, the run's result (exports, snapshots, k-NN checks) is the exponential
            moving average of the weights of backbone and projector with this decay per step. It
            warms up: after t steps the decay is at most 1 - t^(-2/3).
        freeze_epochs: Epochs at the start in which the backbone is frozen, with its BatchNorm
            statistics, and only the rest (projector, augmentation encoder, ...) learns. For
            starting weights (`init`), which the gradients of an untrained projector would harm.
            Afterwards the backbone's learning rate rises from 0 within `warmup_epochs`.
        backbone_lr_scale: Factor on the learning rate of the backbone.
        layer_decay: Learning rate of each of the backbone's layers relative to the next one's, so
            that the first layers change least; 1 gives all the same. The layers are those of
            timm's `group_matcher`.
        backbone_bn: The backbone's BatchNorms: `train`; `eval`, which normalises with the running
            statistics of the starting weights and does not update them; or `frozen`, which does
            not train weight and bias either (as `timm.utils.freeze_batch_norm_2d`).
    """

    epochs: Annotated[int, Range(1)] = 100
    batch_size: Annotated[int, Range(2)] = 256
    accumulate: Annotated[int, Range(1)] = 1
    optimizer: str = "momentum"
    base_lr: Annotated[float, NOT_NEGATIVE] = 0.03
    warmup_epochs: Annotated[float, NOT_NEGATIVE] = 0.0
    momentum: Annotated[float, Range(0, 1)] = 0.9
    weight_decay: Annotated[float, NOT_NEGATIVE] = 5e-4
    decay_all: bool = True
    clip_grad: Annotated[float | None, POSITIVE] = None
    clip_mode: Annotated[str, OneOf(CLIP_MODES)] = "norm"
    ema_decay: Annotated[float | None, Range(0, 1)] = None
    freeze_epochs: Annotated[float, NOT_NEGATIVE] = 0.0
    backbone_lr_scale: Annotated[float, POSITIVE] = 1.0
    layer_decay: Annotated[float, Range(0, 1, open_low=True)] = 1.0
    backbone_bn: Literal["train", "eval", "frozen"] = "train"

    def __post_init__(self) -> None:
        check_fields(self, "optim.")
        rows, rest = divmod(self.batch_size, self.accumulate)
        if rest or rows < 2:
            raise ConfigError(
                f"optim.accumulate must divide optim.batch_size = {self.batch_size} into parts of "
                f"at least 2 images, got {self.accumulate}."
            )
        if self.optimizer.removeprefix("lookahead_") not in _OPTIMIZERS:
            raise unknown_name(
                "optim.optimizer",
                self.optimizer,
                _OPTIMIZERS,
                listed_by="timm.optim.list_optimizers()",
            )
        if self.clip_mode != "norm" and self.clip_grad is None:
            raise ConfigError(
                f"optim.clip_mode {self.clip_mode!r} does nothing without optim.clip_grad; give "
                "that the largest gradient, or leave the mode out."
            )
        for name in ("warmup_epochs", "freeze_epochs"):
            if (value := getattr(self, name)) > self.epochs:
                raise ConfigError(
                    f"optim.{name} must be within [0, optim.epochs = {self.epochs}], got {value}."
                )

    @property
    def peak_lr(self) -> float:
        """The learning rate at its highest."""
        return self.base_lr * self.batch_size / 256


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Settings that do not change the result, up to floating-point rounding, except `seed`.

    Attributes:
        seed: Seeds initialisation, order of the data, augmentation, and dropout in networks that
            have it.
        device: Device to train on; `None` picks a GPU if there is one.
        precision: `auto`, `fp32`, `bf16` or `fp16` (autocast); `auto` is bf16 where it is faster,
            else fp32. fp16, for GPUs before Ampere, scales the loss, and skips steps whose
            gradients overflow. Whether fp32 uses TF32 on GPUs is up to torch's own switches (by
            default convolutions do).
        compile: Compile the backbone with torch.compile. The first steps take minutes; a run may
            be continued with or without it.
        channels_last: Memory format of images and convolutions; faster where bf16 is native.
        threads: CPU threads of torch; `None` leaves the choice to torch.
        timeout: Seconds that each of several processes (torchrun) waits for the others.
        checkpoint_every: Steps between checkpoints; one is also written after every epoch.
        snapshot_every: Epochs between copies of the model in `snapshots/`, for measuring how it
            changes; 0 makes none.
        log_every: Steps between log entries; fewer in a run so short that it would have fewer than
            ten entries.
        monitor_every: Epochs between k-NN checks; 0 turns them off.
        monitor_samples: Images in a k-NN check.
        loggers: Any of `csv`, `tensorboard`, `wandb`, `mlflow`, `trackio`; all but the first need
            the extra of their name.
    """

    seed: Annotated[int, Range(0, 2**64 - 1)] = 0
    device: str | None = None
    precision: Annotated[str, OneOf((*PRECISIONS, "fp16"))] = "auto"
    compile: bool = False
    channels_last: bool = True
    threads: Annotated[int | None, Range(1, 1024)] = None
    timeout: Annotated[float, Range(1, 1e6)] = 600.0
    checkpoint_every: Annotated[int, Range(1)] = 100
    snapshot_every: Annotated[int, Range(0)] = 0
    log_every: Annotated[int, Range(1)] = 10
    monitor_every: Annotated[int, Range(0)] = 5
    monitor_samples: Annotated[int, Range(0)] = 2000
    loggers: tuple[Annotated[str, OneOf(LOGGERS)], ...] = ("csv",)

    def __post_init__(self) -> None:
        check_fields(self, "run.")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training run.

    Attributes:
        name: Name of the model that the run produces: letters, digits, `_`, `-` and `.`. `auto`
            derives `ARCH_cassle_METHOD.TAG`, or `ARCH_METHOD.TAG` without conditioning, from the
            other settings; any other name must not contradict them.
        arch: Any timm model name, or `vit_small` or `vit_base`, MoCo-v3's ViTs.
        init: Starting weights; random ones if empty. A timm model with its tag
            (`resnet18.a1_in1k`), `hf-hub:ORG/NAME[@REVISION]`, `local-dir:DIR`, a model of the zoo,
            the folder of a run or of one of its snapshots, or a checkpoint file (docs/adapt.md).
        init_projector: Whether the projector starts from those weights, too: `auto` if they have
            one (which must fit), `yes`, or `no`.
        method: Settings of the SSL method.
        conditioning: How the projector is conditioned on the augmentation.
        augself: Auxiliary prediction of augmentation differences; off by default.
        augment: The distribution of views.
        views: Number of views of an image, and how some of them differ.
        data: Where the images come from.
        optim: How the weights are updated.
        run: Seed, device, logs and checkpoints.

    Raises:
        ConfigError: If the name has other characters or contradicts the other settings, the views
            do not fit the architecture, or method, conditioning and architecture do not go
            together.
        UnknownNameError: If there is no such architecture.
    """

    name: str = AUTO_NAME
    arch: str
    init: str = ""
    init_projector: Literal["auto", "yes", "no"] = "auto"
    method: MethodConfig = field(default_factory=SimCLRConfig)
    conditioning: ConditioningConfig = field(default_factory=ConditioningConfig)
    augself: AugSelfConfig = field(default_factory=AugSelfConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        check_fields(self)
        base, dot, _ = self.arch.partition(".")
        if dot:
            raise ConfigError(
                f"arch {self.arch!r} has a tag, and a tag means weights; use arch {base!r} and "
                f"init {self.arch!r} to start from them, or leave out the tag to train from "
                "random weights."
            )
        if self.init_projector == "yes" and not self.init:
            raise ConfigError("init_projector 'yes' needs starting weights; give init.")
        # First, or an unknown architecture would be reported as a wrong name.
        width = backbone_width(
            self.arch, self.augment.size, self.augment.channels, self.views.local_size
        )
        if self.name == AUTO_NAME:
            object.__setattr__(self, "name", self.derived_name())
        if not ALLOWED_NAME.fullmatch(self.name):
            raise ConfigError(
                f"name {self.name!r} must be letters, digits, '_', '-' and '.' only, and begin "
                "with a letter or digit; it is not a path (--out is)."
            )
        wrong = contradictions(
            self.name,
            timm_arch=resolve_arch(self.arch, self.augment.size)[0],
            method=self.method.name,
            conditioned=self.is_conditioned,
            reader=self.data.dataset,
        )
        if wrong:
            raise ConfigError(
                f"{'; '.join(wrong)}. Use another name, or leave it out (`auto`), and it is "
                f"{self.derived_name()!r}."
            )
        self.views.of_each(self.augment)  # checks that they fit
        views = self.views.count, self.views.local.count
        if views != (2, 0) and not self.method.multi_view:
            able = ", ".join(name for name, method in METHODS.items() if method.multi_view)
            raise ConfigError(
                f"method {self.method.name} compares two views, but views.count is {views[0]} and "
                f"views.local.count {views[1]}; leave them at 2 and 0, or use one of: {able}."
            )
        if (self.views.local_size or 0) > self.augment.size:
            raise ConfigError(
                f"views.local.size {self.views.local_size} is larger than augment.size "
                f"{self.augment.size}; pass a smaller one (in DINO's paper 0.43 of it)."
            )
        self.method.projector(width, self.conditioning)

    @property
    def is_conditioned(self) -> bool:
        """Whether the projector is conditioned on the augmentation."""
        return self.conditioning.mode != "none"

    def derived_name(self, tag: str = "") -> str:
        """Return the name derived from the other settings.

        Args:
            tag: The tag; by default the dataset's, or `mine` for other images.
        """
        return model_name(
            short_arch(self.arch),
            self.method.name,
            conditioned=self.is_conditioned,
            tag=tag or dataset_of(self.data.dataset) or OWN_TAG,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return all settings as JSON types."""
        values = dataclasses.asdict(self)
        values["method"] = {"name": self.method.name, **values["method"]}
        values["augment"] = self.augment.to_dict()
        return parse_json(json.dumps(values))  # turns tuples into lists
