"""Recipes on the unlabelled images of STL-10. Not run yet; estimated as those on ImageNet-100."""

from cassle_zoo.augmentation.augment import AugmentConfig
from cassle_zoo.common.workers import usable_workers
from cassle_zoo.specs import DATASETS
from cassle_zoo.train.config import DataConfig, OptimConfig, TrainConfig
from cassle_zoo.train.recipes.recipe import Recipe

_DATA = DATASETS["stl10"]
_SIMCLR = Recipe(
    title="CASSLE-SimCLR, resnet18, unlabelled images of STL-10, 96 px, 200 epochs, batch 256",
    config=TrainConfig(
        name="resnet18_cassle_simclr.stl10",
        arch="resnet18",
        augment=AugmentConfig(size=96, mean=_DATA.mean, std=_DATA.std),
        data=DataConfig(dataset="torch/stl10", split="unlabeled", workers=usable_workers(8)),
        optim=OptimConfig(epochs=200),
    ),
    data="DIR",
    hardware="a GPU with more than 2 GiB (estimated)",
    time="15 minutes or more (estimated)",
    notes="--data is the folder of torchvision's STL-10.",
)

RECIPES = (_SIMCLR, _SIMCLR.baseline())
