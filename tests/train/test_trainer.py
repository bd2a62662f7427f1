"""What trainers have: batches in parts, clipping, compile, fp16 and an average of the weights."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from changes import change, small_method
from safetensors.torch import load_file
from timm.layers import convert_sync_batchnorm
from torch import nn

from cassle_zoo.checkpoints.run_checkpoint import load_checkpoint
from cassle_zoo.common.errors import ConfigError, NonFiniteLossError
from cassle_zoo.train import forward, loop
from cassle_zoo.train.config import OptimConfig, TrainConfig
from cassle_zoo.train.data.datasets import open_dataset
from cassle_zoo.train.data.loading import batches
from cassle_zoo.train.distributed import process_group
from cassle_zoo.train.methods import METHODS
from cassle_zoo.train.methods.byol import BYOLConfig
from cassle_zoo.train.methods.dino import DINOConfig
from cassle_zoo.train.trainer import Trainer


def trained(config: TrainConfig, steps: int = 2) -> tuple[Trainer, list[dict[str, float]]]:
    trainer = Trainer(config, per_epoch=5)
    found = batches(config, open_dataset(config.data), 0, steps)
    return trainer, [trainer.train_step(batch, 10) for batch in found]


def losses(values: list[dict[str, float]]) -> list[float]:
    return [step["loss"] for step in values]


@pytest.fixture
def vit(config: TrainConfig) -> TrainConfig:
    """A network without BatchNorm, in full precision, with batches of 6."""
    config = change(change(config, "run", precision="fp32"), "optim", batch_size=6, base_lr=0.1)
    return dataclasses.replace(config, arch="test_vit")


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_in_parts_is_the_whole_batch(vit: TrainConfig, name: str) -> None:
    vit = dataclasses.replace(vit, method=small_method(name))
    (whole, expected), (parted, found) = (
        trained(change(vit, "optim", accumulate=parts)) for parts in (1, 3)
    )
    assert losses(found) == pytest.approx(losses(expected), rel=1e-4, abs=1e-5)
    for key, value in whole.method.state_dict().items():
        torch.testing.assert_close(
            parted.method.state_dict()[key], value, rtol=1e-3, atol=1e-4, msg=key
        )


def plain_parts(backbone: nn.Module, images: torch.Tensor, parts: int) -> torch.Tensor:
    rows = [backbone(images[i::parts].contiguous()) for i in range(parts)]
    return torch.stack(rows, 1).flatten(0, 1)


@pytest.mark.parametrize("sync", [False, True])
def test_batch_norm_counts_each_part_once(config: TrainConfig, sync: bool) -> None:
    """Against the same parts with all activations in memory."""
    torch.manual_seed(0)
    images = torch.randn(6, 3, 32, 32)
    config = change(change(config, "run", precision="fp32"), "optim", batch_size=6, accumulate=3)
    build = functools.partial(Trainer, config, 5)
    trainer = build()
    adapted, plain = trainer.method.backbone, build().method.backbone
    del plain.forward  # the class's own again
    for network in (adapted, plain) if sync else ():  # as in several processes with GPUs
        convert_sync_batchnorm(network)
    with trainer._computation():
        found, expected = adapted(images), plain_parts(plain, images, 3)
    assert torch.equal(found, expected)
    found.square().sum().backward()
    expected.square().sum().backward()
    state = plain.state_dict()
    assert int(state["bn1.num_batches_tracked"]) == 3
    assert all(torch.equal(value, state[key]) for key, value in adapted.state_dict().items())
    for a, b in zip(adapted.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)
    norms = [m for m in adapted.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert all(isinstance(m, nn.SyncBatchNorm) == sync and m.momentum == 0.1 for m in norms)


class Hybrid(nn.Module):
    """A backbone with one inside, as timm's hybrid ViTs."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Flatten()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.backbone(images)
        return features


def test_a_backbone_inside_the_backbone_is_not_parted_again() -> None:
    method = nn.ModuleDict({"backbone": Hybrid()})
    forward.adapt_backbones(method, parts=3, compiled=False, computation=contextlib.nullcontext)
    images = torch.randn(6, 3, 2, 2)  # parts of two rows
    assert torch.equal(method["backbone"](images), images.flatten(1))


