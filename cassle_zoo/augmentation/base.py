"""The base class of further augmentations: how one is drawn, applied and described."""

import abc
import dataclasses
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self, TypeVar

from torch import Tensor

from cassle_zoo.common.config import Range, check_fields
from cassle_zoo.common.errors import ConfigError

STEPS: tuple[str, ...] = ("flip", "jitter", "grayscale", "blur")
"""Steps of the paper's recipe, in order, that a further augmentation may follow."""


@dataclass(frozen=True, kw_only=True)
class Augmentation(abc.ABC):
    """A further augmentation of the recipe; its fields are its settings, each with a default.

    A subclass is a frozen dataclass decorated with :func:`register_augmentation`. Its methods are
    pure functions of tensors, on any device. Whether a view is augmented, and the uniforms that
    `sample` gets, are drawn by the library, from a stream for each augmentation: adding one does
    not change what the others draw.

    Attributes:
        name: Name of the augmentation, its settings (`--augment.NAME.FIELD`) and its descriptor.
        columns: What each number of its descriptor means. All are 0 where it was not applied.
        parameters: How many numbers determine it, besides whether it is applied.
        after: The step of :data:`STEPS` that it follows. Augmentations after the same step are
            applied in the order of their names.
        p: Probability that a view is augmented; 0 turns it off.

    Raises:
        ConfigError: If a value is out of its range.
    """

    name: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]
    parameters: ClassVar[int] = 0
    after: ClassVar[str] = "blur"

    p: Annotated[float, Range(0, 1)] = 0.0

    def __post_init__(self) -> None:
        """Check every field."""
        check_fields(self, f"augment.{self.name}.")

    def sample(self, uniforms: Tensor) -> Tensor:
        """Map (B, parameters) float64 uniforms in [0, 1) to B views' parameters, same shape."""
        return uniforms

    @abc.abstractmethod
    def apply(self, images: Tensor, parameters: Tensor) -> Tensor:
        """Return augmented images.

        Args:
            images: (B, C, H, W) floating point in [0, 1]; may be changed.
            parameters: (B, parameters), on the images' device and of their type.

        Returns:
            (B, C, H, W) in [0, 1].
        """

    @abc.abstractmethod
    def describe(self, parameters: Tensor) -> Tensor:
        """Return this augmentation's columns of omega, (B, len(columns)), for augmented views."""

    def describe_crop(self, crop: Tensor, parameters: Tensor) -> Tensor:
        """Return the descriptor `crop` of augmented views; by default unchanged.

        An augmentation that mirrors the view must mirror the crop's centre as well.

        Args:
            crop: (B, 4) centre y, centre x, height and width, as fractions of the image.
            parameters: (B, parameters).
        """
        del parameters
        return crop

    def to_dict(self) -> dict[str, Any]:
        """Return the settings."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """Build from the result of :meth:`to_dict`.

        Raises:
            ConfigError: If it is no mapping, or a setting is unknown or has a wrong value.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"augment.{cls.name} must be a mapping of settings, got {values!r}.")
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ConfigError(
                f"augment.{cls.name} has no settings {', '.join(unknown)}; "
                f"it has {', '.join(sorted(known))}."
            )
        given: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        return cls(**given)


Own = TypeVar("Own", bound=type[Augmentation])

_registered: dict[str, type[Augmentation]] = {}


def register_augmentation(cls: Own) -> Own:
    """Register a subclass of :class:`Augmentation` under its name; use as a decorator.

    Returns:
        The class.

    Raises:
        ConfigError: If it is incomplete or not a frozen dataclass, a setting has no default, or its
            name is taken.

    Examples:
        >>> @cassle_zoo.register_augmentation
        ... @dataclass(frozen=True, kw_only=True)
        ... class Invert(cassle_zoo.Augmentation):
        ...     name = "invert"
        ...     columns = ("1 if the view is a negative, else 0",)
        ...
        ...     def apply(self, images, parameters):
        ...         return 1 - images
        ...
        ...     def describe(self, parameters):
        ...         return torch.ones(len(parameters), 1)
        >>> cassle_zoo.DescriptorLayout(("color", "invert")).widths
        {'color': 4, 'invert': 1}
    """
    given: Any = cls
    if not (isinstance(given, type) and issubclass(given, Augmentation)):
        raise ConfigError(f"{given!r} is not a subclass of cassle_zoo.Augmentation.")
    who = f"augmentation {cls.__name__}"
    if "__dataclass_params__" not in vars(cls):  # those of a base class do not count
        raise ConfigError(f"{who} must be a dataclass with frozen=True and kw_only=True.")
    every = dataclasses.fields(cls)
    if bare := [f.name for f in every if f.default is f.default_factory is dataclasses.MISSING]:
        raise ConfigError(f"{who}: give every setting a default; {', '.join(bare)} has none.")
    name, columns = getattr(cls, "name", None), getattr(cls, "columns", ())
    if not isinstance(name, str) or not name.isidentifier() or name != name.lower():
        raise ConfigError(f"{who}: name must be lower-case letters, digits and '_', got {name!r}.")
    texts = isinstance(columns, tuple) and all(isinstance(text, str) for text in columns)
    if not (texts and columns):
        raise ConfigError(
            f"{who}: columns must say what each number of omega means, got {columns!r}."
        )
    if not isinstance(cls.parameters, int) or cls.parameters < 0:
        raise ConfigError(f"{who}: parameters must be 0 or more, got {cls.parameters!r}.")
    if cls.after not in STEPS:
        raise ConfigError(f"{who}: after must be one of {', '.join(STEPS)}, got {cls.after!r}.")
    if missing := [m for m in ("apply", "describe") if getattr(cls, m) is getattr(Augmentation, m)]:
        raise ConfigError(f"{who} has no {' and no '.join(missing)}.")
    other = _registered.get(name)
    # The same file may be imported twice: as `__main__`, and by a spawned worker.
    if other is not None and _source(other) != _source(cls):
        raise ConfigError(
            f"{who}: {other.__module__}.{other.__qualname__} has the name {name!r} already."
        )
    _registered[name] = cls
    return cls


def _source(cls: type) -> tuple[str, str | None]:
    try:
        return cls.__qualname__, inspect.getsourcefile(cls)
    except (OSError, TypeError):  # defined in a notebook
        return cls.__qualname__, None


def registered() -> dict[str, type[Augmentation]]:
    """Return the augmentations registered so far, by name."""
    return dict(_registered)
