"""Train with CASSLE in a plain PyTorch loop, and see that the projector makes use of omega.

Shows     the three lines by which such a loop differs from one without CASSLE; how backbone and
          projector are saved and loaded again.
Needs     pip install cassle-zoo
Run       python examples/own_loop.py                     # on the package's sample images
          python examples/own_loop.py photos/ --epochs 50 --from-scratch
Look at   the last lines: how often a view finds the other view of its image by their projections,
          given the right omegas, and given those of other views. OUT/backbone is a model of timm.
"""

import argparse
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.data import ImageDataset
from torch import Tensor, nn
from torch.utils.data import DataLoader

import cassle_zoo
from cassle_zoo import ConditionedProjector, DescribedViews, ProjectorConfig
from cassle_zoo.augmentation.augment import AugmentConfig
from cassle_zoo.features.gallery import SAMPLES

NAME = "resnet18_cassle_simclr"


def main() -> None:
    """Train, test and save."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("images", nargs="?", default=SAMPLES, type=Path, help="folder of images")
    parser.add_argument("-o", "--out", default="own_loop", type=Path, help="folder to write")
    parser.add_argument("--epochs", default=5, type=int)
    parser.add_argument("--batch-size", default=28, type=int)
    parser.add_argument("--from-scratch", action="store_true", help="start from random weights")
    args = parser.parse_args()
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"

    views = DescribedViews(config=AugmentConfig(size=64, mean=(0.5,), std=(0.5,)))
    dataset = ImageDataset(args.images, transform=views)
    loader = DataLoader(dataset, batch_size=args.batch_size, shuffle=True, drop_last=True)
    if not len(loader):
        parser.error(f"{len(dataset)} images are no batch; use --batch-size {len(dataset)} or less")

    backbone: Any
    if args.from_scratch:
        backbone = timm.create_model("resnet18", num_classes=0)
        projector = ConditionedProjector(ProjectorConfig(in_features=backbone.num_features))
    else:
        backbone = cassle_zoo.create_model(NAME, pretrained=True)
        projector = cassle_zoo.create_projector(NAME, pretrained=True)
    backbone, projector = backbone.to(device), projector.to(device)

    parameters = [*backbone.parameters(), *projector.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=5e-4)
    for epoch in range(args.epochs):
        for ((view1, view2), (omega1, omega2)), _ in loader:
            z1 = projector(backbone(view1.to(device)), omega1.to(device))  # with omega ...
            z2 = projector(backbone(view2.to(device)), omega2.to(device))  # ... instead of without
            loss = F.cross_entropy(cosines(z1, z2) / 0.2, torch.arange(len(z1), device=device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}", flush=True)

    right, others = matches(backbone.eval(), projector.eval(), loader, device)
    print(f"a view finds its partner: {right:.0%} with its omega, {others:.0%} with another's")
    timm.models.save_for_hf(backbone.cpu(), args.out / "backbone", safe_serialization=True)
    projector.cpu().save_pretrained(args.out / "projector")
    timm.create_model(f"local-dir:{args.out / 'backbone'}", pretrained=True)
    ConditionedProjector.from_pretrained(args.out / "projector")
    print(f"saved, and loaded again: {args.out}")


def cosines(left: Tensor, right: Tensor) -> Tensor:
    """Return the cosine similarities (B, B) of two lists of vectors (B, D)."""
    return F.normalize(left, dim=1) @ F.normalize(right, dim=1).T


@torch.no_grad()
def matches(
    backbone: nn.Module, projector: nn.Module, loader: DataLoader, device: str
) -> tuple[float, float]:
    """Return how often partners are nearest within a batch, with right and with other omegas."""
    found: list[Tensor] = []
    for ((view1, view2), (omega1, omega2)), _ in loader:
        h1, h2 = backbone(view1.to(device)), backbone(view2.to(device))
        for shift in (0, 1):  # 1: every view gets the omega of the next one
            z1 = projector(h1, omega1.roll(shift, 0).to(device))
            z2 = projector(h2, omega2.roll(shift, 0).to(device))
            found.append(cosines(z1, z2).argmax(1).cpu() == torch.arange(len(z1)))
    right, others = (torch.cat(found[shift::2]).float().mean().item() for shift in (0, 1))
    return right, others


if __name__ == "__main__":
    main()