def test_processes_draw_their_own_dropout(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(config, per_epoch=5)
    (batch,) = batches(config, open_dataset(config.data), 0, 1)
    objective, drawn = trainer.method.objective, list[tuple[float, ...]]()

    def draw(*args: Any) -> Any:
        drawn.append(tuple(torch.rand(4).tolist()))
        return objective(*args)

    monkeypatch.setattr(trainer.method, "objective", draw)
    for rank, seed in ((0, 0), (1, 0), (1, 7), (2, 0)):
        monkeypatch.setattr(process_group, "rank", lambda rank=rank: rank)
        trainer.step = 3
        torch.manual_seed(seed)
        trainer.train_step(batch, 10)
    torch.manual_seed(0)
    assert drawn[0] == tuple(torch.rand(4).tolist())  # one process draws as it always did
    assert drawn[1] == drawn[2]  # whatever came before: a continued run is the undisturbed one
    assert len(set(drawn)) == 3


def test_parts_hold_the_activations_of_one(vit: TrainConfig) -> None:
    def stored(parts: int) -> int:
        backbone = Trainer(change(vit, "optim", accumulate=parts), 5).method.backbone
        sizes: dict[int, int] = {}

        def pack(x: torch.Tensor) -> torch.Tensor:
            sizes[x.data_ptr()] = x.numel()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            backbone(torch.randn(6, 3, 32, 32))
        return sum(sizes.values())

    assert stored(3) < stored(1) / 5


def test_evaluation_is_not_in_parts(config: TrainConfig) -> None:
    backbone = Trainer(change(config, "optim", accumulate=2), 5).method.backbone.eval()
    assert backbone(torch.zeros(1, 3, 32, 32)).shape[0] == 1


@pytest.mark.parametrize("parts", [3, 4])
def test_parts_must_divide_the_batch(parts: int) -> None:
    with pytest.raises(ConfigError, match=rf"optim.accumulate must divide .* = 4 .* got {parts}"):
        OptimConfig(batch_size=4, accumulate=parts)


def test_parts_of_several_processes(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 4)
    with pytest.raises(ConfigError, match=r"batch of 12 .* among 4 processes .* that 8 divides"):
        Trainer(change(config, "optim", batch_size=12, accumulate=2), 5)


@pytest.mark.parametrize(("mode", "largest"), [("norm", 1e-3), ("value", 1e-3), ("agc", 1e-3)])
def test_gradients_are_clipped(config: TrainConfig, mode: str, largest: float) -> None:
    free, _ = trained(config, 1)
    clipped, _ = trained(change(config, "optim", clip_grad=largest, clip_mode=mode), 1)
    before, after = (
        [p.grad for p in trainer.method.parameters() if p.grad is not None]
        for trainer in (free, clipped)
    )
    if mode == "norm":
        assert torch.nn.utils.get_total_norm(before) > 1e-2
        assert torch.nn.utils.get_total_norm(after) == pytest.approx(largest, rel=1e-3)
    elif mode == "value":
        assert max(float(g.abs().max()) for g in before) > 1e-2
        assert max(float(g.abs().max()) for g in after) == pytest.approx(largest)
    else:
        weights = free.method.backbone.state_dict()["conv1.0.weight"]
        index = [n for n, p in free.method.named_parameters() if p.grad is not None].index(
            "backbone.conv1.0.weight"
        )
        bound = 1.01 * largest * weights.flatten(1).norm(dim=1).max()
        assert before[index].flatten(1).norm(dim=1).max() > bound
        assert after[index].flatten(1).norm(dim=1).max() <= bound


def test_methods_are_told_how_far_training_is(config: TrainConfig) -> None:
    trainer = Trainer(config, 5)
    trainer.step = 4
    told: list[Any] = []
    method: Any = trainer.method
    method.before_step = lambda epoch, progress: told.append((epoch, progress))
    method.after_step = told.append
    for batch in batches(config, open_dataset(config.data), 4, 6):
        trainer.train_step(batch, 10)
    assert told == [(4 / 5, 0.4), 0.5, (1.0, 0.5), 0.6]


def test_the_average_is_the_result(config: TrainConfig, tmp_path: Path) -> None:
    config = change(config, "optim", ema_decay=0.6)
    config = dataclasses.replace(config, method=BYOLConfig(predictor_features=8))
    trainer = Trainer(config, 5)
    weight = trainer.method.backbone.get_parameter("conv1.0.weight")
    expected = torch.zeros_like(weight)
    for steps, batch in enumerate(batches(config, open_dataset(config.data), 0, 10)):
        trainer.train_step(batch, 10)
        decay = 0.0 if steps == 0 else min(0.6, 1 - (1 + steps) ** (-2 / 3))
        expected = expected * decay + weight.detach() * (1 - decay)
    torch.testing.assert_close(trainer.result.backbone.get_parameter("conv1.0.weight"), expected)
    loop.train(config, tmp_path)
    exported = load_file(tmp_path / "final" / "backbone.safetensors")
    torch.testing.assert_close(exported["conv1.0.weight"], expected)
    state = load_checkpoint(tmp_path)[0]
    assert state is not None
    assert set(state["ema"]) == {
        key for key in state["method"] if key.startswith(("backbone.", "projector."))
    }


def test_the_average_changes_no_training(config: TrainConfig) -> None:
    (plain, _), (averaged, _) = (
        trained(change(config, "optim", ema_decay=decay)) for decay in (None, 0.9)
    )
    state = averaged.method.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in plain.method.state_dict().items())
    assert plain.result is plain.method


