"""The command line of the evaluation, on a tiny dataset."""

import dataclasses
import json
import shlex
import weakref
from pathlib import Path

import pytest
import timm
import torch
import tyro
from PIL import Image
from results import make_result
from timm.models import save_for_hf

from cassle_zoo.common.errors import ConfigError, DataError, StorageError, UnknownNameError
from cassle_zoo.common.images import UnreadableImageError
from cassle_zoo.eval import main as main_module
from cassle_zoo.eval import sources
from cassle_zoo.eval.base import ON_THE_NETWORK, Compute, Outcome
from cassle_zoo.eval.main import Arguments, public_command, run_from_cli
from cassle_zoo.eval.protocols import EVALUATORS
from cassle_zoo.eval.protocols.knn import KNN
from cassle_zoo.eval.runner import place_for, write
from cassle_zoo.eval.scores import ScoreFile
from cassle_zoo.features.extract import FeatureSet
from cassle_zoo.features.files import save_features
from cassle_zoo.records import MeasuredData, Result


@pytest.fixture
def arguments(emoji_tar, tmp_path):
    return ["--data", str(emoji_tar), "--cache", str(tmp_path / "cache")]


def test_models_side_by_side(arguments, capsys):
    assert run_from_cli(["knn", "raw-pixels", "random-init:test_resnet", *arguments]) == 0
    header, _, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["|", "|", "raw-pixels", "|", "random-init:test_resnet", "|"]
    assert [row.split()[1:3] for row in rows[:2]] == [
        ["subcategory", "knn_top1"],
        ["subcategory", "knn_mean_per_class"],
    ]


def test_results_are_recorded(arguments, tmp_path, capsys):
    assert run_from_cli(["knn", "raw-pixels", *arguments, "-o", str(tmp_path / "one.json")]) == 0
    one = Result.load(tmp_path / "one.json")
    assert (one.task, one.model.name) == ("knn", "raw-pixels")
    assert one.command == "cassle-zoo eval knn raw-pixels --data emoji64.tar"
    models = ["raw-pixels", "random-init:test_resnet"]
    assert run_from_cli(["knn", *models, *arguments, "-o", str(tmp_path / "all")]) == 0
    assert {path.name for path in (tmp_path / "all").iterdir()} == {
        f"knn--emoji64_modified_--{model}.{ending}"
        for model in ("raw-pixels", "random-init_test_resnet")
        for ending in ("json", "scores.safetensors")
    }
    assert Result.load(tmp_path / "one.json").files == ["one.scores.safetensors"]
    assert ScoreFile.load(tmp_path / "one.scores.safetensors").scores[0].task == "subcategory"


def test_other_measurements_are_kept_and_equal_ones_replaced(arguments, tmp_path, capsys):
    folder = tmp_path / "results"

    def run(*more):
        assert run_from_cli(["knn", "raw-pixels", *arguments, "--out", str(folder), *more]) == 0
        return capsys.readouterr().err.splitlines()[-1]

    first = "knn--emoji64_modified_--raw-pixels"
    assert run().startswith("recorded: ")
    assert run("--batch-size", "7").startswith("recorded again: ")
    assert run("--k", "5").startswith(f"recorded beside {first}.json, which is another measurem")
    assert run("--k", "5").startswith(f"recorded again beside {first}.json")
    assert run("--seed", "3").startswith("recorded beside")
    files = sorted(folder.glob("*.json"))
    assert len(files) == 3
    assert all(file.name.startswith(first) for file in files)
    assert sorted(Result.load(file).protocol["k-NN"][8:12] for file in files) == ["k=20"] * 2 + [
        "k=5,"
    ]
    page = tmp_path / "report.html"
    assert run_from_cli(["report", str(folder), "-o", str(page)]) == 0
    for label in ("raw-pixels (seed 0)", "raw-pixels (--k 5, seed 0)", "raw-pixels (seed 3)"):
        assert label in page.read_text().replace("<wbr>", "")


