"""What the checkpoints of the paper's code are, worked out from their tensors."""

import dataclasses
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_checkpoints import official_checkpoint
from torch import nn

from cassle_zoo.augmentation.descriptors import PAPER_DESCRIPTORS
from cassle_zoo.checkpoints.checkpoint_file import read_checkpoint
from cassle_zoo.checkpoints.identify import CheckpointFacts, identify_content
from cassle_zoo.checkpoints.projectors import read_projector
from cassle_zoo.common.errors import CheckpointError
from cassle_zoo.projector import ProjectorConfig

ALL = (*PAPER_DESCRIPTORS, "flip")
MOCOV3 = {
    "depth": 3, "hidden_features": 4096, "out_features": 256,
    "last_bn": True, "last_bn_affine": False,
}  # fmt: skip

# case of the key list -> timm model, method, fields of the projector
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "resnet18_simclr_mlp_proj-cat": ("resnet18", "simclr or mocov2", {}),
    "resnet18_moco_mlp_proj-cat": ("resnet18", "simclr or mocov2", {}),
    "resnet50_simclr_mlp_proj-cat": ("resnet50", "simclr or mocov2", {}),
    "resnet50_moco_mlp_proj-cat": ("resnet50", "simclr or mocov2", {}),
    "vit_small_mocov3_mlp_proj-cat": ("vit_small_patch16_224", "mocov3", MOCOV3),
    "vit_base_mocov3_mlp_proj-cat": ("vit_base_patch16_224", "mocov3", MOCOV3),
    "resnet50_mocov3_mlp_proj-cat": ("resnet50", "mocov3", MOCOV3),
    "resnet18_simsiam_mlp_proj-cat": (
        "resnet18", "simsiam", {"hidden_features": 2048, "out_features": 2048, "last_bn": True},
    ),
    "resnet18_byol_mlp_proj-cat": ("resnet18", "byol", {"out_features": 256}),
    "resnet18_barlow_twins_mlp_proj-cat": (
        "resnet18", "barlow_twins", {**MOCOV3, "hidden_features": 8192, "out_features": 8192},
    ),
    "resnet50_moco_mlp_proj-none": (
        "resnet50", "simclr or mocov2", {"conditioning": "none", "descriptors": ()},
    ),
    "resnet50_moco_mlp_proj-cat_flip": ("resnet50", "simclr or mocov2", {"descriptors": ALL}),
    "resnet18_simclr_raw_proj-cat": (
        "resnet18", "simclr or mocov2", {"conditioning": "raw_cat"},
    ),
    "resnet18_simclr_mlp_proj-add": ("resnet18", "simclr or mocov2", {"conditioning": "add"}),
    "resnet18_moco_mlp_proj-cat_ss-crop-color": ("resnet18", "simclr or mocov2", {}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_every_case_is_identified(tmp_path: Path, case: str) -> None:
    timm_arch, method, fields = CASES[case]
    torch.save(official_checkpoint(case), tmp_path / "ckpt-500.pth")
    options = CheckpointFacts(conditioning=fields.get("conditioning") if "add" in case else None)
    found = identify_content(read_checkpoint(tmp_path / "ckpt-500.pth"), {}, "mine", options)
    assert (found.backbone.timm_arch, found.method) == (timm_arch, method)
    heads = {"num_heads": 12} if "small" in case else {}
    assert found.backbone.model_args == heads
    assert found.projector is not None
    backbone: Any = found.backbone.model
    assert found.projector.config == ProjectorConfig(in_features=backbone.num_features, **fields)
    assert ("predictor" in found.dropped) == (method in ("simsiam", "byol"))
    assert ("ss_predictor" in found.dropped) == ("ss-crop" in case)


def projector_state(
    conditioning: str, width: int, *, features: int = 20, depth: int = 2
) -> dict[str, torch.Tensor]:
    """A projector of the paper's code under its own names, encoder of depth 3 and width 8."""

    def mlp(widths: list[int]) -> nn.Sequential:
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(widths):
            layers += [nn.Linear(n_in, n_out, bias=False), nn.BatchNorm1d(n_out), nn.ReLU()]
        return nn.Sequential(*layers[:-1])

    def head(n_in: int) -> nn.Sequential:
        hidden = mlp([n_in, *[features] * (depth - 1)])
        return nn.Sequential(*hidden, nn.ReLU(), nn.Linear(features, 128))

    parts: dict[str, nn.Module] = {}
    generated = (depth - 1) * features * (features + 1) + 128 * (features + 1)
    if conditioning.startswith("hypernet"):
        parts["projector_hn"] = mlp([width, 8, 8, generated])
        if conditioning == "hypernet_bn":
            norms = [nn.BatchNorm1d(features) for _ in range(depth - 1)]
            parts["projector_bns"] = nn.ModuleList(norms)
    elif conditioning.startswith("raw_"):
        parts["projector"] = head(features + (width if conditioning == "raw_cat" else 0))
    else:
        out = 8 if conditioning == "cat" else features
        parts["aug_processor"] = mlp([width, 8, 8, out])
        parts["projector"] = head(features + (8 if conditioning == "cat" else 0))
    return {
        f"{part}.{key}": value
        for part, module in parts.items()
        for key, value in module.state_dict().items()
    }


@pytest.mark.parametrize(
    ("conditioning", "option"),
    [
        ("cat", None),
        ("add", "add"),
        ("mul", "mul"),
        ("raw_cat", None),
        ("hypernet", None),
        ("hypernet_bn", None),
    ],
)
def test_conditionings(conditioning: str, option: str | None) -> None:
    projector, _ = read_projector(projector_state(conditioning, 13), 20, conditioning=option)
    expected = ProjectorConfig(in_features=20, conditioning=conditioning)
    if conditioning != "raw_cat":
        expected = dataclasses.replace(expected, encoder_depth=3, encoder_width=8)
    assert projector.config == expected


def test_a_hypernetwork_for_three_layers() -> None:
    state = projector_state("hypernet", 13, depth=3)
    with pytest.raises(CheckpointError, match="no method's projector"):
        read_projector(state, 20)


def test_raw_addition_needs_args() -> None:
    args = {"aug_treatment": "raw", "aug_inj_type": "proj-add", "aug_cond": list(PAPER_DESCRIPTORS)}
    state = projector_state("raw_add", 13, features=13)
    assert read_projector(state, 13, args=args)[0].config.conditioning == "raw_add"
    assert read_projector(state, 13)[0].config.conditioning == "none"


@pytest.mark.parametrize(
    ("width", "option", "expected"),
    [
        (13, None, PAPER_DESCRIPTORS),
        (14, None, tuple(sorted(ALL))),
        (13, ("flip", "color_diff", "crop", "color", "blur"), None),
        (4, ("color",), None),
        (3, ("grayscale", "flip", "blur"), None),
    ],
)
def test_descriptors(
    width: int, option: tuple[str, ...] | None, expected: tuple[str, ...] | None
) -> None:
    wanted = expected or tuple(sorted(option or ()))
    state = projector_state("cat", width)
    projector, notes = read_projector(state, 20, descriptors=option)
    assert projector.config.descriptors == wanted
    assert bool(notes) == (width == 13 and option is None)
    projector, notes = read_projector(state, 20, args={"aug_cond": list(wanted)[::-1]})
    assert (projector.config.descriptors, notes) == (wanted, ())


@pytest.mark.parametrize(
    ("width", "kwargs", "message"),
    [
        (4, {}, r"several sets of descriptors have 4 numbers \(color; crop; .*--descriptors"),
        (15, {}, "no set of descriptors has 15 numbers"),
        (13, {"descriptors": ("crop",)}, r"--descriptors says descriptors crop, which are 4"),
        (13, {"args": {"aug_cond": ["crop"]}}, r"args\.json says descriptors crop"),
        (13, {"conditioning": "add"}, "--conditioning says conditioning 'add'.*those of cat"),
        (
            13,
            {"args": {"aug_treatment": "hn", "aug_inj_type": "proj-cat"}},
            r"args\.json says conditioning 'hypernet'",
        ),
    ],
)
def test_contradictions_and_open_questions_are_refused(
    width: int, kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_projector(projector_state("cat", width), 20, **kwargs)


def test_a_plain_projector_has_no_descriptors() -> None:
    state = projector_state("raw_add", 13, features=20)  # the same tensors
    assert read_projector(state, 20)[0].config.conditioning == "none"
    with pytest.raises(CheckpointError, match="says crop, but the projector is not conditioned"):
        read_projector(state, 20, descriptors=("crop",))


def test_adding_and_multiplying_look_the_same() -> None:
    with pytest.raises(CheckpointError, match="give --conditioning add or --conditioning mul"):
        read_projector(projector_state("mul", 13), 20)
    for mode in ("add", "mul"):
        args = {"aug_treatment": "mlp", "aug_inj_type": f"proj-{mode}"}
        projector, _ = read_projector(projector_state(mode, 13), 20, args=args)
        assert projector.config.conditioning == mode


def test_tensors_that_do_not_belong_together_are_refused() -> None:
    state = projector_state("cat", 13)
    with pytest.raises(CheckpointError, match=r"\b28 .*backbone has 21\b"):
        read_projector(state, 21)
    with pytest.raises(CheckpointError, match=r"unknown parts: gate\.weight"):
        read_projector({**state, "gate.weight": torch.zeros(1)}, 20)
    del state["projector.1.running_mean"]
    with pytest.raises(CheckpointError, match=r"missing: layers\.1\.running_mean"):
        read_projector(state, 20)


@pytest.mark.parametrize(
    ("name", "kwargs", "method"),
    [
        ("resnet18_cassle_simclr.in100", {}, "simclr"),
        ("resnet18_cassle_mocov2", {}, "mocov2"),
        ("mine", {"args": {"framework": "moco"}}, "mocov2"),
        ("mine", {"options": CheckpointFacts(method="simclr")}, "simclr"),
    ],
)
def test_where_the_method_is_found(name: str, kwargs: dict[str, Any], method: str) -> None:
    checkpoint = official_checkpoint("resnet18_simclr_raw_proj-cat")
    options = kwargs.get("options", CheckpointFacts())
    found = identify_content(checkpoint, kwargs.get("args", {}), name, options)
    assert found.method == method
    assert not any("method" in note for note in found.notes)


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("resnet18_byol", {}, r"name resnet18_byol says method 'byol'.*simclr or mocov2"),
        ("resnet50_simclr", {}, "says resnet50, but the architecture is resnet18"),
        ("resnet18_simclr", {}, "says plain, but the projector is conditioned"),
        ("mine", {"args": {"framework": "simsiam"}}, r"args\.json says method 'simsiam'"),
        ("mine", {"options": CheckpointFacts(method="byol")}, "--method says method 'byol'"),
    ],
)
def test_names_that_the_tensors_deny_are_refused(
    name: str, kwargs: dict[str, Any], message: str
) -> None:
    checkpoint = official_checkpoint("resnet18_simclr_raw_proj-cat")
    with pytest.raises(CheckpointError, match=message):
        identify_content(
            checkpoint, kwargs.get("args", {}), name, kwargs.get("options", CheckpointFacts())
        )


def test_a_baseline_may_not_be_called_cassle() -> None:
    checkpoint = official_checkpoint("resnet50_moco_mlp_proj-none")
    with pytest.raises(CheckpointError, match="says cassle, but the projector is plain"):
        identify_content(checkpoint, {}, "resnet50_cassle_mocov2.in100", CheckpointFacts())
