import dataclasses

from cassle_zoo.eval.report.export import format_table
from cassle_zoo.records import MeasuredData, MeasuredModel, Result


def result(name: str, metrics: dict[str, dict[str, float]]) -> Result:
    return Result(
        task="any",
        model=MeasuredModel(name=name, sha256=None),
        data=MeasuredData(name="data", sha256="0"),
        protocol={},
        metrics=metrics,
        seed=0,
        versions={},
        command="",
        seconds={},
        created="",
    )


def test_models_stand_side_by_side():
    one = result("one", {"vendor": {"knn_top1": 0.5, "infonce": 3.14159}})
    other = result("another", {"vendor": {"knn_top1": 0.25}, "flags": {"recall@1": 1.0}})
    assert format_table([one, other]).splitlines() == [
        "|                 |   one | another |",
        "| --------------- | ----: | ------: |",
        "| vendor knn_top1 |  50.0 |    25.0 |",
        "| vendor infonce  | 3.142 |       - |",
        "| flags recall@1  |     - |   100.0 |",
    ]


def test_equal_names_are_told_apart_by_the_command():
    commands = [f"cassle-zoo eval knn 'local-dir:my {n}/mine' --data photos" for n in "ab"]
    results = [
        dataclasses.replace(result("mine", {"a": {"b": 1}}), command=own) for own in commands
    ]
    header = format_table(results).splitlines()[0]
    assert "local-dir:my a/mine" in header
    assert "local-dir:my b/mine" in header
