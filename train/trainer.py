"""The trainer: model, optimiser and position of a run, one step, and its checkpoints."""

import contextlib
import copy
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from timm.utils import ModelEmaV3, dispatch_clip_grad
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cassle_zoo.accel.small_images import (
    small_attention_as_products,
    small_convolutions_as_products,
)
from cassle_zoo.checkpoints.run_checkpoint import load_checkpoint, save_checkpoint
from cassle_zoo.common.devices import autocast_dtype, pick_device
from cassle_zoo.common.errors import ConfigError, ModelFolderError
from cassle_zoo.common.seeds import seed_of
from cassle_zoo.train import init
from cassle_zoo.train.backbone import backbone_width, build_backbone
from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.data.views import check_described, make_views
from cassle_zoo.train.distributed import process_group
from cassle_zoo.train.distributed.sync_batch_norm import convert_sync_batch_norm
from cassle_zoo.train.forward import adapt_backbones, check_compiler
from cassle_zoo.train.frozen import Frozen
from cassle_zoo.train.methods import Method
from cassle_zoo.train.methods.augself import AugSelf
from cassle_zoo.train.optim import build_optimizer, set_learning_rate
from cassle_zoo.train.run.faults import check_finite, check_finite_weights, check_loss_scale
from cassle_zoo.train.sources import Source


