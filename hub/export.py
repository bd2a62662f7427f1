"""Turns a finished training run into a model folder, ready for the Hub."""

from pathlib import Path
from typing import Any

import timm
import torch

from cassle_zoo.common.errors import ConfigError, ModelFolderError
from cassle_zoo.hub.cards.card import render_card
from cassle_zoo.hub.reference import write_reference
from cassle_zoo.projector import ConditionedProjector, ProjectorConfig
from cassle_zoo.records import (
    BACKBONE_FILE,
    EXPORT_FILE,
    FINAL_FOLDER,
    PROJECTOR_FILE,
    RunExport,
)
from cassle_zoo.specs import MODEL_SPECS, ModelSpec
from cassle_zoo.store.tensors import (
    check_backbone_keys,
    load_strictly,
    read_tensors,
    save_model_folder,
)
from cassle_zoo.zoo.registry import make_config

DTYPES = (torch.float16, torch.float32)


def export_run(
    run_dir: str | Path,
    out_dir: str | Path,
    *,
    dtype: torch.dtype = torch.float16,
    overwrite: bool = False,
    license: str | None = None,
) -> Path:
    """Write weights of backbone and projector, `config.json`, a reference and a model card.

    The folder is loaded by `timm.create_model("local-dir:DIR", pretrained=True)` where cassle_zoo
    is not installed.

    Args:
        run_dir: Folder of the run; its `final/` is read.
        out_dir: Folder to write.
        dtype: Type of the weights on disk, float16 or float32.
        overwrite: Whether to replace a model folder that exists.
        license: Of the weights (SPDX); by default the registry's for its models, else `unknown`.

    Returns:
        `out_dir`.

    Raises:
        ModelFolderError: If the run is not finished, its files contradict each other, a weight does
            not fit `dtype`, or `out_dir` is not empty.
        ConfigError: If `dtype` is another type.
    """
    check_dtype(dtype)
    export, final = RunExport.load(Path(run_dir)), Path(run_dir) / FINAL_FOLDER
    described_by = final / EXPORT_FILE
    if not timm.is_model(export.timm_arch):
        raise ModelFolderError(f"{described_by}: timm has no model {export.timm_arch!r}.")
    backbone: Any = timm.create_model(export.timm_arch, num_classes=0, **export.model_args)
    state = read_tensors(final / BACKBONE_FILE)
    check_backbone_keys(state, backbone)
    load_strictly(backbone, state, final / BACKBONE_FILE)

    try:
        projector = ConditionedProjector(ProjectorConfig.from_dict(export.projector))
    except (TypeError, ValueError) as error:
        raise ModelFolderError(f"{described_by}: {error}") from error
    load_strictly(projector, read_tensors(final / PROJECTOR_FILE), final / PROJECTOR_FILE)

    if license is None:
        known = MODEL_SPECS.get(export.name)
        license = "unknown" if known is None else known.license
    name, _, tag = export.name.partition(".")
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
        num_features=backbone.num_features,
        data=tag,
        recipe=export.name,
        license=license,
    )
    training = {"data": tag, **export.training}
    config = make_config(spec, backbone, projector=projector.config, training=training)
    return save_model_folder(
        out_dir,
        config=config,
        backbone_state=state,
        projector=projector,
        dtype=dtype,
        card=str(render_card(config)),
        finish=write_reference,
        overwrite=overwrite,
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
