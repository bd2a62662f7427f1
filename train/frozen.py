"""Freezing of parts of a backbone in training from starting weights."""

from torch.nn.modules.batchnorm import _BatchNorm

from cassle_zoo.train.config import OptimConfig
from cassle_zoo.train.methods import Method
from cassle_zoo.train.methods.teacher import EMATeacher
from cassle_zoo.train.optim import frozen_steps


class Frozen:
    """Freezes parts of a method's backbone, as `optim.freeze_epochs` and `backbone_bn` say.

    Frozen BatchNorms normalise with their running statistics; so do those of the teacher's
    backbone, to match.
    """

    def __init__(self, method: Method, config: OptimConfig, per_epoch: int) -> None:
        """Collect the parts that will be frozen at some time.

        Args:
            method: In training mode, before its optimiser is built.
            config: Says what is frozen, and when.
            per_epoch: Steps in an epoch.
        """
        self._steps = frozen_steps(per_epoch, config)
        self._always = config.backbone_bn != "train"
        backbones = [m.backbone for m in method.modules() if isinstance(m, Method | EMATeacher)]
        self._norms = [m for b in backbones for m in b.modules() if isinstance(m, _BatchNorm)]
        if config.backbone_bn == "frozen":
            for norm in self._norms:
                norm.requires_grad_(False)
        self._parameters = [p for p in method.backbone.parameters() if p.requires_grad]
        self._is_frozen = False

    def apply(self, step: int) -> bool:
        """Freeze what is frozen in a step and unfreeze the rest, whatever the state before.

        Args:
            step: Counted from 0.

        Returns:
            Whether the set of parameters with gradients has changed.
        """
        frozen = step < self._steps
        for norm in self._norms:
            norm.train(not (frozen or self._always))
        if frozen == self._is_frozen:
            return False
        for p in self._parameters:
            p.requires_grad_(not frozen)
            p.grad = None
        self._is_frozen = frozen
        return True
