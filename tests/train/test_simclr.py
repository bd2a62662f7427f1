import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cassle_zoo.errors import ConfigError
from cassle_zoo.projector import ProjectorConfig
from cassle_zoo.train.losses import nt_xent
from cassle_zoo.train.methods import METHODS, ConditioningConfig, Views
from cassle_zoo.train.methods.simclr import SimCLR, SimCLRConfig

GOLDEN = Path(__file__).parents[1] / "golden"


def test_loss_equals_official() -> None:
    with np.load(GOLDEN / "b_losses_simclr.npz") as golden:
        z1, z2 = torch.from_numpy(golden["simclr/z1"]), torch.from_numpy(golden["simclr/z2"])
        loss, _ = nt_xent(z1, z2, float(golden["simclr/T"]))
        assert abs(loss.item() - golden["simclr/loss"]) < 1e-9


def test_loss_equals_its_definition() -> None:
    z1, z2 = (F.normalize(torch.randn(5, 8, dtype=torch.float64), dim=1) for _ in range(2))
    z, total = torch.cat([z1, z2]), 0.0
    for i in range(10):
        others = [torch.exp(z[i] @ z[j] / 0.3) for j in range(10) if j != i]
        total -= torch.log(torch.exp(z[i] @ z[(i + 5) % 10] / 0.3) / sum(others)).item()
    assert nt_xent(z1, z2, 0.3)[0].item() == pytest.approx(total / 10, abs=1e-12)


def test_loss_invariances() -> None:
    z1, z2 = (F.normalize(torch.randn(6, 8, dtype=torch.float64), dim=1) for _ in range(2))
    loss = nt_xent(z1, z2)[0]
    order = torch.randperm(6)
    rotation = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64)).Q
    for same in (
        nt_xent(z2, z1),
        nt_xent(z1[order], z2[order]),
        nt_xent(z1 @ rotation, z2 @ rotation),
    ):
        torch.testing.assert_close(same[0], loss)
    assert nt_xent(z1, z1)[1] == 1
    assert nt_xent(z1, z1)[0] < loss


class LinearBackbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(24, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x)


def test_two_steps_equal_official() -> None:
    with np.load(GOLDEN / "b_step_simclr.npz") as arrays:
        golden = {k: torch.from_numpy(arrays[k]) for k in arrays.files if k != "meta_json"}
        meta = json.loads(str(arrays["meta_json"]))
    conditioning = ConditioningConfig(
        descriptors=tuple(meta["aug_cond"]), depth=meta["aug_nn_depth"], width=meta["aug_nn_width"]
    )
    config = SimCLRConfig(temperature=meta["T"])
    method = config.build(LinearBackbone(), config.projector(32, conditioning)).double()

    def state(prefix: str) -> dict[str, torch.Tensor]:
        keys = [key for key in golden if key.startswith(prefix)]
        return {
            k.removeprefix(prefix)
            .replace("projector/aug_processor", "projector.encoder")
            .replace("projector/projector", "projector.layers")
            .replace("/", "."): golden[k]
            for k in keys
        }

    method.load_state_dict(state("before/"))
    optimizer = torch.optim.SGD(method.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for step in (1, 2):
        views = Views(
            images=(golden[f"step{step}/x1"], golden[f"step{step}/x2"]),
            descriptors=(golden[f"step{step}/desc1"], golden[f"step{step}/desc2"]),
        )
        loss, logs = method(views)
        assert abs(loss.item() - golden[f"step{step}/loss"].item()) < 1e-9
        assert 0 <= logs["positive_accuracy"] <= 1
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        after = method.state_dict()
        for key, value in state(f"after{step}/").items():
            torch.testing.assert_close(after[key], value, rtol=0, atol=1e-7)


def test_conditioning_reaches_the_projector() -> None:
    method = METHODS["simclr"]().build(
        LinearBackbone(),
        SimCLRConfig().projector(32, ConditioningConfig(how="none", descriptors=())),
    )
    assert isinstance(method, SimCLR)
    assert method.projector.config == ProjectorConfig(
        in_features=32, conditioning="none", descriptors=()
    )


def test_bad_temperature() -> None:
    with pytest.raises(ConfigError, match="temperature"):
        SimCLRConfig(temperature=0)
