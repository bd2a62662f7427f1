"""Add an augmentation of your own to omega, look at its views, and train with it.

Shows     the one class that an augmentation is: how it is drawn, applied and described. Here the
          white balance, which makes views warmer or colder. Backbones forget what augmentation
          changes, unless the projector is conditioned on it.
Needs     pip install cassle-zoo
Run       python examples/new_augmentation.py             # on the package's sample images
          python examples/new_augmentation.py photos/ --epochs 100
Look at   OUT/views.png: images, and beside each its views with the number that is in omega.
          OUT/model/README.md: the model's card names the descriptor.
More      docs/extending.md: the same from the command line, and measuring with such a model.
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

import cassle_zoo
from cassle_zoo import Augmentation, DescribedViews, register_augmentation
from cassle_zoo.augmentation.augment import AugmentConfig
from cassle_zoo.common.config import Range
from cassle_zoo.features.gallery import SAMPLES, GalleryItem, GalleryRow, contact_sheet
from cassle_zoo.features.inputs import expand_inputs
from cassle_zoo.hub.export import export_run
from cassle_zoo.train.config import DataConfig, OptimConfig, TrainConfig
from cassle_zoo.train.loop import train
from cassle_zoo.train.methods import ConditioningConfig


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
    """Draw views, train, and export."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("images", nargs="?", default=SAMPLES, type=Path, help="folder of images")
    parser.add_argument("-o", "--out", default="white_balance", type=Path, help="folder to write")
    parser.add_argument("--epochs", default=3, type=int)
    parser.add_argument("--batch-size", default=28, type=int)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    augment = AugmentConfig(size=64, extra=(WhiteBalance(p=0.8),))
    draw_views(args.images, augment, args.out / "views.png")
    print(f"look at {args.out / 'views.png'}")
    config = TrainConfig(
        arch="resnet18",
        augment=augment,
        conditioning=ConditioningConfig(descriptors=("blur", "color", "crop", "white_balance")),
        data=DataConfig(root=str(args.images), workers=0),
        optim=OptimConfig(epochs=args.epochs, batch_size=args.batch_size),
    )
    train(config, args.out / "run")
    model = export_run(args.out / "run", args.out / "model", overwrite=True)
    projector = cassle_zoo.create_projector(f"local-dir:{model}", pretrained=True)
    print(f"{model}: omega is {projector.layout.slices()}")


def draw_views(images: Path, config: AugmentConfig, path: Path) -> None:
    """Write a sheet of six images and four views of each, without crop and blur."""
    plain = replace(config, crop_scale=(1, 1), blur_p=0, jitter_p=0, grayscale_p=0, flip_p=0)
    plain = replace(plain, mean=(0.0,), std=(1.0,))
    views = DescribedViews(config=plain, descriptors=("white_balance",), views=4)
    torch.manual_seed(0)
    rows = []
    inputs, _ = expand_inputs(images)
    for i in range(0, len(inputs), -(-len(inputs) // 6)):
        image = inputs[i].image()
        drawn, omegas = views(image)
        found = [
            GalleryItem(image=to_pil_image(view), cosine=omega.item(), label="warmth")
            for view, omega in zip(drawn, omegas, strict=True)
        ]
        rows.append(GalleryRow(query=GalleryItem(image=image, label="image"), found=found))
    contact_sheet("White balance", rows).save(path)


if __name__ == "__main__":
    main()
