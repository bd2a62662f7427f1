"""Every method, plain and conditioned, in the real loop."""

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from changes import small_method as small
from torch import Tensor

import cassle_zoo
from cassle_zoo.checkpoints.run_checkpoint import load_checkpoint
from cassle_zoo.common.errors import CassleZooError, ConfigError
from cassle_zoo.hub.export import export_run
from cassle_zoo.projector import CONDITIONINGS
from cassle_zoo.records import SETTINGS_FILE
from cassle_zoo.train import loop
from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.data.datasets import open_dataset
from cassle_zoo.train.data.loading import batches
from cassle_zoo.train.data.view_config import ViewsConfig
from cassle_zoo.train.methods import METHODS, ConditioningConfig, Views
from cassle_zoo.train.methods.augself import AugSelfConfig
from cassle_zoo.train.methods.vicreg import VICRegConfig
from cassle_zoo.train.trainer import Trainer, build_method

PLAIN = ConditioningConfig(mode="none", descriptors=())


def short(config: TrainConfig, **changes: Any) -> TrainConfig:
    """A run of 4 steps."""
    return dataclasses.replace(
        config,
        optim=dataclasses.replace(config.optim, epochs=1, batch_size=5, base_lr=0.5),
        run=dataclasses.replace(config.run, monitor_every=0),
        **changes,
    )


def state(run: Path) -> dict[str, Any]:
    found, damaged, _ = load_checkpoint(run)
    assert found is not None
    assert damaged == []
    return found


def assert_same(left: Any, right: Any) -> None:
    if isinstance(left, Tensor):
        assert torch.equal(left, right)
    elif isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_same(left[key], right[key])
    elif isinstance(left, list):
        for a, b in zip(left, right, strict=True):
            assert_same(a, b)
    else:
        assert left == right


@pytest.mark.parametrize("conditioned", [True, False], ids=["cassle", "plain"])
@pytest.mark.parametrize("name", METHODS)
def test_trains_resumes_exports(
    config: TrainConfig, tmp_path: Path, fault_at: Any, name: str, conditioned: bool
) -> None:
    middle = "cassle_" if conditioned else ""
    config = short(
        config,
        name=f"test_resnet_{middle}{name}.tiny",
        method=small(name),
        conditioning=ConditioningConfig(depth=2, width=8) if conditioned else PLAIN,
    )
    whole, broken, folder = tmp_path / "whole", tmp_path / "broken", tmp_path / "exported"
    assert loop.train(config, whole) == loop.TrainResult(steps=4, finished=True)

    with fault_at(3), pytest.raises(KeyboardInterrupt):  # the last checkpoint is from step 2
        loop.train(config, broken)
    torch.manual_seed(99)
    assert state(broken)["step"] == 2
    assert loop.train(config, broken).finished
    assert_same(state(broken), state(whole))

    export_run(whole, folder, dtype=torch.float32)
    assert json.loads((folder / "config.json").read_text())["cassle_zoo"]["method"] == name
    trainer = Trainer(config, 4)
    trainer.restore(whole)
    images, omega = torch.rand(3, 3, 32, 32), torch.rand(3, trainer.method.projector.layout.width)
    trainer.method.eval()
    with torch.no_grad():
        features = cassle_zoo.create_model(f"local-dir:{folder}", pretrained=True).eval()(images)
        projector = cassle_zoo.create_projector(f"local-dir:{folder}", pretrained=True).eval()
        torch.testing.assert_close(features, trainer.method.backbone(images))
        expected = trainer.method.projector(features, omega)
        torch.testing.assert_close(projector(features, omega), expected)


@pytest.mark.parametrize("mode", CONDITIONINGS)
@pytest.mark.parametrize("name", METHODS)
def test_every_combination_trains_or_is_refused_with_the_reason(
    config: TrainConfig, name: str, mode: str
) -> None:
    conditioning = ConditioningConfig(mode=mode, descriptors=("crop",), depth=2, width=8)
    changes = {"method": small(name), "conditioning": conditioning}
    if mode in ("raw_add", "raw_mul"):
        with pytest.raises(ConfigError, match=r"omega \(4 numbers\).*features \(96\)"):
            short(config, **changes)
        return
    config = short(config, **changes)
    trainer = Trainer(config, 4)
    has_last_bn = METHODS[name].last_bn and mode != "hypernet"  # as the paper's hypernetwork
    assert trainer.method.projector.config.last_bn == has_last_bn
    for batch in batches(config, open_dataset(config.data), 0, 1):
        trainer.train_step(batch, 4)


