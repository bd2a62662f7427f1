"""More than two views, local crops, and settings of single views: from the settings to the loss."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from builders import image_folder, write_tar
from changes import change

from cassle_zoo.augmentation.augment import AugmentConfig, apply_params, params_from_uniforms
from cassle_zoo.augmentation.descriptors import ALL_DESCRIPTORS, DescriptorLayout
from cassle_zoo.augmentation.further import Solarize
from cassle_zoo.common.errors import ConfigError, UnknownNameError
from cassle_zoo.hub.export import export_run
from cassle_zoo.train import loop
from cassle_zoo.train.backbone import build_backbone
from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.data.datasets import open_dataset
from cassle_zoo.train.data.loading import batches
from cassle_zoo.train.data.streams import Sample
from cassle_zoo.train.data.view_config import LocalViews, SecondView, ViewsConfig
from cassle_zoo.train.data.views import make_views
from cassle_zoo.train.dry_run import dry_run
from cassle_zoo.train.main import parse
from cassle_zoo.train.methods import METHODS, Views
from cassle_zoo.train.methods.augself import AugSelf, AugSelfConfig
from cassle_zoo.train.methods.losses import nt_xent
from cassle_zoo.train.trainer import Trainer

CPU = torch.device("cpu")
MULTI_CROP = ViewsConfig(count=3, local=LocalViews(count=2, size=16))
OMEGA = DescriptorLayout(("color", "crop"))


def read(config: TrainConfig, first: int = 0, last: int = 2) -> list[Sample]:
    return list(batches(config, open_dataset(config.data), first, last))


def made(config: TrainConfig, batch: Sample, layout: DescriptorLayout = OMEGA) -> Views:
    return make_views(batch, config.augment, layout, CPU, views=config.views)


def test_the_first_two_views_do_not_depend_on_the_others(config: TrainConfig) -> None:
    more = dataclasses.replace(config, views=MULTI_CROP)
    for few, many in zip(read(config), read(more), strict=True):
        assert "local_crops" not in few
        assert many["crops"].shape == (4, 3, 3, 32, 32)
        assert many["local_crops"].shape == (4, 2, 3, 16, 16)
        assert torch.equal(few["crops"], many["crops"][:, :2])
        assert torch.equal(few["uniforms"], many["uniforms"][:, :2])
        pair, views = made(config, few), made(more, many)
        assert [len(x) for x in (pair.images, views.images)] == [2, 5]
        assert all(map(torch.equal, pair.images, views.images[:2]))
        assert all(map(torch.equal, pair.descriptors, views.descriptors[:2]))
        assert (pair.local, views.local) == (0, 2)
        assert len({omega.sum().item() for omega in views.descriptors}) == 5


def test_pairs_and_global_views() -> None:
    images = tuple(torch.full((1,), float(n)) for n in range(4))
    views = Views(images=images, descriptors=images, local=2)
    assert views.pairs == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3)]
    assert views.without_local().images == images[:2]
    assert views.without_local().pairs == [(0, 1)]


def test_local_crops_are_smaller_parts_of_the_image(config: TrainConfig) -> None:
    local = LocalViews(count=4, size=16, crop_scale=(0.1, 0.2))
    augment = dataclasses.replace(config.augment, crop_scale=(0.8, 1.0))
    config = dataclasses.replace(config, augment=augment, views=ViewsConfig(local=local))
    views = made(config, read(config)[0], DescriptorLayout(("crop",)))
    areas = [omega[:, 2] * omega[:, 3] for omega in views.descriptors]
    assert all((area > 0.7).all() for area in areas[:2])
    assert all((area < 0.25).all() for area in areas[2:])


def test_what_differs_in_the_second_view_and_what_does_not(config: TrainConfig) -> None:
    second = SecondView(blur_p=1.0, grayscale_p=1.0, flip_p=1.0, p_of=(("solarize", 1.0),))
    augment = dataclasses.replace(config.augment, blur_p=0.0, grayscale_p=0.0, flip_p=0.0)
    changed = dataclasses.replace(
        config, augment=augment, views=ViewsConfig(count=3, second=second)
    )
    batch = read(changed)[0]
    layout = DescriptorLayout(("blur", "flip", "grayscale", "solarize"))
    first, other, third = made(changed, batch, layout).descriptors
    assert not first.any()
    assert not third.any()
    assert (other[:, 0] > 0).all()
    assert (other[:, 1:] == 1).all()
    own = dataclasses.replace(
        augment, blur_p=1.0, grayscale_p=1.0, flip_p=1.0, extra=(Solarize(p=1.0),)
    )
    params = params_from_uniforms(own, batch["uniforms"][:, 1], batch["source"])
    expected, _ = apply_params(batch["crops"][:, 1], params, own)
    assert torch.equal(made(changed, batch).images[1], expected)


def test_one_number_of_omega_means_the_same_in_all_views(config: TrainConfig) -> None:
    """A brightness factor of 1.2 is 0.25 of the range 0.8 to 1.2 ... in whichever view it is."""
    weak = ViewsConfig(second=SecondView(brightness=0.2))
    augment = dataclasses.replace(config.augment, brightness=0.4, jitter_p=1.0)
    config = dataclasses.replace(config, augment=augment, views=weak)
    batch = read(config)[0]
    batch["uniforms"][:, 1] = batch["uniforms"][:, 0]
    first, second = made(config, batch, DescriptorLayout(("color",))).descriptors
    torch.testing.assert_close(second[:, 0], first[:, 0] / 2)
    assert torch.equal(second[:, 1:], first[:, 1:])


def test_the_settings_of_a_published_asymmetric_recipe() -> None:
    """BYOL's table 6, as docs/methods.md has it."""
    flags = (
        "--augment.brightness 0.4 --augment.contrast 0.4 --augment.saturation 0.2 "
        "--augment.hue 0.1 --augment.crop-scale 0.08 1 --augment.blur-p 1 "
        "--views.second.blur-p 0.1 --views.second.p-of solarize 0.2"
    )
    config = parse(["resnet18_cassle_byol.emoji64", *flags.split()]).config
    first, second = config.views.of_each(config.augment)
    assert (first.blur_p, second.blur_p) == (1.0, 0.1)
    assert [(one.name, one.p) for one in first.extra] == [("solarize", 0.0)]
    assert [(one.name, one.p) for one in second.extra] == [("solarize", 0.2)]
    assert dataclasses.replace(second, blur_p=1.0, extra=first.extra) == first
    stored = config.to_dict()["views"]["second"]
    assert stored["blur_p"] == 0.1
    assert stored["p_of"] == [["solarize", 0.2]]


