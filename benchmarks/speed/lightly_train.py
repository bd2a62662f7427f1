"""lightly-train, a peer: its features of a folder, and its SimCLR, in this process on the CPU.

Its telemetry and logs are off, and what it prints is discarded.
"""

import contextlib
import io
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.speed.workloads import photo

_ONE_PROCESS: dict[str, Any] = {"num_workers": 0, "accelerator": "cpu"}
_TINY = 32  # px


class Embedder:
    """Its `embed`, which reads only its own checkpoints: here one that it wrote after a step.

    The step changes the weights a little, but not the time they take.
    """

    def __init__(self, model: nn.Module, folder: Path) -> None:
        """Make the checkpoint.

        Args:
            model: A model of timm, whose weights change.
            folder: An empty folder for the checkpoint and the features.
        """
        self._out = folder / "features.pt"
        self._single = folder / "single"
        self._single.mkdir(parents=True)
        tiny = folder / "tiny"
        tiny.mkdir()
        for seed in range(2):
            photo(seed, _TINY, _TINY).save(tiny / f"{seed}.jpg")
        pretrain(model, tiny, folder / "run", batch_size=2, size=_TINY, steps=1)
        self._checkpoint = folder / "run" / "checkpoints" / "last.ckpt"

    def __call__(self, root: Path, size: int, batch_size: int, precision: Any) -> dict[str, Tensor]:
        """Return the features of the images below a folder, by their path in it.

        Args:
            root: The folder.
            size: Height and width that images are resized to.
            batch_size: Images at a time.
            precision: `32-true` or `bf16-mixed`.
        """
        import lightly_train

        with _quiet():
            lightly_train.embed(
                out=self._out,
                data=root,
                checkpoint=self._checkpoint,
                image_size=size,
                batch_size=batch_size,
                precision=precision,
                overwrite=True,
                **_ONE_PROCESS,
            )
        found = torch.load(self._out, weights_only=True)
        return dict(zip(found["filenames"], found["embeddings"], strict=True))

    def seconds(self, root: Path, count: int, *settings: Any) -> float:
        """Return the seconds for the images of a folder, without start-up.

        Start-up (reading the checkpoint, building the trainer) is what a call for a single image
        takes beyond that image's part; it is left out because our own model is already loaded.

        Args:
            root: The folder.
            count: Number of its images, at least 2.
            settings: As for `__call__`.
        """
        if not any(self._single.iterdir()):
            image = min(root.rglob("*.jpg"))
            os.link(image, self._single / image.name)
            self(self._single, *settings)  # imports and allocations of the first call
        times = []
        for folder in (self._single, root):
            start = time.perf_counter()
            self(folder, *settings)
            times.append(time.perf_counter() - start)
        return (times[1] - times[0]) * count / (count - 1)


def pretrain(
    model: nn.Module, data: Path, out: Path, *, batch_size: int, size: int, steps: int
) -> None:
    """Train a model, in place, with SimCLR and augmentations like ours.

    Args:
        model: A model of timm.
        data: Folder of images.
        out: Folder for what it writes.
        batch_size: Images of a step.
        size: Of the views, in pixels.
        steps: Steps to train.
    """
    import lightly_train

    jitter = {"prob": 0.8, "strength": 1.0, "brightness": 0.4, "contrast": 0.4}
    with _quiet():
        lightly_train.pretrain(
            out=out,
            data=data,
            model=model,
            method="simclr",
            method_args={"temperature": 0.2, "hidden_dim": model.num_features},
            epochs=steps,  # more than enough; the step count ends it
            batch_size=batch_size,
            devices=1,
            precision="32-true",
            transform_args={
                "image_size": (size, size),
                "random_resize": {"min_scale": 0.2},
                "color_jitter": {**jitter, "saturation": 0.4, "hue": 0.1},
            },
            loggers={"tensorboard": None},
            trainer_args={"max_steps": steps},
            **_ONE_PROCESS,
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    os.environ["LIGHTLY_TRAIN_EVENTS_DISABLED"] = "1"
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    nowhere = io.StringIO()
    try:
        with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            yield
    finally:
        logging.disable(before)
