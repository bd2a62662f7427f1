"""Errors of all commands: each says what is wrong, with which value, and how to fix it."""

import re
import shlex
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import image_folder

from cassle_zoo.cli.main import main
from cassle_zoo.features.extract import FeatureSet
from cassle_zoo.features.files import save_features

OURS = "resnet18_cassle_simclr"
FEATURES = f"features {OURS} images -o o.npz"
TRAIN = f"train {OURS} --data images --out run"
EVAL = f"eval knn {OURS} --data classes --dataset folder"
REPRODUCE = f"reproduce {OURS} --data images -o run"
# What is wrong, the value, and the fix are each found in the message.
ERRORS: list[tuple[str, str, str, str]] = [
    # the whole
    ("nothing", "invalid choice", "'nothing'", "choose from"),
    ("list --pretraind", "unrecognized arguments", "--pretraind", "Did you mean --pretrained"),
    ("env extra", "unrecognized arguments", "extra", "cassle-zoo env --help"),
    ("completion powershell", "invalid choice", "'powershell'", "choose from"),
    ("upgrade absent", "does not exist", "absent", "give a file or a folder"),
    ("upgrade notes.txt", "not written by cassle-zoo", "notes.txt", "give a file or folder that"),
    # an empty path, of every command
    (f"train {OURS} --data images --out ''", "empty", "--out", "give it a value"),
    (f"train {OURS} --data images --out=", "empty", "--out", "give it a value"),
    (f"{TRAIN} --data ''", "empty", "--data", "give it a value"),
    (f"{EVAL} -o ''", "empty", "-o", "give it a value"),
    (f"eval knn {OURS} --data= --dataset folder", "empty", "--data", "give it a value"),
    (f"features {OURS} images --output ''", "empty", "--output", "give it a value"),
    ("demo images -o ''", "empty", "-o", "give it a value"),
    # info
    ("info", "required", "name", "cassle-zoo info --help"),
    ("info resnet18_casle_simclr", "Unknown model", "'resnet18_casle_simclr'", f"mean '{OURS}'"),
    ("features raw-pixels images -o x.npz", "a baseline without weights", "'raw-pixels'", "`eval`"),
    (f"info {OURS}.emoji46", "Unknown tag", "'emoji46'", "Did you mean 'emoji64'"),
    ("info local-dir:absent", "does not exist", "absent", "Check the path"),
    ("info local-dir:images", "not a model folder", "images", "hub export RUN -o DIR"),
    ("info hf-hub:nobody", "incomplete", "'hf-hub:nobody'", "'hf-hub:ORG/NAME'"),
    ("info timm:resnet18", "model of timm", "'timm:resnet18'", "cassle-zoo list"),
    # features
    (f"features {OURS}", "required", "PATH, -o/--output", "cassle-zoo features --help"),
    ("features resnet18_casle_simclr images -o o.npz", "Unknown", "casle", f"mean '{OURS}'"),
    ("features timm:resnet81 images -o o.npz", "Unknown", "'resnet81'", "Did you mean 'resnet18'"),
    (
        "features timm:resnet18.a1_in2k images -o o.npz",
        "Unknown tag",
        "'a1_in2k'",
        "Did you mean 'a1_in1k'",
    ),
    ("features resnet18 images -o o.npz", "cannot be reached", "resnet18", "HF_ENDPOINT"),
    ("features hf-hub:some/body images -o o.npz", "cannot be reached", "some/body", "HF_HOME"),
    ("features local-dir:images images -o o.npz", "not a model folder", "images", "hub export RUN"),
    (
        "features resnet50_cassle_simclr.in100 images -o o.npz",
        "No weights",
        "'resnet50_cassle_simclr.in100'",
        "cassle-zoo train",
    ),
    (f"features {OURS} absent.png -o o.npz", "Cannot open", "'absent.png'", "give the path"),
    (f"features {OURS} 'absent/*.png' -o o.npz", "no image matches", "absent/*.png", "check"),
    (f"features {OURS} empty -o o.npz", "holds no images", "'empty'", "Give images"),
    (f"features {OURS} text -o o.npz", "not an image", "'text/notes.png'", "Give images"),
    (f"features {OURS} broken.tar -o o.npz", "cannot open", "'broken.tar'", "unpack it"),
    (f"features {OURS} notes.txt -o o.npz", "none of them exists", "'notes.txt'", "Give images"),
    (f"features {OURS} x.npy -o o.npz", "not an image", "'x.npy'", "Give images"),
    (f"features {OURS} x.parquet -o o.npz", "a Parquet table", "'x.parquet'", "paths as .csv"),
    (f"features {OURS} five.tif -o o.npz", "5 bands", "'five.tif'", "save three of them as RGB"),
    (f"features {OURS} images -o list.txt", "extension", "'.txt'", ".safetensors, .npz, .csv"),
    (
        f"features {OURS} images -o o.csv --outputs tokens",
        "one vector an image",
        "outputs are tokens",
        "save them as .safetensors",
    ),
    (f"{FEATURES} --outputs stage:9", "no stage", "9", "0 to 4"),
    (f"{FEATURES} --outputs poled", "Unknown output", "'poled'", "Did you mean 'pooled'"),
    (f"{FEATURES} --dtype int8", "Unknown dtype", "'int8'", "float16, float32"),
    (f"{FEATURES} --precision fp64", "Unknown precision", "'fp64'", "auto, bf16, fp32"),
    (f"{FEATURES} --decode slow", "Unknown decode", "'slow'", "exact, fast"),
    (
        f"features {OURS} absent -o o.npz --device gpu7",
        "cannot be used",
        "'gpu7'",
        "this machine has: cpu",
    ),
    (f"{FEATURES} --batch-size 0", "at least", "batch_size=0", "1 and 0"),
    (f"{FEATURES} --batch-size many", "is not a whole number", "'many'", "features --help"),
    (f"{FEATURES} --batchsize 8", "unrecognized", "--batchsize", "Did you mean --batch-size"),
    (f"{FEATURES} --value-range 9 1", "finite numbers", "[9.0, 1.0]", "LOW < HIGH"),
    (f"{FEATURES} --max-pixels 0", "number of pixels", "got 0", "at least 1"),
    (f"{FEATURES} --part 1/2", "need a folder", "o.npz", "-o o.npz/"),
    (f"{FEATURES} --part-images 0", "need a folder", "o.npz", "-o o.npz/"),
    (f"{FEATURES} --kind parquet", "need a folder", "o.npz", "-o o.npz/"),
    (f"features {OURS} images -o o/ --part 3/2", "expected I/N", "3/2", "such as 1/8"),
    (f"features {OURS} images -o o/ --kind csv", "Unknown kind", "'csv'", "parquet, safetensors"),
    (f"{FEATURES} --kind ''", "need a folder", "o.npz", "-o o.npz/"),
    (f"features {OURS} images -o o/ --kind ''", "Unknown kind", "''", "parquet, safetensors"),
    (f"{FEATURES} --whiten absent", "no whitening", "absent", "`cassle-zoo whiten` fits one"),
    (f"{FEATURES} --whiten broken.safetensors", "damaged", "broken.safe", "`cassle-zoo whiten`"),
    # whiten
    ("whiten absent.npz -o w.safetensors", "no file", "'absent.npz'", "`cassle-zoo features`"),
    ("whiten notes.txt -o w.safetensors", "extension", "'.txt'", ".safetensors, .npz"),
    ("whiten broken.safetensors -o w.safetensors", "damaged", "broken.safe", "Write it again"),
    ("whiten few.npz -o w.txt", "whitening is saved", "w.txt", ".safetensors"),
    ("whiten few.npz -o w.safetensors", "expected", "128 components", "1 to 8"),
    # demo, explore
    ("demo absent", "Cannot open", "'absent'", "give the path"),
    ("demo images -o notes.txt", "nothing can be written", "'notes.txt'", "choose another with -o"),
    ("demo images --model '' -o o", "no model folder", "''", "local-dir:DIR"),
    (f"demo images --models {OURS} {OURS}", "two models are", OURS, "give different ones"),
    ("explore images", "nothing to do", "page", "pass -o FILE.html, --serve"),
    ("explore images -o absent/x.html", "existing folder", "absent/x.html", "pass -o FILE.html"),
    ("explore images -o .", "no file", ".", "pass -o FILE.html"),
    ("explore images -o /dev/fd/x.html", "nothing can be written", "'/dev/fd'", "another with -o"),
    (f"explore images -o x.html --models {OURS} {OURS}", "two models are", OURS, "give different"),
    ("explore images -o x.html --layout tsne", "Unknown layout", "'tsne'", "grid, pca, umap"),
    ("explore images -o x.html --neighbours 0", "neighbours", "=0", "expected at least 1"),
    ("explore images -o x.html --port 8000", "of --serve", "8000", "or leave it out"),
    ("explore images --serve --port 70000", "cannot be used", "70000", "Pass another one"),
    ("explore absent -o x.html --device gpu7", "cannot be", "'gpu7'", "this machine has: cpu"),
    ("explore absent -o x.html", "Cannot open", "'absent'", "give the path"),
    # train
    ("train", "name a recipe", "first", "cassle-zoo train --help"),
    ("train --out run", "name a recipe", "first", "cassle-zoo train --help"),
    ("train resnet18_casle_simclr", "no recipe", "'resnet18_casle_simclr'", f"mean '{OURS}'"),
    ("train resnet18_cassle_simcrl", "no recipe", "'resnet18_cassle_simcrl'", f"mean '{OURS}'"),
    ("train reznet18_cassle_simclr", "no recipe", "'reznet18_cassle_simclr'", f"mean '{OURS}'"),
    (f"train {OURS}.emoji46", "Unknown recipe", "emoji46", f"Did you mean '{OURS}.emoji64'"),
    (f"train {OURS} --data images", "pass --out", "DIR", "the folder for the run's files"),
    (f"train {OURS} --out run", "no data", "given", "pass --data PATH"),
    (f"train {OURS} --data absent --out run", "cannot open", "'absent'", "check the path"),
    (f"train {OURS} --data empty --out run", "no images", "'empty'", "Give one that holds some"),
    (f"train {OURS} --data broken.tar --out run", "cannot open", "'broken.tar'", "Pass a folder"),
    (TRAIN, "fewer than one batch", "6 images", "--optim.batch-size 6 or less"),
    (f"{TRAIN} --optim.epochs 0", "optim.epochs", "got 0", "at least 1"),
    (f"{TRAIN} --optim.epochs many", "invalid", "'many'", "--optim.epochs INT"),
    (f"{TRAIN} --optim.epoch 3", "Unrecognized", "--optim.epoch", "Perhaps you meant"),
    (f"{TRAIN} --run.precision fp64", "Unknown", "'fp64'", "Did you mean 'fp16'"),
    (f"{TRAIN} --run.device gpu", "cannot be used", "'gpu'", "this machine has: cpu"),
    (f"{TRAIN} --run.device hpu", "cannot be used", "'hpu'", "this machine has: cpu"),
    (f"{TRAIN} --data.dataset emoji46", "Unknown", "'emoji46'", "Did you mean 'emoji64'"),
    (f"{TRAIN} --init nothere.pth", "no such file", "'nothere.pth'", "check the path"),
    (f"{TRAIN} --init ~no-such-user/w.pth", "no such home", "~no-such-user", "path in full"),
    (f"{TRAIN} --init broken.pth", "was not written by torch.save", "broken.pth", "torch.save("),
    (f"{TRAIN} --init odd.pth", "no dictionary of tensors", "odd.pth", "Save the weights alone"),
    (f"{TRAIN} --init resnet18.a1_in2k", "Unknown", "a1_in2k", "Did you mean 'resnet18.a1_in1k'"),
    (f"{TRAIN} --init resnet18.a1_in1k", "cannot be reached", "resnet18.a1_in1k", "HF_HOME"),
    (f"{TRAIN} --init images", "holds neither", "images", "name the folder"),
    (f"train {OURS}.adapt --data images --out run", "starting weights", ".adapt", "with --init"),
    (f"{TRAIN} --tag a/b", "letters, digits", "a/b'", "--out is"),
    # eval
    ("eval kn", "Unknown evaluation", "'kn'", "Did you mean 'knn'"),
    (f"eval knn {OURS}", "Missing", "--data PATH", "cassle-zoo eval knn --help"),
    (f"eval knn {OURS} --data absent", "no such file", "absent", "build it with"),
    (f"eval knn {OURS} --data classes", "no metadata.csv", "classes", "--dataset folder"),
    (f"eval knn {OURS} --data images --dataset foldr", "Unknown", "'foldr'", "mean 'folder'"),
    (f"eval knn {OURS} --data empty --dataset folder", "no images", "empty", "expected folders of"),
    (f"eval knn {OURS} --data images --dataset folder", "no labels", "images", "view-retrieval"),
    (EVAL.replace(OURS, "resnet18_casle_simclr"), "Unknown", "casle", f"Did you mean '{OURS}'"),
    (EVAL.replace(OURS, "random-init:resnet81"), "Unknown", "'resnet81'", "mean 'resnet18'"),
    (EVAL.replace(OURS, "features:absent.npz"), "no file", "absent.npz", "`cassle-zoo features`"),
    (f"{EVAL} --k 0", "k must be", "got 0", "at least 1"),
    (f"eval knn {OURS} --data absent --device gpu7", "be used", "'gpu7'", "machine has: cpu"),
    (f"{EVAL} --k x", "invalid", "'x'", "--k INT"),
    (f"{EVAL} --kk 3", "Unrecognized", "--kk", "Perhaps you meant"),
    (
        EVAL.replace(OURS, f"{OURS} raw-pixels") + " -o x.json",
        "one file",
        "x.json",
        "give a folder",
    ),
    (f"{EVAL} -o notes.txt", "nothing can be written", "'notes.txt'", "choose another with -o"),
    (
        EVAL.replace("knn", "view-retrieval") + " --augmentations nothing",
        "Unknown augmentation",
        "'nothing'",
        "Available: blur",
    ),
    (
        EVAL.replace("knn", "view-retrieval") + " --images 0",
        "images must be",
        "got 0",
        "at least 2",
    ),
    ("eval view-retrieval x --data absent --dataset folder", "Unknown", "'x'", "cassle-zoo list"),
    (EVAL.replace(OURS, "raw-pixels") + " --size 32", "no effect", "raw-pixels", "leave it out"),
    (EVAL.replace("knn", "detection") + " --size 32", "no effect", "--size 32", "--max-size"),
    ("eval report", "name the results", "RESULTS", "cassle-zoo eval report RESULTS"),
    ("eval report absent", "no such file", "absent", "records some"),
    ("eval report notes.txt", "no recorded results", "notes.txt", "eval TASK MODEL..."),
    # hub
    ("hub", "required", "ACTION", "cassle-zoo hub --help"),
    ("hub pusch", "invalid choice", "'pusch'", "choose from"),
    ("hub export images -o m", "not a finished run", "images", "cassle-zoo train"),
    ("hub export images -o m --dtype int8", "invalid choice", "'int8'", "choose from"),
    ("hub convert absent.pth -o m --name r", "not a file", "absent.pth", "give the path"),
    ("hub convert odd.pth -o m --name r", "no dictionary", "odd.pth", "Save the weights alone"),
    ("hub push images some/body", "lacks model.safetensors", "images", "hub export RUN -o DIR"),
    ("hub push absent some/body", "not a folder", "absent", "`cassle-zoo hub export"),
    ("hub push images body", "no owner", "'body'", "write ORG/NAME"),
    ("hub pull resnet18_casle_simclr", "Unknown model", "casle", f"Did you mean '{OURS}'"),
    ("hub pull some/body", "cannot be reached", "some/body", "HF_ENDPOINT"),
    ("hub publish", "required", "--org", "cassle-zoo hub publish --help"),
    ("hub publish --org a/b", "cannot be the name", "a/b", "write ORG/NAME"),
    (f"hub export-detectron2 {OURS} -o x.pth", "another network", "weights", "takes a ResNet-50"),
    ("hub card images --results notes.json", "not a model folder", "images", "hub export RUN"),
    # reproduce
    ("reproduce nothing --data images -o run", "Unknown name", "'nothing'", "reproduce --list"),
    (f"{REPRODUCE} --init w.pth".replace(OURS, "raw-pixels"), "not trained", "w.pth", "leave it"),
    (REPRODUCE, "no metadata.csv", "images", "build it with"),
    ("reproduce raw-pixels --data images -o notes.txt", "be written", "'notes.txt'", "with -o"),
    (f"{REPRODUCE} --tolerance -1", "--tolerance must be", "got -1.0", "at least 0"),
    (f"{REPRODUCE} --device gpu7", "cannot be used", "'gpu7'", "this machine has: cpu"),
    (f"{REPRODUCE} --threads 0", "--threads must be", "got 0", "at least 1"),
]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, and what is none of what the commands want."""
    folder = tmp_path_factory.mktemp("errors")
    image_folder(folder / "images", [f"{i}.png" for i in range(6)])
    image_folder(folder / "classes", [f"{kind}/{i}.png" for kind in "ab" for i in range(4)])
    (folder / "empty").mkdir()
    (folder / "text").mkdir()
    for name in ("text/notes.png", "notes.txt", "broken.pth", "broken.tar"):
        (folder / name).write_text("no image\n")
    (folder / "notes.json").write_text("{}")
    (folder / "broken.safetensors").write_bytes(b"x" * 40)
    torch.save({"model": [1, 2]}, folder / "odd.pth")
    np.save(folder / "x.npy", np.zeros((2, 3, 8, 8), np.int64))
    (folder / "x.parquet").write_bytes(b"PAR1")
    tifffile = pytest.importorskip("tifffile")
    bands = np.arange(16 * 16 * 5, dtype=np.uint16).reshape(16, 16, 5)
    tifffile.imwrite(folder / "five.tif", bands, photometric="minisblack", planarconfig="contig")
    few = FeatureSet(torch.randn(6, 8), [f"{i}.png" for i in range(6)])
    save_features(few, folder / "few.npz")
    return folder


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No name of a machine is known."""

    def unknown(*_: Any, **__: Any) -> None:
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("line", "what", "value", "fix"), ERRORS, ids=[line for line, *_ in ERRORS]
)
def test_error(
    line: str,
    what: str,
    value: str,
    fix: str,
    places: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(places)
    before = set(places.iterdir())
    try:
        status: object = main(shlex.split(line))
    except SystemExit as stop:  # of tyro
        status = stop.code
    out, err = capsys.readouterr()
    assert status == 2
    assert not out
    assert "Traceback" not in err
    message = _one_message(err)
    for part in (what, value, fix):
        assert part in message
    if line.startswith(("features", "explore")) and "-o o/" not in line:
        assert set(places.iterdir()) == before


def _one_message(err: str) -> str:
    """Return a message in one line: ours, or tyro's in a box."""
    if err.startswith("cassle-zoo: "):
        assert err.count("\n") == 1
        return err
    assert err.count("For full helptext") == 1
    return " ".join(re.sub("[│╭╮╰╯─]", " ", err).split())


def test_every_command_is_in_the_table() -> None:
    lines = [line for line, *_ in ERRORS]
    assert len(lines) == len(set(lines)) >= 60
    for command in (
        *("info", "features", "whiten", "demo", "explore", "train", "eval", "reproduce", "upgrade"),
        *("list", "env", "completion", "eval view-retrieval", "eval report"),
        *(f"hub {action}" for action in ("export", "convert", "push", "pull", "publish", "card")),
    ):
        assert any(line.startswith(command) for line in lines), command
