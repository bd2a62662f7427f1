"""The paper's own protocols (section 4 and appendix). Nobody has run them with this code yet.

Memory and time are estimates for bf16. On a CPU, with small batches, it was counted which tensors
autograd keeps and how many operations a step has; the time is that of the whole run's operations
on a GPU that does 100 TFLOP/s all the time and never waits for images. `--dry-run` measures both.
"""

import dataclasses

from cassle_zoo.augmentation.augment import AugmentConfig
from cassle_zoo.train.config import DataConfig, OptimConfig, TrainConfig
from cassle_zoo.train.methods import MethodConfig
from cassle_zoo.train.methods.barlow_twins import BarlowTwinsConfig
from cassle_zoo.train.methods.mocov2 import MoCoV2Config
from cassle_zoo.train.methods.mocov3 import MoCoV3Config
from cassle_zoo.train.recipes.baseline import without_conditioning


def resnet50_cassle_simclr_in100() -> TrainConfig:
    """CASSLE-SimCLR, resnet50, ImageNet-100, 224 px, 500 epochs, batch 256.

    `--data` is a folder with a sub-folder `train` of the 100 classes' images.
    Command: `cassle-zoo train resnet50_cassle_simclr.in100 --data DIR --out RUN`
    Hardware: a GPU with more than 22 GiB. Time: 8.5 hours or more (estimates, see above).
    Not run.
    """
    return TrainConfig(
        name="resnet50_cassle_simclr.in100",
        arch="resnet50",
        optim=OptimConfig(epochs=500),
        data=DataConfig(workers=8),
    )


def resnet50_simclr_in100() -> TrainConfig:
    """SimCLR without conditioning, else as `resnet50_cassle_simclr_in100`.

    Command: `cassle-zoo train resnet50_simclr.in100 --data DIR --out RUN`
    Hardware and time: the same. Not run.
    """
    return without_conditioning(resnet50_cassle_simclr_in100(), "resnet50_simclr.in100")


def resnet50_cassle_mocov2_in100() -> TrainConfig:
    """CASSLE-MoCo v2, resnet50, ImageNet-100, 224 px, 500 epochs, batch 256.

    Command: `cassle-zoo train resnet50_cassle_mocov2.in100 --data DIR --out RUN`
    Hardware: a GPU with more than 11 GiB. Time: 5.7 hours or more (estimates, see above).
    Not run.
    """
    return _in100("resnet50", MoCoV2Config(), OptimConfig(epochs=500, weight_decay=1e-4))


def resnet50_mocov2_in100() -> TrainConfig:
    """MoCo v2 without conditioning, else as `resnet50_cassle_mocov2_in100`.

    Command: `cassle-zoo train resnet50_mocov2.in100 --data DIR --out RUN`
    Hardware and time: the same. Not run.
    """
    return without_conditioning(resnet50_cassle_mocov2_in100(), "resnet50_mocov2.in100")


def resnet50_cassle_mocov3_in100() -> TrainConfig:
    """CASSLE-MoCo v3, resnet50, ImageNet-100, 224 px, 500 epochs, batch 256.

    The learning rate and the weight decay are those of MoCo v3 (arXiv 2104.02057, appendix).
    Command: `cassle-zoo train resnet50_cassle_mocov3.in100 --data DIR --out RUN`
    Hardware: a GPU with more than 22 GiB. Time: 11.5 hours or more (estimates, see above).
    Not run.
    """
    return _in100("resnet50", MoCoV3Config(), _ADAMW)


def resnet50_mocov3_in100() -> TrainConfig:
    """MoCo v3 without conditioning, else as `resnet50_cassle_mocov3_in100`.

    Command: `cassle-zoo train resnet50_mocov3.in100 --data DIR --out RUN`
    Hardware and time: the same. Not run.
    """
    return without_conditioning(resnet50_cassle_mocov3_in100(), "resnet50_mocov3.in100")


def resnet50_cassle_barlow_twins_in100() -> TrainConfig:
    """CASSLE-Barlow Twins, resnet50, ImageNet-100, 224 px, 500 epochs, batch 256.

    Biases and normalisations learn at 0.024 of the learning rate.
    Command: `cassle-zoo train resnet50_cassle_barlow_twins.in100 --data DIR --out RUN`
    Hardware: a GPU with more than 24 GiB. Time: 8.9 hours or more (estimates, see above).
    Not run.
    """
    return _in100("resnet50", BarlowTwinsConfig(), OptimConfig(epochs=500, warmup_epochs=10))


def resnet50_barlow_twins_in100() -> TrainConfig:
    """Barlow Twins without conditioning, else as `resnet50_cassle_barlow_twins_in100`.

    Command: `cassle-zoo train resnet50_barlow_twins.in100 --data DIR --out RUN`
    Hardware and time: the same. Not run.
    """
    return without_conditioning(resnet50_cassle_barlow_twins_in100(), "resnet50_barlow_twins.in100")