def test_settings_of_an_augmentation_that_only_one_view_has() -> None:
    flags = "--augment.solarize.threshold 0.3 --views.second.p-of solarize 0.2"
    config = parse(["resnet18_simclr.emoji64", *flags.split()]).config
    first, second = config.views.of_each(config.augment)
    assert first.extra == (Solarize(threshold=0.3),)
    assert second.extra == (Solarize(p=0.2, threshold=0.3),)
    assert config.to_dict()["augment"]["solarize"] == {"p": 0.0, "threshold": 0.3}


def test_local_flags() -> None:
    flags = "--views.local.count 4 --views.local.size 16 --views.local.crop-scale 0.1 0.3"
    config = parse(["resnet18_simclr.emoji64", *flags.split()]).config
    local = config.views.of_each(config.augment)[2]
    assert (config.views.total, local.size, local.crop_scale) == (6, 16, (0.1, 0.3))
    assert local.kernel == AugmentConfig(size=16).kernel


@pytest.mark.parametrize(
    ("views", "message"),
    [
        ({"count": 1}, r"views\.count must be a whole number within \[2, 100\], got 1"),
        ({"second": {"blur_p": 1.5}}, r"views\.second\.blur_p must be .* \[0, 1\], got 1\.5"),
        ({"second": {"crop_scale": (0.5, 0.2)}}, r"views\.second\.crop_scale must be 0 < low"),
        ({"second": {"p_of": (("solarise", 0.1),)}}, "Did you mean 'solarize'"),
        ({"second": {"p_of": (("solarize", 2.0),)}}, r"views\.second\.p_of .*got 2\.0"),
        ({"second": {"p_of": (("solarize", 0.1),) * 2}}, "'solarize' twice"),
        ({"local": {"count": 2, "size": 0}}, r"views\.local\.size"),
        ({"local": {"count": 2, "size": 8, "blur_kernel": 17}}, r"views\.local\.blur_kernel"),
        ({"local": {"count": -1}}, r"views\.local\.count"),
    ],
)
def test_bad_settings(config: TrainConfig, views: dict[str, Any], message: str) -> None:
    kinds: dict[str, Any] = {"second": SecondView, "local": LocalViews}
    with pytest.raises((ConfigError, UnknownNameError), match=message):
        made_of = {k: kinds[k](**v) if k in kinds else v for k, v in views.items()}
        dataclasses.replace(config, views=ViewsConfig(**made_of))


