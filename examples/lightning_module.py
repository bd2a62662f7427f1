"""CASSLE as a Lightning module, and its checkpoint as a model folder.

Shows     what changes in a SimCLR module: the views bring their omegas, and the projection head
          takes them; `hub convert` makes a model folder of what Lightning wrote.
Needs     pip install "cassle-zoo[lightning]"
Run       python examples/lightning_module.py             # on the package's sample images
          python examples/lightning_module.py photos/ --arch resnet50 --size 224 --epochs 100
          On several GPUs a process compares its own images only; `cassle-zoo train` gathers all.
Look at   OUT/metrics.csv (loss by epoch), and OUT/model, which timm and cassle-zoo load.
"""

import argparse
import csv
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import timm
import torch
import torch.nn.functional as F
from pytorch_lightning.loggers import CSVLogger
from timm.data import ImageDataset
from torch import Tensor
from torch.utils.data import DataLoader

import cassle_zoo
from cassle_zoo import ConditionedProjector, DescribedViews, ProjectorConfig
from cassle_zoo.augmentation.augment import AugmentConfig
from cassle_zoo.features.gallery import SAMPLES
from cassle_zoo.hub.convert import convert_checkpoint


class CassleSimCLR(pl.LightningModule):
    """SimCLR whose projector is conditioned on the augmentation."""

    def __init__(self, arch: str, image_size: int, lr: float = 0.06) -> None:
        """Build the networks; `hub convert` finds `image_size` in the checkpoint."""
        super().__init__()
        self.save_hyperparameters()
        self.lr = lr
        self.backbone = timm.create_model(arch, num_classes=0)
        # Of some families, such as MobileNetV3, timm's `num_features` is another number.
        width = self.backbone.eval()(torch.zeros(1, 3, image_size, image_size)).shape[1]
        self.backbone.train()  # Lightning trains modules in the mode that it finds them in
        self.projector = ConditionedProjector(ProjectorConfig(in_features=width))

    def training_step(self, batch: Any, _: int) -> Tensor:
        """Return the loss of a batch of pairs of views."""
        (views, omegas), _ = batch
        z1, z2 = (
            F.normalize(self.projector(self.backbone(view), omega), dim=1)
            for view, omega in zip(views, omegas, strict=True)
        )
        loss = F.cross_entropy(z1 @ z2.T / 0.2, torch.arange(len(z1), device=self.device))
        self.log("loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(z1))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9, weight_decay=5e-4)


def main() -> None:
    """Train, convert, and load the result."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("images", nargs="?", default=SAMPLES, type=Path, help="folder of images")
    parser.add_argument("-o", "--out", default="lightning", type=Path, help="folder to write")
    parser.add_argument("--arch", default="resnet18", help="a ResNet or ViT of timm")
    parser.add_argument("--size", default=64, type=int, help="of the views in pixels")
    parser.add_argument("--epochs", default=5, type=int)
    parser.add_argument("--batch-size", default=28, type=int)
    args = parser.parse_args()
    pl.seed_everything(0)

    dataset = ImageDataset(
        args.images, transform=DescribedViews(config=AugmentConfig(size=args.size))
    )
    loader = DataLoader(dataset, batch_size=args.batch_size, shuffle=True, drop_last=True)
    if not len(loader):
        parser.error(f"{len(dataset)} images are no batch; use --batch-size {len(dataset)} or less")
    trainer = pl.Trainer(
        max_epochs=args.epochs,
        logger=CSVLogger(args.out, name="", version=""),
        log_every_n_steps=1,
        default_root_dir=args.out,
    )
    trainer.fit(CassleSimCLR(args.arch, args.size), loader)
    checkpoint = args.out / "last.ckpt"
    trainer.save_checkpoint(checkpoint)

    convert_checkpoint(
        checkpoint, args.out / "model", name=f"{args.arch}_cassle_simclr.mine", overwrite=True
    )
    with (args.out / "metrics.csv").open(newline="") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file) if row["loss"]]
    print("loss by epoch:", " ".join(f"{loss:.3f}" for loss in losses))
    model = f"local-dir:{args.out / 'model'}"
    found = cassle_zoo.extract_features(model, args.images)
    print(f"{model}: features {tuple(found.features.shape)}")


if __name__ == "__main__":
    main()
