"""The reference of a model folder: a stored input, and the model's output for it.

`reference.safetensors` holds two made-up images, the features of the backbone and, if there is a
projector, two made-up descriptors and their projections. Recomputing them, with any software on any
machine, reveals wrong weights, a wrong architecture or a wrong normalisation. Its header holds the
SHA-256 of the other files.

    images       (2, C, H, W) uint8, as decoded; config.json says how they are normalised
    features     (2, num_features) float32
    descriptors  (2, width of omega) float32, if the projector is conditioned
    projections  (2, out_features) float32, if there is a projector

All in evaluation mode, in float32, on a CPU.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from cassle_zoo.common.errors import CassleZooError, ModelFolderError
from cassle_zoo.common.exit_status import ExitStatus
from cassle_zoo.common.files import sha256, write_bytes
from cassle_zoo.features.inference import embed, inference
from cassle_zoo.projector import ConditionedProjector
from cassle_zoo.store.folder import (
    CONFIG_FILE,
    MODEL_FILE,
    PROJECTOR_FILE,
    REFERENCE_FILE,
    WHITENING_FILE,
    refuse_link,
    require_file,
)
from cassle_zoo.store.model_files import LOCAL_PREFIX, ModelFiles, resolve
from cassle_zoo.store.tensors import read_tensors
from cassle_zoo.zoo.create import load_backbone, load_projector

TOLERANCE = 1e-4
"""Largest allowed difference from the stored values, as a fraction of the largest of them."""

HASHED_FILES = (MODEL_FILE, PROJECTOR_FILE, WHITENING_FILE, CONFIG_FILE)
_HEADER_KEY = "sha256"


def write_reference(folder: str | Path) -> Path:
    """Write the `reference.safetensors` of a model folder anew; the other files stay as they are.

    Args:
        folder: The model folder.

    Returns:
        The path of the file. The same folder gives the same file on the same machine.

    Raises:
        ModelFolderError: If the folder cannot be loaded, the file is a link, or the model's output
            is not finite.
    """
    files = resolve(f"{LOCAL_PREFIX}{folder}")
    path = files.folder / REFERENCE_FILE
    refuse_link(path)
    model = load_backbone(files)
    projector = load_projector(files) if files.has_projector else None
    generator = torch.Generator().manual_seed(0)
    images = _images(files.config["pretrained_cfg"]["input_size"], generator)
    tensors = {"images": images}
    if projector is not None and projector.layout.width:
        tensors["descriptors"] = torch.rand(2, projector.layout.width, generator=generator)
    outputs = _outputs(files.config, model, projector, tensors)
    tensors |= {name: values.contiguous() for name, values in outputs.items()}
    for name, values in tensors.items():
        if values.is_floating_point() and not values.isfinite().all():
            raise ModelFolderError(f"{folder}: the model's {name} are NaN or infinite.")
    present = [name for name in HASHED_FILES if (files.folder / name).is_file()]
    hashes = {name: files.sha256(name) for name in present}
    # One entry only, because safetensors writes several in no fixed order.
    write_bytes(path, save(tensors, {_HEADER_KEY: json.dumps(hashes, sort_keys=True)}))
    return path


def recorded_hashes(folder: str | Path) -> dict[str, str]:
    """Return the SHA-256 that the reference's header holds, by file name.

    Raises:
        ModelFolderError: If the file is missing, or was not written by :func:`write_reference`.
    """
    path = Path(folder) / REFERENCE_FILE
    _require_reference(path)
    try:
        with safe_open(path, framework="pt") as file:
            hashes = json.loads((file.metadata() or {})[_HEADER_KEY])
        found = {str(name): str(value) for name, value in hashes.items()}
    except (SafetensorError, LookupError, ValueError, AttributeError, TypeError) as error:
        raise ModelFolderError(
            f"{path} is damaged, or has no hashes ({type(error).__name__}: {error}); get it again."
        ) from error
    return found


def reference_errors(
    files: ModelFiles, model: nn.Module, projector: ConditionedProjector | None
) -> dict[str, float]:
    """Recompute the stored features and projections.

    Args:
        files: The model folder.
        model: Its backbone.
        projector: Its projector, if there is one.

    Returns:
        The largest difference from the stored values, divided by the largest of them, for
        `features` and, if there is a projector, `projections`.

    Raises:
        ModelFolderError: If the reference is missing, damaged, or does not fit the model.
    """
    path = files.folder / REFERENCE_FILE
    _require_reference(path)
    stored = read_tensors(path)
    size = tuple(files.config["pretrained_cfg"]["input_size"])
    images = stored.get("images")
    if images is None or images.dtype != torch.uint8 or images.shape[1:] != size or not len(images):
        raise ModelFolderError(f"{path} holds no images of the model's input size {size}.")
    try:
        found = _outputs(files.config, model, projector, stored)
    except ValueError as error:
        raise ModelFolderError(f"{path} does not fit the model: {error}") from error
    errors = {}
    for name, values in found.items():
        expected = stored.get(name)
        if expected is None or expected.shape != values.shape:
            raise ModelFolderError(f"{path} holds no {name} of shape {tuple(values.shape)}.")
        difference = (values - expected).abs().max() / expected.abs().max()
        errors[name] = float(difference)
    return errors


def _outputs(
    config: Mapping[str, Any],
    model: nn.Module,
    projector: ConditionedProjector | None,
    inputs: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    cfg = config["pretrained_cfg"]
    mean, std = (torch.tensor(cfg[key]).view(-1, 1, 1) for key in ("mean", "std"))
    device = torch.device("cpu")
    with inference(model, device):
        features = embed(model, (inputs["images"].float() / 255 - mean) / std)
    if projector is None:
        return {"features": features}
    with inference(projector, device):
        return {
            "features": features,
            "projections": projector(features, inputs.get("descriptors")),
        }


def _images(size: Sequence[int], generator: torch.Generator) -> Tensor:
    """Draw soft colour patches with some noise, (2, C, H, W) uint8: flat noise excites little."""
    channels, height, width = size
    coarse = torch.rand(2, channels, 6, 6, generator=generator)
    smooth = F.interpolate(coarse, (height, width), mode="bicubic")
    noise = torch.rand(2, channels, height, width, generator=generator)
    return ((1.4 * smooth + 0.2 * noise - 0.3).clamp(0, 1) * 255).round().to(torch.uint8)


def _require_reference(path: Path) -> None:
    if path.parent.is_dir() and not path.is_file():
        raise ModelFolderError(
            f"{path} is missing; write it with `python -m cassle_zoo.hub.reference {path.parent}`."
        )
    require_file(path)


def main(folders: Sequence[str]) -> ExitStatus:
    """Write the reference of each folder; returns the exit status."""
    try:
        for folder in folders:
            path = write_reference(folder)
            print(f"{sha256(path)}  {path}")
    except CassleZooError as error:
        print(f"error: {error}", file=sys.stderr)
        return ExitStatus.ERROR
    return ExitStatus.OK


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
