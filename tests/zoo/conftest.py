"""Released models whose weights a test makes up."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from cassle_zoo.common.files import sha256
from cassle_zoo.specs import MODEL_SPECS
from cassle_zoo.store import folder as model_folder
from cassle_zoo.store.folder import CONFIG_FILE, MODEL_FILE
from cassle_zoo.zoo.registry import make_config


@pytest.fixture
def publish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, dict[str, Tensor]], Path]:
    """Put weights where the package keeps those of a model, with the hash that they have."""
    monkeypatch.setattr(model_folder, "WEIGHTS_ROOT", tmp_path)

    def put(name: str, state: dict[str, Tensor]) -> Path:
        folder, spec = tmp_path / name, MODEL_SPECS[name]
        folder.mkdir()
        with torch.device("meta"):
            config = make_config(spec, timm.create_model(name), projector=None, training={})
        (folder / CONFIG_FILE).write_text(json.dumps(config))
        save_file(state, folder / MODEL_FILE)
        hashes = {file.name: sha256(file) for file in folder.iterdir()}
        monkeypatch.setitem(MODEL_SPECS, name, dataclasses.replace(spec, sha256=hashes))
        return folder / MODEL_FILE

    return put
