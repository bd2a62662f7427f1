import json
import socket

import pytest
import timm
import torch
from PIL import Image
from timm.models import save_for_hf
from torch import nn

from cassle_zoo import Extractor, extract_to_folder
from cassle_zoo.common.errors import ConfigError, UnknownNameError, WeightsUnavailableError
from cassle_zoo.eval.sources import MeanPool, open_source
from cassle_zoo.features.transform import eval_transform
from cassle_zoo.specs import resolve_spec
from cassle_zoo.store.folder import bundled_folder
from cassle_zoo.store.tensors import state_sha256


def test_raw_pixels_by_hand():
    source = open_source("raw-pixels")
    assert source.cacheable
    image = Image.new("RGB", (64, 64), (255, 0, 51))
    image.putpixel((0, 0), (0, 255, 51))
    features = source.model(source.transform(image)[None])[0].reshape(3, 16, 16)
    assert features[0, 0, 0] == pytest.approx(15 / 16)
    assert features[1, 0, 0] == pytest.approx(1 / 16)
    assert features[:, 3, 7].tolist() == pytest.approx([1, 0, 0.2])
    assert (source.name, source.sha256) == ("raw-pixels", None)


def test_raw_pixels_of_other_sizes_are_the_central_square():
    source = open_source("raw-pixels")
    image = Image.new("L", (256, 128))
    image.paste(255, (64, 0, 192, 64))
    pooled = source.model(source.transform(image)[None])[0].reshape(3, 16, 16)
    # Resizing also looks a little beyond the square.
    torch.testing.assert_close(pooled[:, 0], torch.ones(3, 16), rtol=0, atol=0.02)
    assert not pooled[:, -1].any()


def test_raw_pixels_of_any_mode_are_rgb():
    source = open_source("raw-pixels")
    for mode in ("L", "RGBA", "CMYK", "I;16"):
        assert source.transform(Image.new(mode, (64, 64))).shape == (3, 64, 64)


def test_raw_pixels_need_a_multiple_of_16():
    with pytest.raises(ConfigError, match="63x64"):
        MeanPool()(torch.zeros(1, 3, 63, 64))


def test_random_init_depends_on_the_seed_only():
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first = open_source("random-init:resnet18", seed=0)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(6)
    assert open_source("random-init:resnet18", seed=0).sha256 == first.sha256
    assert open_source("random-init:resnet18", seed=1).sha256 != first.sha256
    assert eval_transform(first.model)(Image.new("RGB", (64, 64))).shape == (3, 64, 64)
    assert first.model(torch.zeros(2, 3, 64, 64)).shape == (2, 512)


def test_state_hash_sees_names_types_and_values():
    model = nn.Linear(2, 2)
    found = {state_sha256(model), state_sha256(nn.Sequential(model)), state_sha256(model.double())}
    assert len(found) == 3
    with torch.no_grad():
        model.weight[0, 0] += 1
    assert state_sha256(model) not in found
    state_sha256(nn.BatchNorm2d(3))  # has a 0-dimensional integer buffer


def test_modules_and_names():
    model = nn.Flatten()
    assert open_source(model).name == "Flatten"
    assert open_source(model, name="mine").name == "mine"
    assert not open_source(model).cacheable  # its name may be another module's
    with pytest.raises(ConfigError, match="size 96 is for models given by name"):
        open_source(model, size=96)
    with pytest.raises(ConfigError, match="size 96 is of networks, and has no effect"):
        open_source("raw-pixels", size=96)
    with pytest.raises(UnknownNameError, match="architecture 'resnet1'"):
        open_source("random-init:resnet1")
    with pytest.raises(UnknownNameError, match=r"mean 'resnet5.*timm.list_models.*raw-pixels") as e:
        open_source("timm:resnet5")
    assert len(str(e.value)) < 400
    with pytest.raises(UnknownNameError, match="features:FILE"):
        open_source("nothing_like_it")
    with pytest.raises(WeightsUnavailableError):
        open_source("resnet50_cassle_simclr.in100")


