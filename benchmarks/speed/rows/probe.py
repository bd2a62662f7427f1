"""The sweep of a linear probe over 45 values of l2, beside full-batch L-BFGS."""

import copy
from typing import Any

import torch

from benchmarks.speed.timing import Check, Row, Seconds, medians, take_turns, times_faster
from cassle_zoo.eval.protocols.linear_probe import L2_GRID
from cassle_zoo.eval.solvers.logistic_regression import fit_path

PROBLEMS = ((2000, 512, 37), (5000, 2048, 102))
ITERATIONS = 5000


def measure(rounds: int) -> Row:
    """Measure both problems; L-BFGS takes minutes on the second, so it is timed once there."""
    seconds: Seconds = {}
    checks: list[Check] = []
    for problem in PROBLEMS:
        turns, found = _compare(problem, rounds if problem == PROBLEMS[0] else 1)
        seconds |= turns
        checks += found
    return Row(
        title="linear-probe sweep, 45 values",
        amounts=medians(seconds),
        checks=checks,
        seconds=seconds,
        note="L-BFGS of torch as in the paper's code: strong Wolfe, each fit from the one before.",
    )


def _compare(problem: tuple[int, int, int], rounds: int) -> tuple[Seconds, list[Check]]:
    size = "x".join(map(str, problem))
    ours, theirs = f"cassle-zoo {size}", f"L-BFGS {size}"
    features, labels = _problem(*problem)
    objectives: dict[str, list[float]] = {}

    def sweep() -> None:
        objectives[ours] = _ours(features, labels, problem[-1])

    def lbfgs() -> None:
        objectives[theirs] = _lbfgs(features, labels, problem[-1])

    turns = take_turns({ours: sweep, theirs: lbfgs}, rounds, warm=0)
    pairs = zip(objectives[ours], objectives[theirs], strict=True)
    excess = max(mine / best - 1 for mine, best in pairs)
    return turns, [
        Check(f"{size}: times faster", times_faster(turns, ours, theirs), at_least=10),
        Check(f"{size}: objective above L-BFGS's, at worst", excess, at_most=1e-6),
    ]


def _problem(samples: int, width: int, classes: int) -> tuple[Any, Any]:
    """Return features like a ResNet's: not negative, mean 0.25, correlated, classes overlapping."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (samples,), generator=generator)
    centres = torch.randn(classes, 64, generator=generator)
    hidden = centres[labels] + 1.5 * torch.randn(samples, 64, generator=generator)
    mixing = torch.randn(64, width, generator=generator) / 8
    noise = 0.3 * torch.randn(samples, width, generator=generator)
    return 0.35 * (hidden @ mixing + noise).relu(), labels


def _ours(features: Any, labels: Any, classes: int) -> list[float]:
    return [fit.objective for fit in fit_path(features, labels, classes, L2_GRID)]


def _lbfgs(features: Any, labels: Any, classes: int) -> list[float]:
    layer = torch.nn.Linear(features.shape[1], classes)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)

    def objective(layer: Any, samples: Any, l2: float) -> Any:
        loss = torch.nn.functional.cross_entropy(layer(samples), labels, reduction="sum")
        return loss + l2 * sum(p.square().sum() for p in layer.parameters())

    found = []
    for l2 in L2_GRID:
        solver = torch.optim.LBFGS(
            layer.parameters(),
            max_iter=ITERATIONS,
            tolerance_change=0,
            line_search_fn="strong_wolfe",
        )

        def closure(solver: Any = solver, l2: float = l2) -> Any:
            solver.zero_grad()
            loss = objective(layer, features, l2)
            loss.backward()
            return loss

        solver.step(closure)
        with torch.no_grad():  # in double precision: float32 cannot resolve the smallest ones
            exact = copy.deepcopy(layer).double()
            found.append(float(objective(exact, features.double(), l2)))
    return found