@pytest.mark.parametrize("name", METHODS)
def test_bf16_is_close_to_fp32(config: TrainConfig, name: str) -> None:
    """What GPUs use by default, and only those CPUs that have it."""
    augself = AugSelfConfig(crop=0.5, flip=0.5)
    config = short(config, method=small(name), augself=augself)
    (batch,) = batches(config, open_dataset(config.data), 0, 1)
    losses = []
    for precision in ("fp32", "bf16"):
        run = dataclasses.replace(config.run, device="cpu", precision=precision)
        trainer = Trainer(dataclasses.replace(config, run=run), 4)
        losses.append(trainer.train_step(batch, 4)["loss"])
        for group in trainer.method.param_groups():
            for p in group["params"]:
                assert p.grad is not None
                assert p.grad.dtype == p.dtype == torch.float32
                assert p.grad.isfinite().all()
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.15)


@pytest.mark.parametrize("mode", ["cat", "hypernet_bn", "none"])
@pytest.mark.parametrize("name", METHODS)
def test_a_step_stays_on_its_device(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, name: str, mode: str
) -> None:
    """`meta` stands in for a GPU: torch refuses to mix it with tensors of the CPU."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    conditioning = ConditioningConfig(mode=mode, descriptors=("crop",), depth=2, width=8)
    augself = AugSelfConfig(crop=0.5, flip=0.5, first_flip_for_both=True)
    config = short(config, method=small(name), conditioning=conditioning, augself=augself)
    method = build_method(config).to("meta").train()
    x1, x2, all1, all2 = (
        torch.empty(5, *s, device="meta") for s in [(3, 32, 32)] * 2 + [(14,)] * 2
    )
    views = Views(
        images=(x1, x2), descriptors=(all1[:, :4], all2[:, :4]), all_descriptors=(all1, all2)
    )
    loss, logs = method(views)
    loss.backward()
    method.after_step(0.5)
    tensors = [loss, *logs.values(), *method.buffers(), *method.parameters()]
    grads = [p.grad for group in method.param_groups() for p in group["params"]]
    assert {t.device.type for t in (*tensors, *grads)} == {"meta"}


def test_bad_conditioning_fails_when_the_configuration_is_made(config: TrainConfig) -> None:
    for fields, message in (
        ({"descriptors": ()}, "at least one descriptor"),
        ({"descriptors": ("crop", "colour")}, "color"),
        ({"depth": 0}, r"conditioning\.depth"),
    ):
        with pytest.raises(CassleZooError, match=message):
            dataclasses.replace(config, conditioning=ConditioningConfig(**fields))


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("mocov2", {"momentum": 1.1}, "momentum"),
        ("mocov2", {"enqueue": "key"}, "Did you mean 'keys'"),
    ],
)
def test_bad_settings(name: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(CassleZooError, match=message):
        METHODS[name](**fields)


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("barlow_twins", {"redundancy": 0.3}),
        ("vicreg", {"invariance": 2.0, "variance": 3.0, "covariance": 5.0}),
    ],
)
def test_the_terms_of_a_loss_are_weighted(
    config: TrainConfig, name: str, weights: dict[str, float]
) -> None:
    settings: dict[str, Any] = {f"{term}_weight": weight for term, weight in weights.items()}
    method = METHODS[name](hidden_features=12, out_features=8, **settings)
    built = build_method(short(config, method=method, conditioning=PLAIN)).train()
    images, omega = torch.rand(2, 5, 3, 32, 32), torch.zeros(2, 5, 0)
    loss, terms = built(Views(images=tuple(images), descriptors=tuple(omega)))
    expected = sum(weights.get(term, 1.0) * value for term, value in terms.items())
    torch.testing.assert_close(loss, expected)


def test_the_weights_of_vicreg_are_its_papers() -> None:
    config = VICRegConfig()
    weights = config.invariance_weight, config.variance_weight, config.covariance_weight
    assert weights == (25, 25, 1)


def test_runs_from_before_a_setting_existed_are_continued(
    config: TrainConfig, tmp_path: Path
) -> None:
    config = short(config)
    loop.train(config, tmp_path)
    path = tmp_path / SETTINGS_FILE
    old = json.loads(path.read_text())
    del old["augself"], old["views"], old["method"]["depth"]
    path.write_text(json.dumps(old))
    assert loop.train(config, tmp_path).finished
    path.write_text(json.dumps(old))
    newer = dataclasses.replace(config, method=METHODS["simclr"](depth=3))
    more = dataclasses.replace(config, views=ViewsConfig(count=3))
    for other, says in ((newer, r"method\.depth: 2"), (more, r"views\.count: 2")):
        with pytest.raises(ConfigError, match=f"{says} there, 3 now"):
            loop.train(other, tmp_path)
