"""Recipes that adapt starting weights to images of one's own: `ARCH_cassle_METHOD.adapt`.

They are those of `recipes.own` with a backbone that changes slowly, because an SSL objective on few
images at the usual rates destroys what good weights know.

- The backbone waits for an epoch, until the new projector's gradients are of use.
- It learns at a tenth of the projector's rate, and its first layers, which are the most general,
  still more slowly.
- Its BatchNorms keep the statistics, weights and biases of the starting weights: those of a few
  augmented images would differ.
- 20 epochs: most of what adaptation gains comes early, and what it forgets grows with time.
- DINO's teacher warms up for 6 epochs: with the usual 30 it would never reach its temperature.
"""

import dataclasses

from cassle_zoo.train.methods.dino import DINOConfig
from cassle_zoo.train.recipes.own import own_recipe
from cassle_zoo.train.recipes.recipe import Recipe

TAG = ".adapt"


def adapt_recipe(name: str) -> Recipe:
    """Return the recipe `ARCH_cassle_METHOD.adapt` or `ARCH_METHOD.adapt`.

    Raises:
        UnknownNameError: As :func:`cassle_zoo.train.recipes.own.own_recipe`.
    """
    own = own_recipe(name.removesuffix(TAG))
    optim = dataclasses.replace(
        own.config.optim,
        epochs=20,
        warmup_epochs=1,
        freeze_epochs=1,
        backbone_lr_scale=0.1,
        layer_decay=0.9,
        backbone_bn="frozen",
    )
    method = own.config.method
    if isinstance(method, DINOConfig):
        method = dataclasses.replace(method, warmup_teacher_epochs=6)
    title, _, _ = own.title.partition(",")
    return dataclasses.replace(
        own,
        title=f"{title} from the weights that --init names, on your own images",
        config=dataclasses.replace(own.config, method=method, optim=optim),
        called=name,
        notes="--data is a folder or tar of images; no labels are needed. The size and "
        "normalisation of the views are those of the starting weights unless said "
        "(docs/adapt.md).",
    )
