"""Figures of sensitivity, equivariance and spectrum, from the `series` or `metrics` of results."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from cassle_zoo.common.errors import DataError
from cassle_zoo.eval.report.figures import Line, grouped_bars, line_panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Series = Mapping[str, Sequence[float]]
Metrics = Mapping[str, Mapping[str, float]]
_LAST = ("backbone", "projector")
CONDITIONS: tuple[str, ...] = ("right", "zero", "shuffled")


def strength_figure(series: Series, title: str = "") -> "Figure":
    """Draw the measure of one model by strength: a panel per augmentation, a line per stage.

    A stage with the same values as the backbone (the last of a ResNet) is left out.

    Args:
        series: Series of `sensitivity`.
        title: Title of the figure.

    Raises:
        DataError: If the result has no such series.
    """
    panels: dict[str, dict[str, Line]] = {}
    for augmentation, strengths in _strengths(series).items():
        if len(strengths) > 1:
            curves = _curves(series, augmentation)
            panels[augmentation] = {stage: (strengths, values) for stage, values in curves.items()}
    for stage in {stage for lines in panels.values() for stage in lines} - {*_LAST}:
        if all(lines.get(stage) == lines.get("backbone") for lines in panels.values()):
            for lines in panels.values():
                del lines[stage]
    return line_panels(
        panels, x_label="fraction of the training range", y_label=measure_name(series), title=title
    )


def overlay_figure(results: Mapping[str, Series], stage: str = "backbone") -> "Figure | None":
    """Draw the measure of several models by strength: a panel per augmentation, a line per model.

    Args:
        results: Series of `sensitivity` by model.
        stage: The stage of the networks that is compared.

    Returns:
        The figure; `None` if no model has several strengths at that stage.

    Raises:
        DataError: If a result has no such series.
    """
    panels: dict[str, dict[str, Line]] = {}
    for model, series in results.items():
        for augmentation, strengths in _strengths(series).items():
            values = _curves(series, augmentation).get(stage)
            if values is not None and len(strengths) > 1:
                panels.setdefault(augmentation, {})[model] = (strengths, values)
    if not panels:
        return None
    return line_panels(
        panels, x_label="fraction of the training range", y_label=measure_name(*results.values())
    )


def stage_figure(results: Mapping[str, Series], title: str = "") -> "Figure":
    """Draw the measure at the greatest strength by stage: a panel per augmentation, a line a model.

    Args:
        results: Series of `sensitivity` by model.
        title: Title of the figure.

    Raises:
        DataError: If a result has no such series.
    """
    panels: dict[str, dict[str, Line]] = {}
    ticks: dict[str, list[str]] = {}
    for series in results.values():
        for augmentation in _strengths(series):
            curves = _curves(series, augmentation)
            names = ticks.setdefault(augmentation, [])
            names += [stage for stage in curves if stage not in names]
            # Backbone and projector stay last, after the stages of all models.
            names.sort(key=lambda name: _LAST.index(name) if name in _LAST else -1)
    for model, series in results.items():
        for augmentation in _strengths(series):
            curves = _curves(series, augmentation)
            x = [float(ticks[augmentation].index(stage)) for stage in curves]
            panels.setdefault(augmentation, {})[model] = (x, [v[-1] for v in curves.values()])
    return line_panels(
        panels, x_label="stage", y_label=measure_name(*results.values()), title=title, ticks=ticks
    )


def projector_figure(metrics: Metrics, title: str = "") -> "Figure":
    """Draw the similarity of projections under right, zero and shuffled ω.

    Args:
        metrics: Metrics of `sensitivity` of a model with a projector.
        title: Title of the figure.
    """
    groups = {
        augmentation: {
            f"{condition} ω": values[f"projector_cosine_{condition}"]
            for condition in CONDITIONS
            if f"projector_cosine_{condition}" in values
        }
        for augmentation, values in metrics.items()
    }
    return grouped_bars(groups, y_label="cosine of projections", title=title)


def equivariance_figure(metrics: Metrics, title: str = "") -> "Figure":
    """Draw R² per descriptor from one view, and from the image and its view.

    Args:
        metrics: Metrics of `equivariance` of a model.
        title: Title of the figure.
    """
    groups = {
        descriptor: {"from one view": own["r2_single"], "from image and view": own["r2_pair"]}
        for descriptor, own in metrics.items()
        if "r2_single" in own
    }
    return grouped_bars(groups, y_label="R² on held-out images", title=title)


def spectrum_figure(fractions: Sequence[float], label: str) -> "Figure":
    """Draw the explained variance by component, on logarithmic axes.

    Args:
        fractions: Each component's fraction of the variance.
        label: Name of the model.
    """
    values = [value for value in fractions if value > 0]  # zeros have no logarithm
    curves = {label: (list(range(1, len(values) + 1)), values)}
    return line_panels({"": curves}, x_label="component", y_label="fraction of variance", log=True)


def _strengths(series: Series) -> dict[str, Sequence[float]]:
    found = {
        name.removeprefix("strength/"): values
        for name, values in series.items()
        if name.startswith("strength/")
    }
    if not found:
        raise DataError("the result has no series by strength; it is not one of `sensitivity`.")
    return found


def _curves(series: Series, augmentation: str) -> dict[str, Sequence[float]]:
    """Return the values by stage, in order."""
    found = {}
    for name, values in series.items():
        parts = name.split("/", 2)
        if len(parts) == 3 and parts[1] == augmentation and parts[0] not in ("strength", "value"):
            found[parts[2]] = values
    return found


def measure_name(*results: Series) -> str:
    """Return the name of the measure, which names of series begin with.

    Raises:
        DataError: If there is none, or several.
    """
    names = {name.split("/")[0] for series in results for name in series if name.count("/") == 2}
    if len(names) != 1:
        raise DataError(f"the results have the measures {sorted(names)}, expected one.")
    return {"infonce": "InfoNCE"}.get(*names, *names)
