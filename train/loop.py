"""The training loop. It reads top to bottom and never asks which method it trains."""

import contextlib
import functools
from dataclasses import dataclass
from pathlib import Path

from cassle_zoo.common.errors import ConfigError
from cassle_zoo.common.faults import locked, stop_signals
from cassle_zoo.common.files import named_path, remove_partials
from cassle_zoo.common.terminal import busy
from cassle_zoo.records import FINAL_FOLDER, SNAPSHOTS_FOLDER, snapshot_folder
from cassle_zoo.train import idle, init
from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.data.datasets import open_dataset
from cassle_zoo.train.data.loading import batches, steps_per_epoch
from cassle_zoo.train.distributed import process_group
from cassle_zoo.train.run import export, fingerprint
from cassle_zoo.train.run.faults import BadImages, check_finite_weights, translate_errors
from cassle_zoo.train.run.logs import Reporter
from cassle_zoo.train.run.monitor import Monitor
from cassle_zoo.train.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """How a run ended.

    Attributes:
        steps: Optimiser steps done, in this call and before.
        finished: Whether that is all of them; if not, the same call continues the run.
        stopped: Whether a signal asked to stop, even in the last step.
    """

    steps: int
    finished: bool
    stopped: bool = False


def train(config: TrainConfig, out: str | Path, *, command: str | None = None) -> TrainResult:
    """Train, or continue training, in the folder `out`.

    Writes `config.json`, `metrics.csv`, checkpoints, snapshots if asked for and, at the end, the
    folder `final`. SIGTERM and SIGINT save a checkpoint after the current step and return. Under
    `torchrun` all processes train together (docs/scaling.md); `out` must be a folder that all of
    them see.

    Args:
        config: All settings.
        out: Folder of the run; created if missing. An interrupted run there with the same settings
            and images is continued.
        command: The command line that started the run, for the model card.

    Raises:
        ConfigError: If `out` is empty, or holds a run with other settings or images, or a finished
            one without checkpoints, or is used by another process, or the processes of `torchrun`
            differ in settings or images.
        DataError: If there are no images, or too many that cannot be read.
        NonFiniteLossError: If the loss becomes NaN or infinite.
        NotEnoughMemoryError: If the memory of the machine or a GPU is exhausted.
        StorageError: If the disk is full, or `out` may not be written.
        ModelFolderError: If all checkpoints are damaged.
        ProcessLostError: If another process, or the network to it, is gone.
    """
    out = named_path(out, "out")
    final = out / FINAL_FOLDER
    with (
        translate_errors(out, config.optim.batch_size),
        process_group.init(config.run.device, config.run.timeout) as device,
        stop_signals() as stop,
    ):
        first = process_group.rank() == 0
        with busy("opening the images") if first else contextlib.nullcontext():
            dataset = open_dataset(config.data, config.augment.channels)
            images = fingerprint.images_fingerprint(dataset)
        per_epoch = steps_per_epoch(dataset, config.optim.batch_size)
        total = config.optim.epochs * per_epoch
        source = init.find(config)
        fingerprint.check_same_everywhere(config, images, source)
        with (
            locked(out) if first else contextlib.nullcontext(),
            contextlib.ExitStack() as reporting,
        ):
            config = fingerprint.check_same_run(config, out, images, source)
            for folder in (out, final, *(out / SNAPSHOTS_FOLDER).glob("*")) if first else ():
                remove_partials(folder)
            export.check_folder(final)
            trainer = Trainer(config, per_epoch, device, source)
            notes = trainer.restore(out)
            _check_progress(trainer.step, total, out)
            finished_before = trainer.step == total and export.is_written(final)
            describe = functools.partial(
                export.describe, trainer.result, config, total=total, command=command
            )
            report = reporting.enter_context(  # closed even if the run fails: trackers must know
                contextlib.closing(Reporter(config, out, trainer.step, total))
            )
            if first:
                fingerprint.write_settings(config, images, out, trainer.method.starting_weights)
                # Of the weights in checkpoints.
                describe(total, images=images).save(out, sync=False)
            monitor = Monitor(
                dataset,
                config.augment,
                config.run.monitor_samples,
                fast=config.data.decode != "exact",
            )
            bad_images = BadImages(dataset, config.data.max_bad_fraction)
            for note in (
                *notes,
                *getattr(dataset, "notes", ()),
                *(idle.notes(config) if command is None else ()),  # else its flags were named
            ):
                report.message(note)
            for batch in batches(config, dataset, trainer.step, total):
                for name in bad_images.note(process_group.all_gather_cpu(batch["bad"], device)):
                    report.message(f"image {name} cannot be read; another one is used instead.")
                values = trainer.train_step(batch, total)
                report.step(trainer.step, values)
                epoch, position = divmod(trainer.step, per_epoch)
                if position == 0 and first:
                    check_finite_weights(trainer.method, trainer.step)
                    check = _due(config.run.monitor_every, epoch)
                    measured = monitor(trainer.result.backbone, trainer.device) if check else {}
                    report.epoch(trainer.step, epoch, {"loss": values["loss"], **measured})
                    if _due(config.run.snapshot_every, epoch):
                        export.write(
                            snapshot_folder(out, epoch),
                            trainer.result,
                            describe(trainer.step, images=images),
                        )
                stopping = process_group.any_rank(stop.requested, device)
                due = position == 0 or trainer.step % config.run.checkpoint_every == 0
                if first and (stopping or due):
                    trainer.save(out)
                if stopping and trainer.step < total:
                    report.message(
                        f"stopped after step {trainer.step}; the same command continues."
                    )
                    break
            reporting.close()
            # Not again: it records the command, commit and versions that finished the run.
            if first and trainer.step == total and not finished_before:
                export.write(
                    final,
                    trainer.result,
                    describe(total, images=export.with_hash(images, dataset)),
                )
            # Here a second signal does not yet end a process that others wait for.
            process_group.barrier()
    return TrainResult(steps=trainer.step, finished=trainer.step == total, stopped=stop.requested)


def _check_progress(step: int, total: int, out: Path) -> None:
    if step > total:
        raise ConfigError(
            f"{str(out)!r} holds a run that is {step} steps long already, but with these images "
            f"and settings it has {total}; point --data at the images it began with, or use "
            "another --out."
        )
    if step == 0 and export.is_written(out / FINAL_FOLDER):
        raise ConfigError(
            f"{str(out)!r} holds a finished run without its checkpoints, which would be trained "
            "once more; take what is in its folder final, or use another --out."
        )


def _due(every: int, epoch: int) -> bool:
    return every > 0 and epoch % every == 0
