"""Turns a training run into a model folder, ready for the Hub."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from cassle_zoo.checkpoints.run_checkpoint import averaged, load_checkpoint
from cassle_zoo.common.errors import ConfigError, ModelFolderError
from cassle_zoo.hub.cards.card import render_card, results_of_folder, write_card
from cassle_zoo.hub.provenance import data_of, license_of, problems, with_licenses
from cassle_zoo.hub.reference import write_reference
from cassle_zoo.records import (
    BACKBONE_FILE,
    CHECKPOINT_FILE,
    EXPORT_FILE,
    FINAL_FOLDER,
    PREVIOUS_CHECKPOINT_FILE,
    PROJECTOR_FILE,
    RunExport,
    snapshot_folder,
)
from cassle_zoo.specs import ModelSpec
from cassle_zoo.store.tensors import load_strictly, read_tensors, save_model_folder
from cassle_zoo.zoo.create import build_projector
from cassle_zoo.zoo.registry import make_config
from cassle_zoo.zoo.width import feature_width

DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def export_run(
    run_dir: str | Path,
    out_dir: str | Path,
    *,
    dtype: torch.dtype = torch.float16,
    overwrite: bool = False,
    license: str | None = None,
    epoch: int | None = None,
    results: Sequence[str | Path] = (),
) -> Path:
    """Write weights of backbone and projector, `config.json`, a reference and a model card.

    The folder is loaded by `timm.create_model("local-dir:DIR", pretrained=True)` where cassle_zoo
    is not installed.

    Args:
        run_dir: Folder of the run; its `final/` is read, or, if it is not finished, the latest
            checkpoint. Or the folder of a snapshot.
        out_dir: Folder to write.
        dtype: Type of the weights on disk: float16, bfloat16 (a seventh smaller when compressed,
            eight times as coarse) or float32.
        overwrite: Whether to replace a model folder that exists.
        license: Licence of the weights (SPDX); by default the registry's, for its models trained on
            its data, else `unknown`.
        epoch: The run's snapshot after this epoch, instead of its final weights.
        results: Recorded results, or folders of them, to put into the card: those that were
            measured with these weights, and those of baselines.

    Returns:
        `out_dir`.

    Raises:
        ModelFolderError: If there are no weights in `run_dir`, its files contradict each other, a
            weight does not fit `dtype`, or `out_dir` is not empty; or no result is of these
            weights: the folder is then written without results in its card.
        ConfigError: If `dtype` is another type, or there is no snapshot of that epoch.
    """
    check_dtype(dtype)
    run = _read_run(Path(run_dir), epoch)
    export, described_by = run.export, run.described_by
    if not timm.is_model(export.timm_arch):
        raise ModelFolderError(f"{described_by}: timm has no model {export.timm_arch!r}.")
    try:
        backbone: Any = timm.create_model(export.timm_arch, num_classes=0, **export.model_args)
    except Exception as error:  # timm may raise anything
        raise ModelFolderError(
            f"{described_by}: timm {timm.__version__} cannot build {export.timm_arch!r} with "
            f"model_args {export.model_args} ({error}); use the version it was trained with."
        ) from error
    load_strictly(backbone, run.backbone, run.backbone_file)

    projector = build_projector(export.projector, described_by)
    load_strictly(projector, run.projector, run.projector_file)

    name, _, tag = export.name.partition(".")
    data = data_of(export.name, export.training)
    spec = ModelSpec(
        name=name,
        tag=tag,
        arch=export.timm_arch,
        timm_arch=export.timm_arch,
        model_args=export.model_args,
        method=export.method,
        conditioned=projector.config.conditioning != "none",
        input_size=export.input_size,
        mean=export.mean,
        std=export.std,
        interpolation=export.interpolation,
        num_features=feature_width(export.timm_arch, export.model_args, export.input_size),
        data=data,
        recipe=export.name,
        license=license_of(export.name, export.training) if license is None else license,
    )
    training = {"data": data, **with_licenses(export.training)}
    config = make_config(spec, backbone, projector=projector.config, training=training)
    if wrong := problems(config):
        raise ModelFolderError(
            f"{described_by} contradicts itself: {'; '.join(wrong)}. Correct its `name` (it is the "
            "name of the model, `ARCH_cassle_METHOD.TAG` by convention), and export again."
        )
    folder = save_model_folder(
        out_dir,
        config=config,
        backbone_state=run.backbone,
        projector=projector,
        dtype=dtype,
        card=str(render_card(config)),
        finish=write_reference,
        overwrite=overwrite,
    )
    if results:
        write_card(folder, results_of_folder(folder, results))
    return folder


@dataclass(frozen=True, kw_only=True)
class _Run:
    """Weights of a run, the files that they are from, and their description."""

    export: RunExport
    described_by: Path
    backbone: dict[str, Tensor]
    backbone_file: Path
    projector: dict[str, Tensor]
    projector_file: Path


def _read_run(run: Path, epoch: int | None) -> _Run:
    """Read a snapshot, the final weights, or else those of the latest checkpoint."""
    if epoch is not None:
        folder = snapshot_folder(run, epoch)
        if not folder.is_dir():
            found = sorted(int(p.name) for p in folder.parent.glob("[0-9]*") if p.name.isdecimal())
            there = f"there are those of {', '.join(map(str, found))}" if found else "it has none"
            raise ConfigError(
                f"{run} has no snapshot of epoch {epoch}; {there} (a training writes them with "
                "--run.snapshot-every)."
            )
        return _read_folder(folder)
    if (run / BACKBONE_FILE).is_file():
        return _read_folder(run)
    if (run / FINAL_FOLDER / EXPORT_FILE).is_file():
        return _read_folder(run / FINAL_FOLDER)
    return _read_checkpoint(run)


def _read_folder(folder: Path) -> _Run:
    files = folder / BACKBONE_FILE, folder / PROJECTOR_FILE
    return _Run(
        export=RunExport.read(folder),
        described_by=folder / EXPORT_FILE,
        backbone=read_tensors(files[0]),
        backbone_file=files[0],
        projector=read_tensors(files[1]),
        projector_file=files[1],
    )


def _read_checkpoint(run: Path) -> _Run:
    if not (run / EXPORT_FILE).is_file():
        files = (CHECKPOINT_FILE, PREVIOUS_CHECKPOINT_FILE)
        has_some = any((run / name).is_file() for name in files)
        raise ModelFolderError(
            f"{run} is not a finished run"
            + (
                f", and {EXPORT_FILE}, which describes its checkpoints, is missing, because an "
                "older version began it. Repeat its `cassle-zoo train` command to continue it, if "
                "only for a step."
                if has_some
                else ", and has no checkpoints. Repeat its `cassle-zoo train` command to continue "
                "it."
            )
        )
    export = RunExport.read(run)
    state, _, path = load_checkpoint(run)
    found = averaged(state or {})
    method, step = found.get("method"), found.get("step")
    if path is None or not isinstance(method, dict) or not isinstance(step, int):
        raise ModelFolderError(
            f"{run} holds no checkpoint of a run. Repeat its `cassle-zoo train` command to "
            "continue it."
        )
    total, training = export.training.get("steps"), {**export.training, "steps": step}
    if isinstance(total, int) and total > step:
        training["total_steps"] = total
    states = {
        part: {
            key.removeprefix(f"{part}."): value
            for key, value in method.items()
            if key.startswith(f"{part}.")
        }
        for part in ("backbone", "projector")
    }
    return _Run(
        export=replace(export, training=training),
        described_by=run / EXPORT_FILE,
        backbone_file=path,
        projector_file=path,
        **states,
    )


def check_dtype(dtype: torch.dtype) -> None:
    """Check that weights may be stored in a type.

    Raises:
        ConfigError: If not.
    """
    if dtype not in DTYPES:
        raise ConfigError(
            f"dtype {dtype} is not allowed; use one of {', '.join(map(str, DTYPES))}."
        )
