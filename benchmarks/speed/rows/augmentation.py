"""Jitter, grayscale, blur, flip and normalisation of a batch, beside kornia."""

import torch

from benchmarks.speed.timing import Check, Row, speeds, take_turns, times_faster
from cassle_zoo.augmentation.augment import AugmentConfig, apply_params, sample_params

BATCH, SIZE = 64, 96


def measure(rounds: int) -> Row:
    """Measure batches of uint8 crops, each with new random parameters."""
    from kornia import augmentation as kornia

    config = AugmentConfig(size=SIZE)
    generator = torch.Generator().manual_seed(0)
    crops = torch.randint(0, 256, (BATCH, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    source = torch.tensor([[375, 500]]).expand(BATCH, 2)
    mean, std = torch.tensor(config.mean), torch.tensor(config.std)
    peer = kornia.AugmentationSequential(
        kornia.RandomHorizontalFlip(p=0.5),
        kornia.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
        kornia.RandomGrayscale(p=0.2),
        kornia.RandomGaussianBlur((config.kernel, config.kernel), (0.1, 2.0), p=0.5),
        kornia.Normalize(mean=mean, std=std),
    )

    def ours() -> None:
        apply_params(crops, sample_params(config, source, generator=generator), config)

    def theirs() -> None:
        peer(crops / 255)

    # Many rounds, since the work depends on how many images each operation is applied to.
    seconds = take_turns({"cassle-zoo": ours, "kornia": theirs}, 10 * rounds, warm=3)
    ratio = times_faster(seconds, "cassle-zoo", "kornia")
    return Row(
        title="jitter, grayscale, blur, flip, normalise on 64x3x96x96",
        amounts=speeds(seconds, BATCH),
        unit="views/s",
        checks=[Check("cassle-zoo / kornia", ratio, at_least=2.5)],
        seconds=seconds,
    )
