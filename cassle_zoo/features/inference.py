"""Inference that leaves the model as it was: its device, its mode, and its features."""

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from cassle_zoo.common.devices import autocast_dtype, pick_device
from cassle_zoo.common.errors import CassleZooError, ConfigError
from cassle_zoo.common.faults import Advice, is_out_of_memory
from cassle_zoo.features.wrappers import Unwrapped, unwrap, watched

ADVICE = Advice(
    output="-o",
    workers="workers (--workers, num_workers)",
    memory="Pass a smaller --batch-size (batch_size), fewer --workers (num_workers), or "
    "--precision bf16.",
    storage="what was written before is intact. Make room, then repeat the command; with a folder "
    "as output (-o FOLDER/) it continues.",
)


@dataclass
class _Use:
    """How many blocks use something, and what to restore when the last one ends."""

    count: int
    before: Any


# Threads may share a model: the first block changes it, and the last one restores it.
_lock = threading.Lock()
_evaluated: WeakKeyDictionary[nn.Module, _Use] = WeakKeyDictionary()
_placed: WeakKeyDictionary[nn.Module, _Use] = WeakKeyDictionary()
_full_precision = _Use(0, None)


def choose_device(model: nn.Module, device: str | torch.device | None = None) -> torch.device:
    """Choose the device to run a model on.

    Args:
        model: The model.
        device: The requested device.

    Returns:
        That device; by default the model's if it is not the CPU, else a GPU, else the CPU.

    Raises:
        ConfigError: There is no such device, or the model has no weights.
    """
    current = next((tensor.device for tensor in _tensors(model)), None)
    if current is not None and current.type == "meta":
        raise ConfigError(
            f"the weights of the {type(model).__name__} are on the device 'meta', so it has none; "
            "load them first (model.to_empty(device='cpu'), then load_state_dict)."
        )
    if device is None and current is not None and current.type != "cpu":
        return current
    return pick_device(device)


@contextmanager
def inference(model: nn.Module, device: torch.device, precision: str = "fp32") -> Iterator[None]:
    """Run a model on a device in evaluation mode without gradients, and restore it afterwards.

    In fp32, TensorFloat-32 is switched off, since its rounding depends on the batch size. A model
    that is spread over several devices is not moved. Several threads may use a model at once; its
    device and mode are restored when the last one is done.

    Args:
        model: The model; weights, device and the training mode of every part are restored.
        device: The device.
        precision: As in :func:`cassle_zoo.common.devices.autocast_dtype`.

    Yields:
        Nothing; run the model inside.

    Raises:
        UnknownNameError: The precision does not exist.
        ConfigError: Another thread uses the model on another device.
    """
    dtype = autocast_dtype(precision, device)
    with ExitStack() as stack:
        stack.enter_context(placed(model, device))
        stack.enter_context(_evaluation_mode(model))
        # Not inference_mode: tensors that a model caches in it break later training.
        stack.enter_context(torch.no_grad())
        # Entered even for fp32, where it shields from an autocast around the caller.
        stack.enter_context(torch.autocast(device.type, dtype, enabled=dtype is not None))
        if device.type == "cuda" and dtype is None:
            stack.enter_context(_full_fp32())
        yield


@contextmanager
def placed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Hold a model on a device, and move it back afterwards.

    Args:
        model: The model; one that is spread over several devices is not moved.
        device: The device.

    Yields:
        Nothing.

    Raises:
        ConfigError: Another thread holds the model on another device.
    """
    model = unwrap(model).network
    with _lock:
        use = _placed.get(model)
        if use is None:
            homes = {tensor.device for tensor in _tensors(model)}
            home = homes.pop() if len(homes) == 1 else None
            if home is not None:
                try:
                    model.to(device)
                except BaseException:  # memory, usually, when a part has moved already
                    model.to(home)
                    raise
            use = _placed[model] = _Use(0, (home, device))
        home, current = use.before
        if home is not None and current != device:
            raise ConfigError(
                f"the model is in use on {current}, so it cannot run on {device} at the same time; "
                "use copy.deepcopy(model) for the other device."
            )
        use.count += 1
    try:
        yield
    finally:
        with _lock:
            use.count -= 1
            if use.count == 0:
                del _placed[model]
                if home is not None:
                    model.to(home)


def embed(model: nn.Module, images: Tensor) -> Tensor:
    """Compute the features that a model passes to its classifier.

    Args:
        model: A model in evaluation mode, possibly in a wrapper. If it has timm's ``forward_head``,
            its classifier is not applied.
        images: (B, C, H, W) on the model's device.

    Returns:
        (B, D) float32 on the CPU.

    Raises:
        ConfigError: The model returns anything else.
    """
    return check_pooled(pooled_features(unwrap(model), as_input(model, images))).float().cpu()


def as_input(model: nn.Module, images: Tensor) -> Tensor:
    """Return images (B, C, H, W) in the type of a model's weights and the fastest layout."""
    parameter = next((p for p in model.parameters() if p.is_floating_point()), None)
    if parameter is not None and parameter.dtype != images.dtype:
        images = images.to(parameter.dtype)
    # Convolutions follow the input's layout, so the weights need not be touched.
    if images.device.type in ("cpu", "cuda"):
        images = images.contiguous(memory_format=torch.channels_last)
    return images