def test_another_crop_is_another_measurement(tmp_path, capsys):
    model = timm.create_model("test_resnet", num_classes=0)
    photos = tmp_path / "photos"
    for index in range(12):
        (photos / "ab"[index % 2]).mkdir(parents=True, exist_ok=True)
        noise = Image.effect_noise((64, 64), 99 + index)
        noise.save(photos / "ab"[index % 2] / f"{index}.png")
    for crop, remark in ((0.5, "recorded: "), (1.0, "recorded beside"), (1.0, "recorded again")):
        model.pretrained_cfg = {**model.pretrained_cfg, "crop_pct": crop}
        save_for_hf(model, tmp_path / "mine", safe_serialization=True)
        command = ["knn", f"local-dir:{tmp_path / 'mine'}", "--dataset", "folder", "--no-cache"]
        out = tmp_path / "out"
        assert run_from_cli([*command, "--data", str(photos), "--size", "32", "-o", str(out)]) == 0
        assert remark in capsys.readouterr().err
    inputs = {Result.load(file).protocol["input"] for file in out.glob("*.json")}
    assert sum("Resize to 64, " in own for own in inputs) == 1
    assert len(inputs) == 2


def test_a_file_that_was_named_is_replaced_and_that_is_said(arguments, tmp_path, capsys):
    for k, remark in ((20, "recorded: "), (5, "recorded in place of another measurement: ")):
        command = ["knn", "raw-pixels", *arguments, "-o", str(tmp_path / "a.json"), "--k", str(k)]
        run_from_cli(command)
        assert remark in capsys.readouterr().err


def test_a_whitening_is_of_one_model(arguments):
    command = ["knn", "raw-pixels", "random-init:test_resnet", *arguments, "--whiten"]
    with pytest.raises(ConfigError, match=r"--whiten w.npz was fitted .* one model, but 2 are"):
        run_from_cli([*command, "w.npz"])
    assert run_from_cli([*command, "4"]) == 0
    with pytest.raises(ConfigError, match=r"--knn\.whiten w.npz was fitted .* --knn\.whiten model"):
        run_from_cli(["emoji64", *command[1:-1], "--knn.whiten", "w.npz"])


def test_everything_is_checked_first(arguments, tmp_path, monkeypatch):
    monkeypatch.setattr("cassle_zoo.eval.main.open_data", None)
    with pytest.raises(ConfigError, match="give a folder"):
        run_from_cli(["knn", "raw-pixels", "a", *arguments, "-o", "one.json"])
    with pytest.raises(UnknownNameError, match=r"random-init:resnet1: .*'resnet1'"):
        run_from_cli(["knn", "raw-pixels", "random-init:resnet1", *arguments])
    source = f"features:{tmp_path / 'f.npz'}"
    save_features(FeatureSet(torch.ones(2, 3), ["a", "b"]), tmp_path / "f.npz")
    for task in ON_THE_NETWORK:
        with pytest.raises(ConfigError, match=r"f\.npz is a file of features.*give a model"):
            run_from_cli([task, "random-init:test_resnet", source, *arguments])
    occupied = tmp_path / "occupied"
    occupied.write_text("")
    for option in ("-o", "--cache"):
        with pytest.raises(ConfigError, match=rf"occupied.*choose another with {option}"):
            run_from_cli(["knn", "raw-pixels", *arguments, option, str(occupied)])
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(ConfigError, match="is a folder"):
        run_from_cli(["knn", "raw-pixels", *arguments, "-o", str(tmp_path / "folder.json")])


