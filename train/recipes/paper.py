"""The paper's own protocols (section 4 and appendix). Nobody has run them with this code yet."""

from cassle_zoo.augment import AugmentConfig
from cassle_zoo.train.config import DataConfig, OptimConfig, TrainConfig
from cassle_zoo.train.recipes.baseline import without_conditioning


def resnet50_cassle_simclr_in100() -> TrainConfig:
    """CASSLE-SimCLR, resnet50, ImageNet-100, 224 px, 500 epochs, batch 256.

    `--data` is a folder with a sub-folder `train` of the 100 classes' pictures.
    Command: `cassle-zoo train resnet50_cassle_simclr.in100 --data DIR --out RUN`
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
    Not run.
    """
    return without_conditioning(resnet50_cassle_simclr_in100(), "resnet50_simclr.in100")


def resnet18_cassle_simclr_stl10() -> TrainConfig:
    """CASSLE-SimCLR, resnet18, the unlabelled pictures of STL-10, 96 px, 200 epochs, batch 256.

    `--data` is the folder of torchvision's STL-10.
    Command: `cassle-zoo train resnet18_cassle_simclr.stl10 --data DIR --out RUN`
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
    Not run.
    """
    return without_conditioning(resnet18_cassle_simclr_stl10(), "resnet18_simclr.stl10")
