from results import make_result

from cassle_zoo.eval.report.export import format_table


def test_models_stand_side_by_side():
    one = make_result("one", metrics={"vendor": {"knn_top1": 0.5, "infonce": 3.14159}})
    metrics = {"vendor": {"knn_top1": 0.25}, "flags": {"recall@1": 1.0}}
    assert format_table([one, make_result("another", metrics=metrics)]).splitlines() == [
        "|                 |   one | another |",
        "| --------------- | ----: | ------: |",
        "| vendor knn_top1 |  50.0 |    25.0 |",
        "| vendor infonce  | 3.142 |       - |",
        "| flags recall@1  |     - |   100.0 |",
    ]


def test_equal_names_are_told_apart_by_the_command():
    commands = [f"cassle-zoo eval knn 'local-dir:my {n}/mine' --data photos" for n in "ab"]
    header = format_table([make_result("mine", command=own) for own in commands]).splitlines()[0]
    assert "local-dir:my a/mine" in header
    assert "local-dir:my b/mine" in header
