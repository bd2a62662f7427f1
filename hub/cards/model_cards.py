"""MODEL_CARDS.md: what each released model is, how it was made, and its results.

Everything in it comes from the specs, the bundled config.json files and the recorded results
(`eval/results/*.json`). The cards of the bundled models can be written along with it.
"""

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cassle_zoo.common.errors import CassleZooError, ModelFolderError
from cassle_zoo.common.exit_status import ExitStatus
from cassle_zoo.common.files import write_text
from cassle_zoo.common.markdown import inline, table
from cassle_zoo.common.templates import render
from cassle_zoo.hub.cards.card import (
    bundled_cards,
    fact_line,
    own_and_baselines,
    settings_lines,
)
from cassle_zoo.records import Result, read_results
from cassle_zoo.specs import DATASETS, MODEL_SPECS, STARTING_WEIGHTS, ModelSpec
from cassle_zoo.store.folder import MODEL_FILE, bundled_folder, read_config

DOCUMENT = Path("MODEL_CARDS.md")

_COMPARED = (
    ("subcategory", "linear_top1"),
    ("subcategory", "knn_top1"),
    ("skin_tone", "linear_top1"),
    ("skin_tone", "knn_top1"),
    ("vendor", "linear_top1"),
    ("vendor", "knn_top1"),
    ("flags", "recall@1"),
    ("identity", "recall@1"),
)
_TITLES = {
    "linear_top1": "linear",
    "linear_top5": "linear, top-5",
    "linear_mean_per_class": "linear, mean per class",
    "knn_top1": "k-NN",
    "knn_mean_per_class": "k-NN, mean per class",
}


def render_model_cards(
    results: Sequence[Result],
    specs: Iterable[ModelSpec],
    configs: Mapping[str, Mapping[str, Any]],
) -> str:
    """Write the document.

    Args:
        results: Recorded results.
        specs: The models of the zoo; those with weights get a section.
        configs: Content of the config.json of each bundled model, by full name.

    Returns:
        Markdown text.

    Raises:
        ModelFolderError: If a released model has no result or, unless it is on the Hub, no
            configuration, or its result was measured with other weights.
    """
    specs = list(specs)
    released = [spec for spec in specs if spec.released]
    models = [_model(spec, results, configs) for spec in released]
    protocols = [own["recorded"].protocol for model in models for own in model["results"]]
    first = protocols[0] if protocols else {}
    return render(
        "cassle_zoo.hub.cards",
        "model_cards.md",
        comparison=_comparison(results, released),
        seeds=sorted({result.seed for result in results}),
        models=models,
        protocol={k: v for k, v in first.items() if all(p.get(k) == v for p in protocols)},
        waiting=[spec.full_name for spec in specs if not spec.released],
    )


def current_text(results: Sequence[Result] | None = None) -> str:
    """Return an up-to-date MODEL_CARDS.md.

    Args:
        results: Recorded results; by default those of `eval/results`.
    """
    configs = {
        spec.full_name: read_config(bundled_folder(spec))
        for spec in MODEL_SPECS.values()
        if spec.released and bundled_folder(spec).is_dir()
    }
    results = read_results() if results is None else results
    return render_model_cards(results, MODEL_SPECS.values(), configs)


def main(argv: Sequence[str] | None = None) -> ExitStatus:
    """Write or check the documents, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m cassle_zoo.hub.cards.model_cards", description=__doc__
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail if one is stale")
    parser.add_argument(
        "--bundled", action="store_true", help="also write or check the bundled README.md files"
    )
    parser.add_argument("path", nargs="?", type=Path, default=DOCUMENT, help="%(default)s")
    args = parser.parse_args(argv)
    try:
        texts = {args.path: current_text(), **(bundled_cards() if args.bundled else {})}
    except CassleZooError as error:
        print(f"error: {error}", file=sys.stderr)
        return ExitStatus.ERROR
    stale = [p for p, t in texts.items() if not p.is_file() or p.read_bytes() != t.encode()]
    for path in stale:
        if args.check:
            print(f"{path} is stale; run `make docs` and commit it.", file=sys.stderr)
        else:
            write_text(path, texts[path])
    return ExitStatus.INCOMPLETE if args.check and stale else ExitStatus.OK


def _comparison(results: Sequence[Result], released: Sequence[ModelSpec]) -> str:
    order = {spec.full_name: position for position, spec in enumerate(released)}

    def key(result: Result) -> tuple[bool, int, str]:
        name = result.model.name
        return not result.is_baseline, order.get(name, len(order)), name

    header = ["model", *(f"{task}, {_title(metric)}" for task, metric in _COMPARED)]
    rows = [
        [inline(result.model.name), *(_percent(result, *cell) for cell in _COMPARED)]
        for result in sorted(results, key=key)
    ]
    return table(header, rows) if rows else ""


def _model(
    spec: ModelSpec, results: Sequence[Result], configs: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    name, sha256 = spec.full_name, (spec.sha256 or {}).get(MODEL_FILE)
    shown = own_and_baselines(name, spec.timm_arch, results)
    own = [result for result in shown if not result.is_baseline]
    if not own:
        raise ModelFolderError(
            f"the released model {name} has no recorded result; run `cassle-zoo eval emoji64 "
            f"{name} --data emoji64.tar -o eval/results/{name}.json`."
        )
    for result in own:
        if result.model.sha256 != sha256:
            raise ModelFolderError(
                f"a result of {name} was measured with weights of sha256 {result.model.sha256}, "
                f"but the released ones have {sha256}; evaluate it again."
            )
    if name not in configs and spec.hub_repo is None:
        raise ModelFolderError(f"the released model {name} has no config.json.")
    training = configs[name]["cassle_zoo"]["training"] if name in configs else {}
    return {
        "name": name,
        "spec": spec,
        "dataset": DATASETS[spec.data],
        "starting_file": STARTING_WEIGHTS.get(spec.init or ""),
        "sha256": sha256,
        "is_bundled": name in configs,
        "command": training.get("command", f"cassle-zoo train {name} --data emoji64.tar --out RUN"),
        "facts": {
            key: fact_line(value)
            for key, value in training.items()
            if key not in ("command", "config", "data") and value is not None
        },
        "settings": settings_lines(training),
        "results": [{"recorded": result, "table": _table(result, shown)} for result in own],
    }


def _table(result: Result, shown: Sequence[Result]) -> str:
    columns = [result, *(other for other in shown if other.is_baseline)]
    rows = [
        [inline(task), inline(_title(metric)), *(_percent(c, task, metric) for c in columns)]
        for task, metrics in result.metrics.items()
        for metric in metrics
    ]
    return table(["task", "metric", *(inline(column.model.name) for column in columns)], rows)


def _title(metric: str) -> str:
    return _TITLES.get(metric, metric)


def _percent(result: Result, task: str, metric: str) -> str:
    value = result.metrics.get(task, {}).get(metric)
    return "-" if value is None else f"{100 * value:.1f}"


if __name__ == "__main__":
    raise SystemExit(main())
