"""Turns a finished training run into a model folder, ready for the Hub."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch

from cassle_zoo.common.errors import ConfigError, ModelFolderError
from cassle_zoo.hub.cards.card import render_card
from cassle_zoo.hub.reference import write_reference
from cassle_zoo.projector import ConditionedProjector, ProjectorConfig
from cassle_zoo.specs import MODEL_SPECS, ModelSpec
from cassle_zoo.store.tensors import (
    check_backbone_keys,
    load_strictly,
    read_tensors,
    save_model_folder,
)
from cassle_zoo.zoo.registry import make_config

EXPORT_FILE = "export.json"
BACKBONE_FILE = "backbone.safetensors"
RUN_PROJECTOR_FILE = "projector.safetensors"
DTYPES = (torch.float16, torch.float32)

_FIELDS: Mapping[str, type] = {
    "name": str,
    "method": str,
    "timm_arch": str,
    "projector": dict,
    "mean": list,
    "std": list,
    "input_size": list,
    "training": dict,
}


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
        run_dir: Folder of the run, of which `final/` is read.
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
    final = Path(run_dir) / "final"
    info = _read_info(final)
    backbone_path, projector_path = final / BACKBONE_FILE, final / RUN_PROJECTOR_FILE

    if not timm.is_model(info["timm_arch"]):
        raise ModelFolderError(f"{final / EXPORT_FILE}: timm has no model {info['timm_arch']!r}.")
    model_args = info.get("model_args", {})
    backbone: Any = timm.create_model(info["timm_arch"], num_classes=0, **model_args)
    state = read_tensors(backbone_path)
    check_backbone_keys(state, backbone)
    load_strictly(backbone, state, backbone_path)

    projector = ConditionedProjector(_projector_config(info, final))
    load_strictly(projector, read_tensors(projector_path), projector_path)

    if license is None:
        license = MODEL_SPECS[info["name"]].license if info["name"] in MODEL_SPECS else "unknown"
    spec = _spec(info, projector.config, backbone.num_features, license)
    config = make_config(
        spec, backbone, projector=projector.config, training={"data": spec.data, **info["training"]}
    )
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


def _read_info(final: Path) -> dict[str, Any]:
    path = final / EXPORT_FILE
    if not path.is_file():
        raise ModelFolderError(
            f"{path} is missing: {final.parent} is no finished run. The same `cassle-zoo train` "
            "command run again continues an unfinished one."
        )
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelFolderError(f"{path} is not JSON ({error}); finish the run again.") from error
    wrong = [
        f"{key} ({kind.__name__})"
        for key, kind in _FIELDS.items()
        if not isinstance(info, dict) or not isinstance(info.get(key), kind)
    ]
    if wrong:
        raise ModelFolderError(f"{path} lacks {', '.join(wrong)}; finish the run again.")
    return dict(info)


def _projector_config(info: Mapping[str, Any], final: Path) -> ProjectorConfig:
    try:
        return ProjectorConfig.from_dict(info["projector"])
    except (TypeError, ValueError) as error:
        raise ModelFolderError(f"{final / EXPORT_FILE}: {error}") from error


def _spec(
    info: Mapping[str, Any], projector: ProjectorConfig, num_features: int, license: str
) -> ModelSpec:
    name, _, tag = info["name"].partition(".")
    return ModelSpec(
        name=name,
        tag=tag,
        arch=info["timm_arch"],
        timm_arch=info["timm_arch"],
        model_args=info.get("model_args", {}),
        method=info["method"],
        conditioned=projector.conditioning != "none",
        input_size=tuple(info["input_size"]),
        mean=tuple(info["mean"]),
        std=tuple(info["std"]),
        num_features=num_features,
        data=tag,
        recipe=info["name"],
        license=license,
    )