def test_a_jitter_that_omega_cannot_describe(config: TrainConfig) -> None:
    augment = dataclasses.replace(config.augment, hue=0.0)
    with pytest.raises(ConfigError, match=r"views\.second\.hue is 0\.1, but augment\.hue"):
        dataclasses.replace(config, augment=augment, views=ViewsConfig(second=SecondView(hue=0.1)))


def test_local_crops_larger_than_the_others_are_refused(config: TrainConfig) -> None:
    """Such as the default of 96 beside views of 64 pixels."""
    size = config.augment.size
    fits = ViewsConfig(local=LocalViews(count=1, size=size))
    dataclasses.replace(config, views=fits)
    views = ViewsConfig(local=LocalViews(count=1, size=size + 1))
    with pytest.raises(ConfigError, match=rf"size {size + 1} is larger than augment.size {size};"):
        dataclasses.replace(config, views=views)


@pytest.mark.parametrize("name", METHODS)
def test_methods_take_more_views_or_say_that_they_do_not(config: TrainConfig, name: str) -> None:
    method = METHODS[name]()
    if method.multi_view:
        dataclasses.replace(config, method=method, views=MULTI_CROP)
        return
    for views in (MULTI_CROP, ViewsConfig(count=3), ViewsConfig(local=LocalViews(count=1))):
        with pytest.raises(ConfigError, match=f"method {name} compares two views.*simclr, dino"):
            dataclasses.replace(config, method=method, views=views)
    dataclasses.replace(config, method=method, views=ViewsConfig(second=SecondView(blur_p=0.1)))


