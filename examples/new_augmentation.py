"""Add an augmentation of your own to omega, look at its views, and train with it.

Shows     the one class that an augmentation is: how it is drawn, applied and described. Here the
          white balance, which makes views warmer or colder. Backbones forget what augmentation
          changes, unless the projector is conditioned on it.
Needs     pip install cassle-zoo
Run       python examples/new_augmentation.py             # on the package's sample images
          python examples/new_augmentation.py photos/ --epochs 100
Look at   OUT/views.html: images, their views, and the omega of each, with its warmth.
          OUT/model/README.md: the model's card names the descriptor.
More      docs/extending.md: the same from the command line, and measuring with such a model.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import torch
from torch import Tensor

import cassle_zoo
from cassle_zoo import Augmentation, register_augmentation
from cassle_zoo.augmentation.augment import AugmentConfig
from cassle_zoo.common.config import Range
from cassle_zoo.features.gallery import SAMPLES
from cassle_zoo.hub.export import export_run
from cassle_zoo.train.config import DataConfig, OptimConfig, TrainConfig
from cassle_zoo.train.loop import train
from cassle_zoo.train.methods import ConditioningConfig
from cassle_zoo.train.preview import write_preview


@register_augmentation
@dataclass(frozen=True, kw_only=True)
class WhiteBalance(Augmentation):
    """Make a view warmer (more red, less blue) or colder.

    Attributes:
        stops: The warmth is drawn from [-stops, stops]; at 1, red is doubled and blue is halved.
    """

    name: ClassVar[str] = "white_balance"
    columns: ClassVar[tuple[str, ...]] = ("warmth in stops; negative is colder, 0 unchanged",)
    parameters: ClassVar[int] = 1
    after: ClassVar[str] = "jitter"
    stops: Annotated[float, Range(0, 4)] = 0.5

    def sample(self, uniforms: Tensor) -> Tensor:
        """Map (B, 1) uniforms in [0, 1) to the warmth of B views."""
        return (2 * uniforms - 1) * self.stops

    def apply(self, images: Tensor, parameters: Tensor) -> Tensor:
        """Change images (B, 3, H, W) in [0, 1] by their warmth (B, 1)."""
        gains = 2 ** torch.cat([parameters, 0 * parameters, -parameters], dim=1)
        return (images * gains[:, :, None, None]).clamp(0, 1)

    def describe(self, parameters: Tensor) -> Tensor:
        """Return what stands in omega: the warmth itself."""
        return parameters


def main() -> None:
    """Show views, train, and export."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("images", nargs="?", default=SAMPLES, type=Path, help="folder of images")
    parser.add_argument("-o", "--out", default="white_balance", type=Path, help="folder to write")
    parser.add_argument("--epochs", default=3, type=int)
    parser.add_argument("--batch-size", default=28, type=int)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    config = TrainConfig(
        arch="resnet18",
        augment=AugmentConfig(size=64, extra=(WhiteBalance(p=0.8),)),
        conditioning=ConditioningConfig(descriptors=("blur", "color", "crop", "white_balance")),
        data=DataConfig(root=str(args.images), workers=0),
        optim=OptimConfig(epochs=args.epochs, batch_size=args.batch_size),
    )
    write_preview(config, args.out / "views.html")
    print(f"look at {args.out / 'views.html'}")
    train(config, args.out / "run")  # an interrupted run is continued
    model = export_run(args.out / "run", args.out / "model", overwrite=True)
    projector = cassle_zoo.create_projector(f"local-dir:{model}", pretrained=True)
    print(f"{model}: omega is {projector.layout.slices()}")


if __name__ == "__main__":
    main()