def vit_small_cassle_mocov3_in100() -> TrainConfig:
    """CASSLE-MoCo v3, vit_small, ImageNet-100, 224 px, 500 epochs, batch 256.

    The learning rate and the weight decay are those of MoCo v3 (arXiv 2104.02057, appendix).
    12 heads, fixed sin-cos positions, frozen patch projection.
    Command: `cassle-zoo train vit_small_cassle_mocov3.in100 --data DIR --out RUN`
    Hardware: a GPU with more than 17 GiB. Time: 13 hours or more (estimates, see above).
    Not run.
    """
    return _in100("vit_small", MoCoV3Config(), _ADAMW)


def vit_small_mocov3_in100() -> TrainConfig:
    """MoCo v3 without conditioning, else as `vit_small_cassle_mocov3_in100`.

    Command: `cassle-zoo train vit_small_mocov3.in100 --data DIR --out RUN`
    Hardware and time: the same. Not run.
    """
    return without_conditioning(vit_small_cassle_mocov3_in100(), "vit_small_mocov3.in100")


def vit_base_cassle_mocov3_in100() -> TrainConfig:
    """CASSLE-MoCo v3, vit_base, ImageNet-100, 224 px, 500 epochs, batch 256.

    The learning rate and the weight decay are those of MoCo v3 (arXiv 2104.02057, appendix).
    12 heads, fixed sin-cos positions, frozen patch projection.
    Command: `cassle-zoo train vit_base_cassle_mocov3.in100 --data DIR --out RUN`
    Hardware: a GPU with more than 34 GiB. Time: 50 hours or more (estimates, see above).
    Not run.
    """
    return _in100("vit_base", MoCoV3Config(), _ADAMW)


def vit_base_mocov3_in100() -> TrainConfig:
    """MoCo v3 without conditioning, else as `vit_base_cassle_mocov3_in100`.

    Command: `cassle-zoo train vit_base_mocov3.in100 --data DIR --out RUN`
    Hardware and time: the same. Not run.
    """
    return without_conditioning(vit_base_cassle_mocov3_in100(), "vit_base_mocov3.in100")


def resnet18_cassle_simclr_stl10() -> TrainConfig:
    """CASSLE-SimCLR, resnet18, the unlabelled images of STL-10, 96 px, 200 epochs, batch 256.

    `--data` is the folder of torchvision's STL-10.
    Command: `cassle-zoo train resnet18_cassle_simclr.stl10 --data DIR --out RUN`
    Hardware: a GPU with more than 2 GiB. Time: 15 minutes or more (estimates, see above).
    Not run.
    """
    return TrainConfig(
        name="resnet18_cassle_simclr.stl10",
        arch="resnet18",
        augment=AugmentConfig(size=96, mean=(0.43, 0.42, 0.39), std=(0.27, 0.26, 0.27)),
        data=DataConfig(dataset="torch/stl10", split="unlabeled", workers=8),
        optim=OptimConfig(epochs=200),
    )


def resnet18_simclr_stl10() -> TrainConfig:
    """SimCLR without conditioning, else as `resnet18_cassle_simclr_stl10`.

    Command: `cassle-zoo train resnet18_simclr.stl10 --data DIR --out RUN`
    Hardware and time: the same. Not run.
    """
    return without_conditioning(resnet18_cassle_simclr_stl10(), "resnet18_simclr.stl10")


_ADAMW = OptimConfig(
    epochs=500, optimizer="adamw", base_lr=1.5e-4, weight_decay=0.1, warmup_epochs=40
)


def _in100(arch: str, method: MethodConfig, optim: OptimConfig) -> TrainConfig:
    """Return SimCLR's settings with another network, method and optimiser."""
    return dataclasses.replace(
        resnet50_cassle_simclr_in100(),
        name=f"{arch}_cassle_{method.name}.in100",
        arch=arch,
        method=method,
        optim=optim,
    )


RECIPES = {
    ".".join(recipe.__name__.rsplit("_", 1)): recipe
    for recipe in (
        resnet50_cassle_simclr_in100,
        resnet50_simclr_in100,
        resnet50_cassle_mocov2_in100,
        resnet50_mocov2_in100,
        resnet50_cassle_mocov3_in100,
        resnet50_mocov3_in100,
        resnet50_cassle_barlow_twins_in100,
        resnet50_barlow_twins_in100,
        vit_small_cassle_mocov3_in100,
        vit_small_mocov3_in100,
        vit_base_cassle_mocov3_in100,
        vit_base_mocov3_in100,
        resnet18_cassle_simclr_stl10,
        resnet18_simclr_stl10,
    )
}
"""Every recipe of this module by the full name of the model it produces."""
