"""Recipes on ImageNet-100: the paper's own protocols (section 4 and appendix).

Nobody has run them with this code yet. Memory and time are estimates for bf16, from the tensors
that autograd saves and the operations in a step, counted on a CPU with small batches; the time
assumes a GPU that sustains 100 TFLOP/s and never waits for images. `--dry-run` measures both.
"""

from cassle_zoo.common.workers import usable_workers
from cassle_zoo.specs import model_name
from cassle_zoo.train.config import DataConfig, OptimConfig, TrainConfig
from cassle_zoo.train.methods import MethodConfig
from cassle_zoo.train.methods.barlow_twins import BarlowTwinsConfig
from cassle_zoo.train.methods.mocov2 import MoCoV2Config
from cassle_zoo.train.methods.mocov3 import MoCoV3Config
from cassle_zoo.train.methods.simclr import SimCLRConfig
from cassle_zoo.train.recipes.recipe import Recipe

_SGD = OptimConfig(epochs=500)
_ADAMW = OptimConfig(
    epochs=500, optimizer="adamw", base_lr=1.5e-4, weight_decay=0.1, warmup_epochs=40
)
_FOLDER = "--data is a folder with a sub-folder `train` of the 100 classes' images."
_LR = "Learning rate and weight decay are those of MoCo v3 (arXiv 2104.02057, appendix)."
_VIT = f"{_LR} 12 heads, fixed sin-cos positions, frozen patch projection."


def _pair(
    title: str,
    method: MethodConfig,
    optim: OptimConfig,
    *,
    gib: int,
    hours: float,
    arch: str = "resnet50",
    notes: str = "",
) -> tuple[Recipe, Recipe]:
    config = TrainConfig(
        name=model_name(arch, method.name, conditioned=True, tag="in100"),
        arch=arch,
        method=method,
        optim=optim,
        data=DataConfig(workers=usable_workers(8)),
    )
    cassle = Recipe(
        title=f"CASSLE-{title}, {arch}, ImageNet-100, 224 px, 500 epochs, batch 256",
        config=config,
        data="DIR",
        hardware=f"a GPU with more than {gib} GiB (estimated)",
        time=f"{hours:g} hours or more (estimated)",
        notes=f"{_FOLDER} {notes}".strip(),
    )
    return cassle, cassle.baseline()


RECIPES: tuple[Recipe, ...] = (
    *_pair("SimCLR", SimCLRConfig(), _SGD, gib=22, hours=8.5),
    *_pair(
        "MoCo v2", MoCoV2Config(), OptimConfig(epochs=500, weight_decay=1e-4), gib=11, hours=5.7
    ),
    *_pair("MoCo v3", MoCoV3Config(), _ADAMW, gib=22, hours=11.5, notes=_LR),
    *_pair(
        "Barlow Twins",
        BarlowTwinsConfig(),
        OptimConfig(epochs=500, warmup_epochs=10),
        gib=24,
        hours=8.9,
        notes="Biases and normalisations learn at 0.024 of the learning rate.",
    ),
    *_pair("MoCo v3", MoCoV3Config(), _ADAMW, arch="vit_small", gib=17, hours=13, notes=_VIT),
    *_pair("MoCo v3", MoCoV3Config(), _ADAMW, arch="vit_base", gib=34, hours=50, notes=_VIT),
)
