"""SSL methods. A method is one module here and one line in METHODS."""

from cassle_zoo.train.methods.barlow_twins import BarlowTwinsConfig
from cassle_zoo.train.methods.base import ConditioningConfig, Method, MethodConfig, Views
from cassle_zoo.train.methods.byol import BYOLConfig
from cassle_zoo.train.methods.dino import DINOConfig
from cassle_zoo.train.methods.mocov2 import MoCoV2Config
from cassle_zoo.train.methods.mocov3 import MoCoV3Config
from cassle_zoo.train.methods.simclr import SimCLRConfig
from cassle_zoo.train.methods.simsiam import SimSiamConfig
from cassle_zoo.train.methods.vicreg import VICRegConfig

METHODS: dict[str, type[MethodConfig]] = {
    "simclr": SimCLRConfig,
    "mocov2": MoCoV2Config,
    "mocov3": MoCoV3Config,
    "barlow_twins": BarlowTwinsConfig,
    "byol": BYOLConfig,
    "simsiam": SimSiamConfig,
    "vicreg": VICRegConfig,
    "dino": DINOConfig,
}

__all__ = ["METHODS", "ConditioningConfig", "Method", "MethodConfig", "Views"]
