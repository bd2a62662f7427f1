"""The variance of features by component, and nearest neighbours before and after whitening.

All numbers are from the study's records of 60 epochs; seed 2 is the weights that are bundled.
"""

from typing import TYPE_CHECKING, Any

from benchmarks.study import metrics
from benchmarks.study.records import RECORDS, load_courses
from benchmarks.study.summary import spread
from docs.figures.style import BLUE, FAINT, ORANGE, open_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EPOCHS = 60
ARMS = {"resnet18_cassle_simclr": "CASSLE", "resnet18_simclr": "SimCLR"}
BUNDLED_SEED = 2
COMPONENTS = 128  # of the whitened features
_LOOKS = {"CASSLE": (BLUE, "o"), "SimCLR": (ORANGE, "s")}


def measure() -> dict[str, Any]:
    """Return variances of the bundled models, and k-NN top-1 in percent, means of the seeds."""
    records = [r for r in load_courses(RECORDS) if r.settings["optim"]["epochs"] == EPOCHS]
    raw = [metric for metric in metrics.TASKS if metric.name == "knn_top1"]
    whitened = [metric for metric in metrics.WHITENED_TASKS if metric.name == "knn_top1"]
    found: dict[str, Any] = {"components": COMPONENTS}
    for arm, label in ARMS.items():
        [own] = [r for r in records if r.arm == arm and r.seed == BUNDLED_SEED]
        variance = own.results["spectrum"].series["explained_variance"]
        found[label] = {
            "model": own.results["spectrum"].model.name,
            "variance": [round(value, 5) for value in variance[:COMPONENTS]],
            "knn": {
                before.part: [
                    round(spread(list(metrics.values(records, arm, one).values())).mean, 1)
                    for one in (before, after)
                ]
                for before, after in zip(raw, whitened, strict=True)
            },
        }
    return found


def draw(numbers: dict[str, Any]) -> "Figure":
    """Draw the cumulated variance, and k-NN of raw and whitened features."""
    figure = open_figure(5.4)
    above, below = figure.subplots(2, height_ratios=(3, 2.4))
    count = numbers["components"]
    axis = range(1, count + 1)
    for label, (colour, _) in _LOOKS.items():
        variance = numbers[label]["variance"]
        total = [100 * sum(variance[:number]) for number in axis]
        above.plot(axis, total, color=colour, linewidth=1.6, label=f"{label}, raw")
    above.plot(
        axis, [100 * number / count for number in axis], color=FAINT, linestyle="--",
        linewidth=1.2, label=f"whitened to {count}",
    )  # fmt: skip
    above.set_xscale("log", base=2)
    above.set_xticks([1, 2, 4, 8, 16, 32, 64, 128], ["1", "2", "4", "8", "16", "32", "64", "128"])
    above.set_xlabel("the largest principal components", fontsize=8.5)
    above.set_ylabel("% of the variance", fontsize=8.5)
    above.set_title("A few components have most of the variance, so most of a cosine", fontsize=9)
    above.legend(fontsize=8.5, frameon=False, loc="upper left")
    rows = [(part, label) for part in numbers["CASSLE"]["knn"] for label in _LOOKS]
    for position, (part, label) in enumerate(rows):
        colour, marker = _LOOKS[label]
        before, after = numbers[label]["knn"][part]
        y = -position - 0.5 * (position // len(_LOOKS))
        below.annotate(
            "", (after, y), (before, y),
            arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 1.2, "shrinkA": 0},
        )  # fmt: skip
        below.plot([before], [y], marker, color=colour, markersize=4)
        below.text(before - 0.5, y, f"{before:.1f}", ha="right", va="center", fontsize=8)
        below.text(after + 0.5, y, f"{after:.1f}", ha="left", va="center", fontsize=8)
    places = [-position - 0.5 * (position // len(_LOOKS)) for position in range(len(rows))]
    names = [f"{part.replace('_', ' ')}, {label}" for part, label in rows]
    below.set_yticks(places, names, fontsize=8.5)
    below.set_xlim(56, 90)
    below.margins(y=0.12)
    below.tick_params(axis="x", labelsize=8)
    below.set_xlabel("k-NN top-1, %: raw features → whitened", fontsize=8.5)
    above.tick_params(labelsize=8)
    for panel in (above, below):
        panel.spines[["top", "right"]].set_visible(False)
    return figure