class Trainer:
    """Model, optimiser and position of a run: all that a checkpoint holds.

    Attributes:
        method: The SSL method with its backbone and projector.
        result: The method with the run's resulting backbone and projector: the average of the
            weights if `optim.ema_decay` is set, else `method` itself.
        optimizer: Over the method's parameters.
        step: Optimiser steps done.
        device: Where the computation runs.
    """

    def __init__(
        self,
        config: TrainConfig,
        per_epoch: int,
        device: torch.device | None = None,
        source: Source | None = None,
    ) -> None:
        """Build everything, initialised from the seed and the starting weights.

        Args:
            config: All settings.
            per_epoch: Steps in an epoch.
            device: Where to train; by default the configuration's.
            source: What `config.init` names, if it was found before.
        """
        if config.run.threads is not None:
            torch.set_num_threads(config.run.threads)
        self.config = config
        self.per_epoch = per_epoch
        self.device = device or pick_device(config.run.device)
        fp16 = config.run.precision == "fp16"  # needs a loss scaler, which only training has
        self._dtype = torch.float16 if fp16 else autocast_dtype(config.run.precision, self.device)
        self._memory_format = (
            torch.channels_last if config.run.channels_last else torch.contiguous_format
        )
        source = source or init.find(config)
        method = build_method(config, source)
        self._begins = [] if source is None else init.describe(source, method, config)
        method = method.to(self.device).to(memory_format=self._memory_format)
        convert_sync_batch_norm(method, self.device)
        self.method = method.train()
        self._ema = _average(self.method, config.optim.ema_decay)
        self.result: Method = self.method if self._ema is None else self._ema.module
        if config.run.compile:
            check_compiler(self.device)
        adapt_backbones(
            self.method,
            parts=_parts(config),
            compiled=config.run.compile,
            computation=self._computation,
        )
        self._frozen = Frozen(self.method, config.optim, per_epoch)
        self._parallel = _parallel(self.method)
        groups = self.method.param_groups()
        self.optimizer = build_optimizer(groups, config.optim, self.method.backbone)
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=fp16)
        self.step = 0

    def train_step(self, batch: dict[str, Tensor], total: int) -> dict[str, float]:
        """Do one optimiser step.

        Args:
            batch: From `data.batches`.
            total: Steps of the whole run.

        Returns:
            Loss, learning rate and the values that the method logs, of the batch of all processes.
        """
        config = self.config
        if self._frozen.apply(self.step):
            self._parallel = _parallel(self.method)  # DDP must know which parameters have gradients
        layout = self.method.projector.layout
        views = make_views(
            batch, config.augment, layout, self.device, self._memory_format, config.views
        )
        self.method.before_step(self.step / self.per_epoch, self.step / total)
        lr = set_learning_rate(self.optimizer, self.step, self.per_epoch, config.optim)
        if rank := process_group.rank():  # else dropout would be the same in all processes
            torch.manual_seed(seed_of(config.run.seed, self.step, rank))
        with self._computation():
            loss, logs = self._parallel(views)
        values = {"loss": float(loss.detach())}
        values |= {name: float(value.detach()) for name, value in logs.items()}
        values = process_group.all_reduce_mean(values, self.device)
        check_finite(values["loss"], self.step)
        self.optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()
        self.method.before_update()
        if config.optim.clip_grad is not None:
            self._scaler.unscale_(self.optimizer)
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            dispatch_clip_grad(parameters, config.optim.clip_grad, config.optim.clip_mode)
        self._scaler.step(self.optimizer)  # fp16: not if gradients have overflowed
        self._scaler.update()
        self.step += 1
        self.method.after_step(self.step / total)
        if self._ema is not None:
            self._ema.update(_without_extras(self.method), self.step)
        if self._scaler.is_enabled():
            values["loss_scale"] = self._scaler.get_scale()
            check_loss_scale(values["loss_scale"], self.step)
        return {"lr": lr, **values}

    @contextlib.contextmanager
    def _computation(self) -> Iterator[None]:
        with (
            torch.autocast(self.device.type, self._dtype, enabled=self._dtype is not None),
            small_attention_as_products(self.device, self._dtype, self.config.augment.size),
            small_convolutions_as_products(self.device),
        ):
            yield

    def save(self, out: Path) -> None:
        """Write a checkpoint.

        Raises:
            NonFiniteLossError: If a weight is NaN or infinite.
        """
        check_finite_weights(self.method, self.step)
        cuda = self.device.type == "cuda"
        state = {
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "scaler": self._scaler.state_dict(),
            "ema": None if self._ema is None else self.result.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.device) if cuda else None,
        }
        if self.device.type == "mps":
            state["mps_rng"] = torch.mps.get_rng_state()
        save_checkpoint(out, state)

    def restore(self, out: Path) -> list[str]:
        """Continue from the folder's checkpoint, if there is one.

        Returns:
            Messages for the user; at the start of a run, what it starts from.

        Raises:
            ConfigError: If the processes do not see the same checkpoint.
            ModelFolderError: If all checkpoints are damaged, or do not fit.
        """
        state, damaged, _ = load_checkpoint(out)
        found = 0 if state is None else state.get("step")
        if type(found) is not int or found < 0:
            raise ModelFolderError(
                f"the checkpoint in {str(out)!r} has the step {found!r}, so it was not written by "
                "cassle-zoo; remove it, or use another --out."
            )
        if len(set(process_group.all_gather_object(found))) > 1:
            raise ConfigError(
                f"process {process_group.rank()} finds a checkpoint of step {found} in "
                f"{str(out)!r}, others find another; all machines must see the same --out folder."
            )
        if state is None:
            torch.manual_seed(self.config.run.seed)  # for dropout, which some networks have
            return self._begins
        try:
            self.method.load_state_dict(state["method"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self._ema is not None:
                self.result.load_state_dict(state["ema"])
            if self._scaler.is_enabled():
                self._scaler.load_state_dict(state["scaler"])
            self.step = state["step"]
            torch.set_rng_state(state["rng"])
            if state["cuda_rng"] is not None and self.device.type == "cuda":
                torch.cuda.set_rng_state(state["cuda_rng"], self.device)
            if "mps_rng" in state and self.device.type == "mps":
                torch.mps.set_rng_state(state["mps_rng"])
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ModelFolderError(
                f"the checkpoint in {str(out)!r} does not fit the run: {error!s:.500}; continue "
                "with the versions of cassle_zoo, torch and timm that wrote it."
            ) from error
        if process_group.rank() == 0:
            for name in damaged:  # else the next checkpoint would replace the intact one
                (out / name).unlink(missing_ok=True)
        notes = [f"{name} is damaged; using the one before." for name in damaged]
        return [*notes, f"continuing after step {self.step}."]


def build_method(config: TrainConfig, source: Source | None = None) -> Method:
    """Build the backbone and the method around it, initialised from `config.run.seed`.

    Args:
        config: The settings.
        source: What `config.init` names, if it was found before.

    Raises:
        ConfigError: If the projector is conditioned on an augmentation that is turned off.
    """
    augment, local_size = config.augment, config.views.local_size
    check_described(config.conditioning.descriptors, config.views.of_each(augment))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)
        backbone = build_backbone(config.arch, augment.size, augment.channels, local_size)
        width = backbone_width(config.arch, augment.size, augment.channels)
        method = config.method.build(backbone, config.method.projector(width, config.conditioning))
        if config.augself.weights:
            method.augself = AugSelf(config.augself, width)
    if (source := source or init.find(config)) is not None:
        init.load(source, method, config)
    return method


def _average(method: Method, decay: float | None) -> ModelEmaV3 | None:
    """Start the average of a method's backbone and projector."""
    if decay is None:
        return None
    # Without warm-up a short run would be half over before the first weights are forgotten.
    return ModelEmaV3(_without_extras(method), decay=decay, use_warmup=True)


def _without_extras(method: Method) -> Method:
    """Return a method that shares backbone and projector, and has no teacher, queue or heads."""
    bare = copy.copy(method)
    bare._modules = {"backbone": method.backbone, "projector": method.projector}
    bare._buffers = {}
    return bare


def _parts(config: TrainConfig) -> int:
    """Return the parts of a process's batch.

    Raises:
        ConfigError: If it cannot be divided evenly.
    """
    parts, processes = config.optim.accumulate, process_group.world_size()
    if parts > 1 and config.optim.batch_size % (parts * processes):
        raise ConfigError(
            f"a batch of {config.optim.batch_size} cannot be divided evenly among {processes} "
            f"processes with optim.accumulate {parts} parts each; choose an --optim.batch-size "
            f"that {parts * processes} divides."
        )
    return parts


def _parallel(method: Method) -> nn.Module:
    """Make the backward pass average gradients over the processes."""
    if process_group.world_size() == 1:
        return method
    with warnings.catch_warnings():
        # Its successor came with torch 2.15 and its removal is not announced; we support torch 2.6.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        # Buffers need no broadcast: all processes compute the same ones.
        return DistributedDataParallel(method, broadcast_buffers=False)