def test_the_table_is_shown_even_if_the_rest_fails(arguments, tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cassle_zoo.eval.runner.write_bytes", fail)
    with pytest.raises(StorageError, match=r"cannot record .*knn.*\.json: No space left"):
        run_from_cli(["knn", "raw-pixels", *arguments, "-o", str(tmp_path)])
    assert "subcategory knn_top1" in capsys.readouterr().out


def test_a_model_named_twice_is_measured_once(arguments, capsys):
    assert run_from_cli(["knn", "raw-pixels", "raw-pixels", *arguments]) == 0
    found = capsys.readouterr()
    assert found.out.splitlines()[0].count("raw-pixels") == 1
    assert "named twice" in found.err


def test_of_several_models_errors_name_the_one(arguments, monkeypatch):
    def fail(*_args, **_settings):
        raise UnreadableImageError("a.png", "it is empty")

    monkeypatch.setattr("cassle_zoo.eval.main.evaluate", fail)
    with pytest.raises(DataError, match=r"^raw-pixels: .*'a\.png'.* empty"):
        run_from_cli(["knn", "raw-pixels", "random-init:test_resnet", *arguments])


def test_no_model_named(arguments):
    with pytest.raises(ConfigError, match="at least one model"):
        run_from_cli(["knn", *arguments])


def test_help_lists_the_evaluations(capsys):
    assert run_from_cli(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in EVALUATORS)


def test_no_evaluation_named(capsys):
    assert run_from_cli([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "knn" in err


def test_every_model_is_opened_once_and_only_one_at_a_time(arguments, monkeypatch, tmp_path):
    opened, alive = [], weakref.WeakSet()

    def find_source(model, **settings):
        build = sources.find_source(model, **settings)

        def opener():
            assert not alive
            source = build()
            opened.append(model)
            alive.add(source.model)
            return source

        return opener

    monkeypatch.setattr(main_module, "find_source", find_source)
    models = ["random-init:test_resnet", "random-init:test_vit"]
    assert run_from_cli(["knn", *models, *arguments, "-o", str(tmp_path / "results")]) == 0
    assert opened == models


def command(model, data, **given):
    arguments = Arguments(models=(model,), data=Path(data), settings=KNN(), **given)
    return public_command("knn", model, arguments)


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("knn", ["--k", "5", "--temperature", "0.5", "--seed", "3", "--device", "cpu"]),
        ("emoji64", ["--knn.k", "5", "--linear.sweep-tolerance", "0.01", "--batch-size", "9"]),
        ("retrieval", ["--ks", "1", "2", "--classification", "test"]),
        ("few-shot", ["--normalize", "--shots", "1"]),
        ("spectrum", ["--no-figures", "--components", "2", "9"]),
        ("finetune", ["--tasks", "cars", "--labels", "0.5"]),
    ],
)
def test_the_command_gives_the_same_settings(task, options):
    def parse(words):
        return tyro.cli(
            Arguments[EVALUATORS[task]], config=(tyro.conf.FlagCreatePairsOff,), args=words
        )

    given = parse(["raw-pixels", "--data", "cars", *options])
    written = public_command(task, "raw-pixels", given)
    assert parse(shlex.split(written)[3:]) == given


def test_folders_of_the_user_are_not_shown():
    assert command("features:/me/a=b.npz", "/me/c d") == (
        "cassle-zoo eval knn features:a=b.npz --data 'c d'"
    )
    compute = Compute(cache=Path("/me"), no_cache=True)
    assert command("local-dir:/me/mine", ".", compute=compute) == (
        "cassle-zoo eval knn local-dir:mine --data ."
    )
    assert command("raw-pixels", "x", dataset="folder").endswith("--dataset folder")


def test_folders_below_this_one_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = command(f"local-dir:{tmp_path}/larger", f"{tmp_path}/a/b")
    assert found == "cassle-zoo eval knn local-dir:larger --data a/b"
    found = command("features:../x/f.npz", "../a")
    assert found == "cassle-zoo eval knn features:../x/f.npz --data ../a"


def test_json_is_all_that_goes_to_standard_output(arguments, tmp_path, capsys):
    out = tmp_path / "results"
    assert run_from_cli(["knn", "raw-pixels", *arguments, "--json", "-o", str(out)]) == 0
    printed = json.loads(capsys.readouterr().out)
    [recorded] = [json.loads(path.read_text()) for path in out.glob("*.json")]
    assert printed == [recorded]
    assert printed[0]["format_version"] == 2


def test_long_names_lose_no_result(tmp_path):
    data = MeasuredData(name="folder:" + "d" * 250, sha256="d" * 64)
    for seed in range(2):
        result = dataclasses.replace(make_result("m" * 250, seed=seed), data=data)
        path, _ = place_for(tmp_path, result)
        write(path, result, Outcome(metrics={}, protocol={}, files={"flags.knn.html": b"page"}))
    assert len(list(tmp_path.glob("*.json"))) == len(list(tmp_path.glob("*.html"))) == 2