def pooled_features(found: Unwrapped, images: Tensor) -> Any:
    """Return what a model passes to its classifier, or its output if it has none.

    Raises:
        ConfigError: A module around a classifier calls it several times.

    Warns:
        UserWarning: A module around a timm model does more than pass its output on.
    """
    network: Any = found.network
    if found.network is found.model:
        if not found.has_classifier:
            return network(images)
        return network.forward_head(network.forward_features(images), pre_logits=True)
    inside = [found.model] if found.model is not None else list(found.several)
    if not inside:
        return network(images)
    with ExitStack() as stack:
        passes = [stack.enter_context(watched(model)) for model in inside]
        output = network(images)
    used = [number for number, seen in enumerate(passes) if seen.outputs or seen.classifier_inputs]
    if found.several and len(used) != 1:
        warnings.warn(
            f"{found.what} holds {len(inside)} timm models and uses {len(used)} of them; the "
            f"features are the output of {found.what}. For those of one, give it.",
            stacklevel=2,
        )
        return output
    number = used[0] if found.several else 0
    seen = passes[number]
    if len(seen.classifier_inputs) > seen.classifiers:
        raise ConfigError(
            f"{found.what} calls its model's classifier {len(seen.classifier_inputs)} times for a "
            "batch, so its input, the features, is ambiguous; give the model inside."
        )
    # As timm does for the two tokens of distilled models, whose classifiers' outputs are averaged.
    features = sum(seen.classifier_inputs) / seen.classifiers if seen.classifier_inputs else output
    if len(seen.outputs) != 1 or not _same(output, seen.outputs[0]):
        model, own = type(inside[number]).__name__, seen.classifier_inputs
        warnings.warn(
            f"{found.what} does more than pass on what its {model} returns; "
            + (
                f"the features are the input of the classifier of {model}, before all of that."
                if own
                else f"the features are the output of {found.what}. For those of {model}, give it."
            ),
            stacklevel=2,
        )
    return features


def _same(one: Any, other: Any) -> bool:
    tensors = isinstance(one, Tensor) and isinstance(other, Tensor)
    return one is other or (tensors and torch.equal(one, other))


def check_pooled(features: Any) -> Tensor:
    """Return the features if they are (B, D).

    Raises:
        ConfigError: They are not.
    """
    if not isinstance(features, Tensor) or features.ndim != 2:
        found = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ConfigError(
            f"The model returns {found}; (batch, features) is needed. For a timm model: "
            "create it with num_classes=0 and pooling, without features_only."
        )
    return features


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put every part in evaluation mode; restored when no thread uses it any more.

    Only the flags are set, since the methods `train` and `eval` of adapters may merge weights.
    """
    modules = list(model.modules())
    with _lock:
        for module in modules:
            use = _evaluated.setdefault(module, _Use(0, module.training))
            use.count += 1
            module.training = False
    try:
        yield
    finally:
        with _lock:
            for module in modules:
                use = _evaluated[module]
                use.count -= 1
                if use.count == 0:
                    module.training = use.before
                    del _evaluated[module]


@contextmanager
def _full_fp32() -> Iterator[None]:
    cudnn: Any = torch.backends.cudnn
    settings: tuple[str, str | bool] = ("fp32_precision", "ieee")
    if not hasattr(cudnn, "conv"):  # before torch 2.9
        settings = ("allow_tf32", False)
    name, value = settings
    switches = (getattr(cudnn, "conv", cudnn), torch.backends.cuda.matmul)
    with _lock:
        if _full_precision.count == 0:
            _full_precision.before = [getattr(switch, name) for switch in switches]
        _full_precision.count += 1
        for switch in switches:
            setattr(switch, name, value)
    try:
        yield
    finally:
        with _lock:
            _full_precision.count -= 1
            if _full_precision.count == 0:
                for switch, before in zip(switches, _full_precision.before, strict=True):
                    setattr(switch, name, before)


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    return chain(model.parameters(), model.buffers())


class Halving:
    """Computes batches; if the memory is exhausted, in halves, quarters, ... from then on."""

    def __init__(self, compute: Callable[[Tensor], dict[str, Tensor]]) -> None:
        """Take a function from (B, C, H, W) to outputs (B, ...) by name."""
        self._compute = compute
        self._most = 0

    def __call__(self, ready: Tensor) -> dict[str, Tensor]:
        """Return the outputs of a batch.

        Raises:
            RuntimeError: torch's own, if the memory does not suffice for one image.

        Warns:
            UserWarning: The batch is halved.
        """
        while True:
            size = min(self._most, len(ready)) or len(ready)
            try:
                pieces = [self._compute(piece) for piece in ready.split(size)]
                return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
            except (MemoryError, RuntimeError) as error:
                known = not isinstance(error, CassleZooError) and is_out_of_memory(error)
                if size == 1 or not known:
                    raise
                reason = str(error).strip().partition("\n")[0] or type(error).__name__
            self._most = size // 2
            warnings.warn(
                f"out of memory with batches of {size} ({reason}); it goes on with {size // 2}.",
                stacklevel=2,
            )
            torch.cuda.empty_cache()
