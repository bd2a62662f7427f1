"""A small dataset and a small network with stages and a conditioned projector."""

import pytest
import torch
from builders import make_image
from torch import nn
from torch.utils.data import Dataset
from torchvision import transforms

from cassle_zoo.eval.base import Compute, EvalContext, EvalData, Task
from cassle_zoo.eval.sources import FeatureSource
from cassle_zoo.projector import ConditionedProjector, ProjectorConfig


class TinyNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU())
        self.layer1 = nn.Conv2d(6, 12, 3, stride=2, bias=False)
        self.feature_info = [
            {"module": "stem", "num_chs": 6},
            {"module": "layer1", "num_chs": 12},
        ]

    def forward(self, images):
        return self.layer1(self.stem(images)).mean((2, 3))


class Images(Dataset):
    def __len__(self):
        return 100

    def __getitem__(self, index):
        return make_image(int(index), (24, 24)), 0


@pytest.fixture(scope="session")
def data():
    """A hundred images, of which the last twenty are in the test part."""
    index = torch.arange(100)
    task = Task(
        name="any",
        kind="classification",
        targets=index % 2,
        splits={"train": index[:60], "val": index[60:80], "test": index[80:]},
        classes=("even", "odd"),
    )
    return EvalData(name="small", sha256="0" * 64, images=Images(), tasks=(task,))


@pytest.fixture
def make_context(data, tmp_path):
    """Builds a context; by default its projector is conditioned on everything but flips."""

    def make(conditioning="cat", data=data, **compute):
        torch.manual_seed(0)
        config = {"in_features": 12, "out_features": 8}
        projector = None
        if conditioning is not None:
            projector = ConditionedProjector(ProjectorConfig(conditioning=conditioning, **config))
        transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(0.5, 0.5)])
        source = FeatureSource(
            name="tiny",
            sha256="tiny",
            model=TinyNet(),
            transform=transform,
            projector=None if projector is None else lambda: projector,
            cacheable=True,
        )
        return EvalContext(source, data, Compute(device="cpu", cache=tmp_path, **compute))

    return make
