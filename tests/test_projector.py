import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cassle_zoo.augmentation.descriptors import PAPER_DESCRIPTORS
from cassle_zoo.common.errors import ConfigError, UnknownNameError
from cassle_zoo.projector import CONDITIONINGS, ConditionedProjector, ProjectorConfig

GOLDEN = sorted((Path(__file__).parent / "golden").glob("a_projector_*.npz"))


def golden_config(meta: dict[str, Any]) -> ProjectorConfig:
    injection = meta["aug_inj_type"].removeprefix("proj-")
    conditioning = {
        "hn": "hypernet",
        "mlp": injection,
        "raw": "none" if injection == "none" else f"raw_{injection}",
    }[meta["aug_treatment"]]
    return ProjectorConfig(
        in_features=meta["num_backbone_features"],
        out_features=meta["proj_out_dim"],
        hidden_features=meta.get("proj_hidden_dim"),
        depth=meta["proj_depth"],
        last_bn=meta.get("projector_last_bn", False),
        last_bn_affine=meta.get("projector_last_bn_affine", True),
        conditioning=conditioning,
        descriptors=tuple(meta["aug_cond_given"]),
        encoder_depth=meta["aug_nn_depth"],
        encoder_width=meta["aug_nn_width"],
    )


def our_key(key: str) -> str:
    return (
        key.replace("aug_processor.", "encoder.")
        .replace("projector_hn.", "encoder.")
        .replace("projector.", "layers.")
    )


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_equals_official(path: Path) -> None:
    with np.load(path) as arrays:
        golden = {key: torch.from_numpy(arrays[key]) for key in arrays.files if key != "meta_json"}
        projector = ConditionedProjector(golden_config(json.loads(str(arrays["meta_json"]))))
    projector.double().load_state_dict(
        {our_key(key[3:]): value for key, value in golden.items() if key.startswith("sd/")}
    )
    x = golden["x"].requires_grad_()
    tolerance: Any = {"rtol": 0, "atol": 1e-11}
    torch.testing.assert_close(
        projector.eval()(x, golden["aug_desc"]), golden["out_eval"], **tolerance
    )
    out = projector.train()(x, golden["aug_desc"])
    torch.testing.assert_close(out, golden["out_train"], **tolerance)
    (out * golden["grad_out"]).sum().backward()
    torch.testing.assert_close(x.grad, golden["grad_x"], **tolerance)
    parameters, buffers = dict(projector.named_parameters()), dict(projector.named_buffers())
    for key, value in golden.items():
        if key.startswith("grad/"):
            torch.testing.assert_close(parameters[our_key(key[5:])].grad, value, **tolerance)
        if key.startswith("sd_after_train/"):
            torch.testing.assert_close(buffers[our_key(key[15:])], value, **tolerance)


def test_golden_files_are_there() -> None:
    assert len(GOLDEN) == 10


@pytest.mark.parametrize("conditioning", [c for c in CONDITIONINGS if c != "none"])
def test_output_depends_on_omega(conditioning: str) -> None:
    torch.manual_seed(0)
    projector = ConditionedProjector(ProjectorConfig(in_features=13, conditioning=conditioning))
    features = torch.randn(8, 13)
    omega = torch.randn(8, 13)
    assert not torch.allclose(projector(features, omega), projector(features, omega.flip(0)))


@pytest.mark.parametrize(("depth", "last_bn"), [(2, False), (3, False), (3, True), (1, True)])
def test_hypernet_with_batch_norm(depth: int, last_bn: bool) -> None:
    """Compared with one generated network per sample, written out."""
    config = ProjectorConfig(
        in_features=5, out_features=4, hidden_features=6, depth=depth, last_bn=last_bn,
        conditioning="hypernet_bn", encoder_depth=2, encoder_width=7,
    )  # fmt: skip
    projector: Any = ConditionedProjector(config).double()
    assert projector.norms is not None
    assert len(projector.norms) == depth - 1 + last_bn
    for norm in projector.norms:
        torch.nn.init.uniform_(norm.weight, 0.5, 2)
        torch.nn.init.normal_(norm.bias)
    features, omega = torch.randn(9, 5).double(), torch.randn(9, 13).double()
    generated = projector.encoder(omega)
    rows = list(features)
    start = 0
    widths = [5, *[6] * (depth - 1), 4]
    for layer in range(depth):
        n_in, n_out = widths[layer : layer + 2]
        for i in range(9):
            matrix = generated[i, start : start + n_in * n_out].view(n_in, n_out)
            bias = generated[i, start + n_in * n_out : start + (n_in + 1) * n_out]
            rows[i] = rows[i] @ matrix + bias
        start += (n_in + 1) * n_out
        batch = torch.stack(rows)
        if layer < depth - 1 or last_bn:
            norm = projector.norms[layer]
            batch = (batch - batch.mean(0)) / (batch.var(0, correction=0) + 1e-5).sqrt()
            batch = batch * norm.weight + norm.bias
        if layer < depth - 1:
            batch = batch.relu()
        rows = list(batch)
    assert start == generated.shape[1]
    torch.testing.assert_close(projector(features, omega), torch.stack(rows))


def test_unconditioned_needs_no_omega() -> None:
    projector = ConditionedProjector(
        ProjectorConfig(in_features=6, conditioning="none", descriptors=())
    )
    assert projector(torch.randn(4, 6)).shape == (4, 128)


def test_config_survives_json() -> None:
    config = ProjectorConfig(in_features=9, last_bn=True, descriptors=("flip", "crop"))
    assert config.descriptors == ("crop", "flip")
    assert ProjectorConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"descriptors": ("crop", "colour")}, "color"),
        ({"descriptors": ()}, "at least one descriptor"),
        ({"conditioning": "raw_add"}, "element by element"),
        ({"conditioning": "hypernet", "last_bn": True}, "hypernet_bn"),
        ({"conditioning": "hypernet_bn", "depth": 1}, "depth 2"),
    ],
)
def test_bad_config(fields: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, UnknownNameError), match=message):
        ProjectorConfig(**{"in_features": 32, **fields})


@pytest.mark.parametrize("values", [{}, {"in_features": 4, "width": 3}])
def test_bad_dict(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        ProjectorConfig.from_dict(values)


def test_wrong_shapes() -> None:
    projector = ConditionedProjector(ProjectorConfig(in_features=32))
    with pytest.raises(ConfigError, match="features must be"):
        projector(torch.randn(2, 31), torch.randn(2, 13))
    with pytest.raises(ConfigError, match="descriptors must be"):
        projector(torch.randn(2, 32), torch.randn(2, 14))
    with pytest.raises(ConfigError, match="descriptors must be"):
        projector(torch.randn(2, 32))
    assert projector.layout.names == PAPER_DESCRIPTORS