def test_simclr_is_the_mean_over_pairs_of_views(config: TrainConfig) -> None:
    config = dataclasses.replace(config, views=MULTI_CROP)
    trainer = Trainer(config, 5)
    views = made(config, read(config)[0], trainer.method.projector.layout)
    loss, logs = trainer.method(views)
    twin = Trainer(config, 5).method  # BatchNorm's running statistics do not matter in training
    z = [
        F.normalize(twin.projector(twin.backbone(x), w), dim=1)
        for x, w in zip(views.images, views.descriptors, strict=True)
    ]
    globals_and_all = [(0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (1, 3), (1, 4), (2, 3), (2, 4)]
    parts = [nt_xent(z[a], z[b], 0.2) for a, b in globals_and_all]
    torch.testing.assert_close(loss, sum(part[0] for part in parts) / 9)
    torch.testing.assert_close(logs["positive_accuracy"], sum(part[1] for part in parts) / 9)


def test_augself_predicts_the_differences_of_the_same_pairs() -> None:
    torch.manual_seed(0)
    heads = AugSelf(AugSelfConfig(crop=0.5, flip=0.25), 6)
    features = [torch.randn(4, 6) for _ in range(3)]
    omegas = [torch.rand(4, ALL_DESCRIPTORS.width) for _ in range(3)]
    pairs = [(0, 1), (0, 2)]
    loss, logs = heads(features, omegas, pairs)
    each = [heads([features[a], features[b]], [omegas[a], omegas[b]]) for a, b in pairs]
    torch.testing.assert_close(loss, (each[0][0] + each[1][0]) / 2)
    for key, value in logs.items():
        torch.testing.assert_close(value, (each[0][1][key] + each[1][1][key]) / 2)
    assert not torch.allclose(loss, each[0][0])


@pytest.mark.parametrize("root", ["images", ""])
def test_dry_run(config: TrainConfig, root: str) -> None:
    data = dataclasses.replace(config.data, root=root and config.data.root, samples=22)
    config = dataclasses.replace(config, views=MULTI_CROP, data=data)
    assert dry_run(config).steps == 10


def test_a_stream_of_shards(config: TrainConfig, images: Path, tmp_path: Path) -> None:
    pytest.importorskip("webdataset")
    files = sorted(images.rglob("*.png"))
    write_tar(tmp_path / "train.tar", {f"{n:06d}.png": p.read_bytes() for n, p in enumerate(files)})
    split = {"name": "train", "num_samples": 22, "filenames": ["train.tar"], "shard_lengths": [22]}
    (tmp_path / "_info.json").write_text(json.dumps({"splits": {"train": split}}))
    config = change(config, "data", dataset="wds/images", root=str(tmp_path))
    more = dataclasses.replace(config, views=MULTI_CROP)
    for few, many in zip(read(config), read(more), strict=True):
        assert torch.equal(few["crops"], many["crops"][:, :2])
        assert many["local_crops"].shape == (4, 2, 3, 16, 16)


def test_workers_do_not_matter(config: TrainConfig) -> None:
    config = dataclasses.replace(config, views=MULTI_CROP)
    for one, other in zip(read(config), read(change(config, "data", workers=2)), strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["vit_small", "vit_tiny_patch16_224"])
def test_a_vit_takes_local_crops_and_is_exported_without_them(arch: str, tmp_path: Path) -> None:
    config = TrainConfig(
        name="auto",
        arch=arch,
        method=METHODS["dino"](hidden_features=8, out_features=8, prototypes=16),  # type: ignore[call-arg]
        augment=AugmentConfig(size=64),
        views=ViewsConfig(local=LocalViews(count=1, size=32)),
        data=dataclasses.replace(
            TrainConfig(name="any", arch="resnet18").data,
            root=str(image_folder(tmp_path / "images", [f"{n}.png" for n in range(4)])),
            workers=0,
        ),
        optim=dataclasses.replace(
            TrainConfig(name="any", arch="resnet18").optim, epochs=1, batch_size=4
        ),
        run=dataclasses.replace(
            TrainConfig(name="any", arch="resnet18").run, monitor_every=0, loggers=("csv",)
        ),
    )
    assert loop.train(config, tmp_path / "run").finished
    folder = export_run(tmp_path / "run", tmp_path / "model", dtype=torch.float32)
    stored = json.loads((folder / "config.json").read_text())
    assert "dynamic_img_size" not in json.dumps(stored)
    trained = Trainer(config, 1)
    trained.restore(tmp_path / "run")
    import cassle_zoo

    loaded = cassle_zoo.create_model(f"local-dir:{folder}", pretrained=True).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), trained.method.backbone.eval()(images))


def test_the_weights_do_not_depend_on_the_size_of_local_crops() -> None:
    torch.manual_seed(0)
    plain = build_backbone("vit_small", 64).state_dict()
    torch.manual_seed(0)
    model = build_backbone("vit_small", 64, local_size=32)
    multi = model.state_dict()
    assert model(torch.zeros(1, 3, 32, 32)).shape == model(torch.zeros(1, 3, 64, 64)).shape
    assert plain.keys() == multi.keys()
    assert all(torch.equal(value, multi[key]) for key, value in plain.items())


@pytest.mark.parametrize(
    ("arch", "size", "message"),
    [
        ("vit_small", 40, r"views\.local\.size 40 is not a multiple of the 16 px patches"),
        ("mixer_s16_224", 32, r"takes no local crops of views\.local\.size 32"),
    ],
)
def test_an_architecture_for_one_size(
    config: TrainConfig, arch: str, size: int, message: str
) -> None:
    views = ViewsConfig(local=LocalViews(count=1, size=size))
    augment = dataclasses.replace(config.augment, size=224)
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(config, arch=arch, augment=augment, views=views)
