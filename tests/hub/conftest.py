"""Checkpoints as the paper's code writes them, with random weights of the right shapes."""

import json
import logging
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from torch import Tensor, nn
from toy import save_toy
from upload_server import TOKEN, UploadServer, upload_server

GOLDEN = Path(__file__).parents[1] / "golden"
SHAPES = json.loads((GOLDEN / "e_checkpoint_shapes.json").read_text())


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model folder of 1.5 MB that tests must not change."""
    return save_toy(tmp_path_factory.mktemp("toy") / "model")


@pytest.fixture
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[UploadServer]:
    """Return a Hub that takes uploads, at which the client is pointed, with a token."""
    with upload_server(tmp_path / "mirrors") as server:
        template = f"{server.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


@pytest.fixture
def reported(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> Callable[[BaseException], str]:
    """Return a function that returns all that a user sees of an error, and all that was logged."""
    caplog.set_level(logging.INFO)

    def report(error: BaseException) -> str:
        output = capsys.readouterr()
        lines = traceback.format_exception(error, limit=None)
        return "".join([*lines, repr(error), output.out, output.err, caplog.text])

    return report


def tensors(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """One number stands for a whole tensor, so that big layers make small files."""
    return {
        key: torch.zeros((), dtype=torch.int64)
        if key.endswith("num_batches_tracked")
        else torch.rand(()).expand(shape)
        for key, shape in shapes.items()
    }


@pytest.fixture
def official_case() -> Callable[[str], dict[str, Any]]:
    """Return the checkpoint of a case of the golden key list."""

    def make(case: str) -> dict[str, Any]:
        entry = SHAPES["cases"][case]
        checkpoint: dict[str, Any] = {
            "backbone": tensors(SHAPES["backbones"][entry["backbone"]]),
            "projector": tensors(entry["projector"]),
        }
        if "predictor" in entry:
            checkpoint["predictor"] = tensors(entry["predictor"])
        if "ss_predictor" in entry:
            heads = entry["ss_predictor"].items()
            checkpoint["ss_predictor"] = {name: tensors(shapes) for name, shapes in heads}
        rest = {key: entry[key] for key in ("optimizers", "schedulers", "trainer")}
        return {**checkpoint, **rest}

    return make


@pytest.fixture
def randomised() -> Callable[[nn.Module], nn.Module]:
    """Return a function that randomises normalisations, so that they hide no branch."""

    def randomise(module: nn.Module) -> nn.Module:
        for name, value in module.state_dict().items():
            if value.ndim == 1 and value.is_floating_point():
                shift = 1.0 if name.endswith(("weight", "running_var")) else 0.0
                value.copy_(shift + 0.3 * (torch.rand(value.shape) - 0.5))
        return module.eval()

    return randomise