@pytest.fixture
def eager_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torch.compile without code generation, which takes minutes."""
    compiler = functools.partial(torch.compile, backend="aot_eager")
    monkeypatch.setattr(torch, "compile", compiler)
    yield
    torch._dynamo.reset()


FEATURES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "accumulate": ({"accumulate": 2}, {}),
    "clip": ({"clip_grad": 0.1}, {}),
    "ema": ({"ema_decay": 0.9}, {}),
    "fp16": ({"clip_grad": 1.0}, {"precision": "fp16"}),
    "all": ({"accumulate": 2, "clip_grad": 0.5, "ema_decay": 0.9}, {"precision": "fp16"}),
}


def with_features(config: TrainConfig, feature: str) -> TrainConfig:
    optim, run = FEATURES[feature]
    return change(change(config, "optim", **optim), "run", monitor_every=0, **run)


@pytest.mark.parametrize("feature", ["ema", "all"])  # "all" has the others
def test_crash_then_resume(
    config: TrainConfig, tmp_path: Path, fault_at: Any, feature: str
) -> None:
    config = with_features(config, feature)
    config = dataclasses.replace(config, method=small_method("simsiam"))
    loop.train(config, tmp_path / "undisturbed")
    with fault_at(5), pytest.raises(KeyboardInterrupt):
        loop.train(config, tmp_path / "crashed")
    torch.manual_seed(99)
    assert loop.train(config, tmp_path / "crashed").finished
    for file in ("backbone", "projector"):
        left, right = (
            load_file(tmp_path / run / "final" / f"{file}.safetensors")
            for run in ("crashed", "undisturbed")
        )
        assert all(torch.equal(value, right[key]) for key, value in left.items())
    states = [load_checkpoint(tmp_path / run)[0] for run in ("crashed", "undisturbed")]
    scalers = [state and state["scaler"] for state in states]
    assert scalers[0] == scalers[1]
    assert (scalers[0] != {}) == ("precision" in FEATURES[feature][1])


def test_every_feature_changes_the_result(config: TrainConfig) -> None:
    """So that equal runs above do not come from a setting that does nothing."""
    config = change(config, "run", precision="fp32")
    runs = [config, *(with_features(config, feature) for feature in FEATURES)]
    plain, *found = (
        trained(run)[0].result.backbone.get_parameter("conv1.0.weight") for run in runs
    )
    idle = [name for name, own in zip(FEATURES, found, strict=True) if torch.equal(plain, own)]
    assert not idle


def test_runs_from_before_these_settings_continue(config: TrainConfig, tmp_path: Path) -> None:
    """Their checkpoints have neither a scaler nor an average."""
    from cassle_zoo.checkpoints.run_checkpoint import save_checkpoint

    loop.train(config, tmp_path)
    state = load_checkpoint(tmp_path)[0]
    assert state is not None
    save_checkpoint(tmp_path, {k: v for k, v in state.items() if k not in ("scaler", "ema")})
    assert loop.train(config, tmp_path).finished


def test_a_layer_that_does_not_learn_yet_does_not_count_when_gradients_are_clipped(
    config: TrainConfig,
) -> None:
    config = change(config, "optim", clip_grad=1e-4)
    method = DINOConfig(hidden_features=16, out_features=8, prototypes=32)
    trainer = Trainer(dataclasses.replace(config, method=method), per_epoch=5)
    last = trainer.method.get_parameter("last_layer.weight")
    last.register_hook(lambda grad: 1e3 * grad)
    trainer.train_step(next(batches(config, open_dataset(config.data), 0, 1)), 10)
    assert last.grad is None
    grads = [p.grad.flatten() for p in trainer.method.parameters() if p.grad is not None]
    assert float(torch.cat(grads).norm()) == pytest.approx(1e-4, rel=0.01)


def test_overflow_leaves_a_step_out(config: TrainConfig) -> None:
    trainer = Trainer(change(config, "run", precision="fp16"), 5)
    trainer._scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    steps = iter(batches(config, open_dataset(config.data), 0, 2))
    before = {key: value.clone() for key, value in trainer.method.named_parameters()}
    values = trainer.train_step(next(steps), 10)
    assert trainer.step == 1
    assert values["loss_scale"] == 2.0**39
    assert all(torch.equal(before[key], value) for key, value in trainer.method.named_parameters())
    trainer._scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4)
    trainer.train_step(next(steps), 10)
    after = trainer.method.get_parameter("backbone.conv1.0.weight")
    assert not torch.equal(before["backbone.conv1.0.weight"], after)


def test_overflow_at_every_scale_is_an_error(config: TrainConfig) -> None:
    trainer = Trainer(change(config, "run", precision="fp16"), 5)
    trainer._scaler = torch.amp.GradScaler("cpu", init_scale=2.0**-19)
    trainer.method.backbone.get_parameter("conv1.0.weight").register_hook(lambda g: g * torch.nan)
    steps = iter(batches(config, open_dataset(config.data), 0, 2))
    trainer.train_step(next(steps), 10)
    with pytest.raises(NonFiniteLossError, match="even with the loss scaled by"):
        trainer.train_step(next(steps), 10)


@pytest.mark.slow
@pytest.mark.usefixtures("eager_compiler")
def test_compiled_then_not(vit: TrainConfig, tmp_path: Path, fault_at: Any) -> None:
    vit = change(vit, "run", monitor_every=0)
    compiled = change(vit, "run", compile=True)
    with fault_at(2), pytest.raises(KeyboardInterrupt):
        loop.train(compiled, tmp_path)
    trainer, values = trained(compiled)
    plain, expected = trained(vit)
    assert trainer.method.state_dict().keys() == plain.method.state_dict().keys()
    assert losses(values) == pytest.approx(losses(expected), rel=1e-4)
    assert loop.train(vit, tmp_path).finished


def test_no_compiler(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def compiler(function: Any) -> Any:
        def fail(*_: Any) -> None:
            raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\nin ...")

        return fail

    monkeypatch.setattr(torch, "compile", compiler)
    said = r"run.compile does not work on cpu .*No working C\+\+ compiler found\); install"
    with pytest.raises(ConfigError, match=said):
        Trainer(change(config, "run", compile=True), 5)
    with pytest.raises(ConfigError, match="Triton"):
        forward.check_compiler(torch.device("meta"))


@pytest.mark.slow
def test_no_compiler_for_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from torch._inductor import config as inductor

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(inductor.cpp, "cxx", (None, "/nonexistent"))
    with pytest.raises(ConfigError, match=r"run\.compile does not work on cpu"):
        forward.check_compiler(torch.device("cpu"))


def test_the_random_numbers_of_mps_continue_too(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = torch.arange(8, dtype=torch.uint8)
    restored: list[torch.Tensor] = []
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: state)
    monkeypatch.setattr(torch.mps, "set_rng_state", restored.append)
    trainer = Trainer(config, per_epoch=5)
    trainer.device = torch.device("mps")  # checkpoints ask it for its generator only
    trainer.save(tmp_path)
    trainer.restore(tmp_path)
    (found,) = restored
    assert torch.equal(found, state)