def test_network_is_told_apart_from_weights(tmp_path):
    assert open_source("random-init:resnet18").network.startswith("resnet18, structure ")
    assert open_source("resnet18_cassle_simclr").network == "resnet18"
    folder = bundled_folder(resolve_spec("resnet18_cassle_simclr"))
    (tmp_path / "model.safetensors").symlink_to(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["model_args"] = {"drop_rate": 0.5}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert open_source(f"local-dir:{tmp_path}").network == 'resnet18 {"drop_rate": 0.5}'


def timm_folder(folder, seed=0, **model_args):
    """Write a model folder as timm does."""
    torch.manual_seed(seed)
    model = timm.create_model("test_resnet", num_classes=0, **model_args)
    save_for_hf(model, folder, model_args=model_args, safe_serialization=True)
    return f"local-dir:{folder}"


def test_arguments_in_timms_folders_are_part_of_the_network(tmp_path):
    mean = open_source(timm_folder(tmp_path / "a" / "mine"))
    largest = open_source(timm_folder(tmp_path / "b" / "mine", global_pool="max"))
    assert (mean.name, mean.sha256) == (largest.name, largest.sha256)
    assert mean.network != largest.network
    assert open_source(f"local-dir:{tmp_path / 'a' / 'mine'}").network == mean.network
    modules = []
    for own in (1, 2):
        torch.manual_seed(0)
        modules.append(open_source(nn.Sequential(nn.Conv2d(3, 4, 3, stride=own))))
    assert modules[0].sha256 == modules[1].sha256
    assert modules[0].network != modules[1].network


def test_how_it_was_trained_is_all_but_the_run(tmp_path):
    folder = bundled_folder(resolve_spec("resnet18_cassle_simclr"))
    found = {}
    for name, path, value in (
        ("one", ("run", "seed"), 1),
        ("two", ("run", "seed"), 2),
        ("elsewhere", ("data", "root"), "other/emoji64.tar"),
        ("longer", ("optim", "epochs"), 500),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").symlink_to(folder / "model.safetensors")
        config = json.loads((folder / "config.json").read_text())
        config["cassle_zoo"]["training"]["config"][path[0]][path[1]] = value
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        found[name] = open_source(f"local-dir:{tmp_path / name}").trained
    assert found["one"] == found["two"] == found["elsewhere"] != found["longer"]
    # Snapshots of one run are no runs of one model; converted runs are, if only the seed differs.
    of_code = {"steps": 20, "source": "a run of cassle-zoo"}
    for name, seed, facts in (
        ("early", 1, {"steps": 10, "total_steps": 20}),
        ("later", 1, {"steps": 15, "total_steps": 20}),
        ("converted", 1, of_code),
        ("again", 2, of_code),
    ):
        config = json.loads((folder / "config.json").read_text())
        training = config["cassle_zoo"]["training"]
        training["config"]["run"]["seed"] = seed
        if facts is of_code:
            training["config"] = {"config.json": training["config"]}
        training.update(facts)
        (tmp_path / "one" / "config.json").write_text(json.dumps(config))
        found[name] = open_source(f"local-dir:{tmp_path / 'one'}").trained
    assert len({found[name] for name in ("one", "early", "later", "converted")}) == 4
    assert found["converted"] == found["again"]
    seeds = [open_source("random-init:test_resnet", seed=own) for own in (0, 1)]
    assert seeds[0].network == seeds[1].network
    assert seeds[0].trained == seeds[1].trained == "not trained"
    # Of folders of timm nothing is known.
    own = [open_source(timm_folder(tmp_path / f"timm{own}", seed=own)).trained for own in (0, 1)]
    assert own[0] != own[1]


def test_the_views_of_a_converted_run_are_known_as_of_an_exported_one(tmp_path):
    folder = bundled_folder(resolve_spec("resnet18_cassle_simclr"))
    (tmp_path / "model.safetensors").symlink_to(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    training = config["cassle_zoo"]["training"]
    settings = training["config"]
    for own in (settings, {"config.json": settings}):
        training["config"] = own
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert open_source(f"local-dir:{tmp_path}").augment == settings["augment"]


def test_a_folder_of_features_is_a_file_of_features(tmp_path):
    for index in range(3):
        Image.new("RGB", (32, 32), (80 * index, 0, 0)).save(tmp_path / f"{index}.png")
    hashes = []
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        torch.manual_seed(seed)
        extractor = Extractor(timm.create_model("test_resnet", num_classes=0))
        extract_to_folder(extractor, sorted(tmp_path.glob("*.png")), tmp_path / name)
        (tmp_path / name / ".DS_Store").write_text(name)
        source = open_source(f"features:{tmp_path / name}/")
        assert (source.name, len(source.features)) == (f"features:{name}", 3)
        hashes.append(source.sha256)
    assert hashes[0] == hashes[1] != hashes[2]


def test_projectors_come_with_their_models(tmp_path):
    projector = open_source("resnet18_cassle_simclr").projector()
    assert projector.layout.width == 13
    folder = bundled_folder(resolve_spec("resnet18_cassle_simclr"))
    for name in ("model.safetensors", "config.json"):
        (tmp_path / name).symlink_to(folder / name)
    assert open_source(f"local-dir:{tmp_path}").projector is None
    (tmp_path / "projector.safetensors").symlink_to(folder / "projector.safetensors")
    local = open_source(f"local-dir:{tmp_path}").projector()
    assert state_sha256(local) == state_sha256(projector)
    assert open_source("random-init:resnet18").projector is None


def test_weights_of_timm_that_cannot_be_loaded(monkeypatch):
    def unknown(*_):
        raise socket.gaierror("no network")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(
        WeightsUnavailableError, match=r"resnet10t.*random-init:resnet10t, which needs none"
    ):
        open_source("timm:resnet10t")
