"""The study's design with a small network."""

import dataclasses

from benchmarks.study.design import Design
from benchmarks.study.runner import Machine
from cassle_zoo.train.config import AUTO_NAME
from cassle_zoo.train.recipes import get_recipe

MACHINE = Machine(device="cpu", threads=1, data_workers=0)


def small_design() -> Design:
    recipe = get_recipe("resnet18_cassle_simclr.emoji64")
    base = dataclasses.replace(
        recipe,
        name=AUTO_NAME,
        arch="test_resnet",
        augment=dataclasses.replace(recipe.augment, size=32),
        optim=dataclasses.replace(recipe.optim, batch_size=64),
        run=dataclasses.replace(recipe.run, monitor_every=0, checkpoint_every=1),
    )
    return Design(base=base, epochs=1, grid_epochs=1, ablation_epochs=2, seeds=2)
