import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import image_folder, make_image
from small_models import make_model
from torch import nn
from torch.utils.data import DataLoader

from cassle_zoo.augmentation.descriptors import DescriptorLayout
from cassle_zoo.common.errors import ConfigError, DataError, UnknownNameError
from cassle_zoo.features.extract import Extractor, extract_features
from cassle_zoo.features.inference import placed
from cassle_zoo.features.inputs import expand_inputs
from cassle_zoo.features.outputs import unaugmented_omega
from cassle_zoo.projector import ConditionedProjector, ProjectorConfig
from cassle_zoo.zoo.create import create_model, create_projector

EMOJI = "resnet18_cassle_simclr.emoji64"
IMAGES = [make_image(index) for index in range(7)]


SMALL: dict[str, dict[str, Any]] = {
    "test_vit": {"img_size": 32},
    "swin_tiny_patch4_window7_224": {
        "img_size": 32, "window_size": 2, "embed_dim": 12, "depths": (1, 1, 1),
        "num_heads": (1, 2, 4),
    },
}  # fmt: skip


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", *SMALL])
@pytest.mark.parametrize("num_classes", [0, 10])
def test_outputs_are_timms(name: str, num_classes: int) -> None:
    model: Any = make_model(name, num_classes=num_classes, **SMALL.get(name, {})).eval()
    names = ("stage:1", "pooled", "tokens", "stage:-1:map", "stage:1:map")
    extractor = Extractor(model, outputs=names)
    found = extractor(IMAGES)
    assert tuple(found) == names
    ready = torch.stack([extractor.transform(image) for image in IMAGES])  # type: ignore[operator]
    last = len(model.feature_info) - 1
    with torch.no_grad():
        hidden, (first, end) = model.forward_intermediates(
            ready, indices=[1, last], output_fmt="NCHW"
        )
        pooled = model.forward_head(hidden, pre_logits=True)
    tokens = hidden[:, model.num_prefix_tokens :] if name == "test_vit" else hidden
    if name.startswith("swin"):  # whose maps have their channels last
        tokens = hidden.permute(0, 3, 1, 2)
    expected = {
        "stage:1": first.mean(dim=(2, 3)),
        "pooled": pooled,
        "tokens": tokens,
        "stage:-1:map": end,
        "stage:1:map": first,
    }
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, atol=1e-4, rtol=1e-4)


def test_projection_is_that_of_the_unaugmented_image() -> None:
    found = extract_features(EMOJI, IMAGES, outputs=("projected", "pooled"))
    projector = create_projector(EMOJI, pretrained=True).eval()
    # blur, color, color_diff, then the crop: centre y and x, height, width
    omega = torch.tensor([0.0] * 8 + [0.5, 0.5, 1.0, 1.0] + [0.0])
    assert torch.equal(unaugmented_omega(projector)[0], omega)
    with torch.no_grad():
        expected = projector(found.features, omega.expand(7, -1))
    torch.testing.assert_close(found.outputs["projected"], expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(found.features, found.outputs["pooled"])


def test_projector_of_a_module(model: nn.Module) -> None:
    with pytest.raises(ConfigError, match="projector="):
        Extractor(model, outputs=["projected"])
    config = ProjectorConfig(in_features=96, conditioning="none", descriptors=())
    projector = ConditionedProjector(config).train()
    found = Extractor(model, outputs=["projected"], projector=projector)(IMAGES)["projected"]
    assert projector.training
    assert found.shape == (7, 128)
    flips = ConditionedProjector(ProjectorConfig(in_features=96, descriptors=("flip",)))
    assert DescriptorLayout(("flip",)) == flips.layout
    assert not unaugmented_omega(flips).any()


def test_float16(model: nn.Module) -> None:
    exact = extract_features(model, IMAGES).features
    for dtype in ("float16", torch.float16):
        half = extract_features(model, IMAGES, dtype=dtype).features
        assert torch.equal(half, exact.half())


def test_features_beyond_float16() -> None:
    linear = torch.nn.Linear(3 * 8 * 8, 2)
    torch.nn.init.constant_(linear.weight, 1e5)
    model = torch.nn.Sequential(torch.nn.Flatten(), linear)
    images = torch.ones(2, 3, 8, 8)
    assert extract_features(model, images, transform="as_is").features.isfinite().all()
    with pytest.raises(ConfigError, match=r"'pooled' has values of up to 1.92e\+07.*float32"):
        extract_features(model, images, transform="as_is", dtype="float16")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"outputs": ()}, "one or more"),
        ({"outputs": ("pooled", "pooled")}, "different"),
        ({"outputs": ("pool",)}, "Did you mean 'pooled'"),
        ({"outputs": ("stage:9",)}, "no stage 9; its stages are 0 to 4"),
        ({"outputs": ("stage:-6",)}, "no stage -6"),
        ({"dtype": "float64"}, "float64"),
        ({"precision": "fp8"}, "fp8"),
        ({"precision": 16}, "Unknown precision 16"),
        ({"decode": False}, "Unknown decode False"),
        ({"whiten": True}, "whiten is True"),
        ({"transform": "asis"}, "Did you mean 'as_is'"),
        ({"value_range": (5, 5)}, "LOW < HIGH"),
        ({"value_range": (1, 2, 3)}, r"got \(1, 2, 3\)"),
        ({"value_range": 255}, "got 255"),
        ({"value_range": (0, float("nan"))}, "finite"),
    ],
)
def test_wrong_settings(model: nn.Module, options: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, UnknownNameError), match=message):
        Extractor(model, **options)


def test_one_name_is_one_output(model: nn.Module) -> None:
    assert Extractor(model, outputs="tokens").outputs == ("tokens",)


def test_batch_size_of_numpy(model: nn.Module) -> None:
    assert len(extract_features(model, IMAGES, batch_size=np.int64(3))) == len(IMAGES)  # type: ignore[arg-type]


def test_all_forms_of_a_batch_agree(model: nn.Module) -> None:
    extractor = Extractor(model)
    arrays = np.stack([np.asarray(image) for image in IMAGES])
    expected = extractor(IMAGES)["pooled"]
    for batch in (arrays, list(arrays), torch.from_numpy(arrays).permute(0, 3, 1, 2)):
        assert torch.equal(extractor(batch)["pooled"], expected)
    columns = extractor({"image": arrays, "id": list(range(7))})
    assert columns.keys() == {"id", "pooled"}
    assert isinstance(columns["pooled"], np.ndarray)
    assert np.array_equal(columns["pooled"], expected.numpy())
    with pytest.raises(ConfigError, match="no column 'image', only img"):
        extractor({"img": arrays})
    other = Extractor(model, column="img")({"img": arrays})["pooled"]
    assert np.array_equal(other, expected.numpy())


def test_a_call_leaves_out_nothing(model: nn.Module) -> None:
    with pytest.raises(DataError, match=r"of the batch cannot be read: 'input\[1\]'"):
        Extractor(model)([IMAGES[0], b"broken", IMAGES[1]])
    with pytest.raises(DataError, match=r"No images were given.*Give images"):
        Extractor(model)([])


def test_pickled_with_the_model_and_settings(model: nn.Module) -> None:
    extractor = Extractor(model, outputs=("tokens", "pooled"), dtype="float16")
    expected = extractor(IMAGES)
    found = pickle.loads(pickle.dumps(extractor))(IMAGES)
    assert all(torch.equal(found[name], expected[name]) for name in extractor.outputs)


def test_ready_batches_of_a_dataloader(model: nn.Module, tmp_path: Path) -> None:
    extractor = Extractor(model)
    assert callable(extractor.transform)
    ready = [extractor.transform(image) for image in IMAGES]
    loader: DataLoader[Any] = DataLoader(ready, batch_size=3)  # type: ignore[arg-type]
    found = torch.cat([extractor.compute(batch)["pooled"] for batch in loader])
    expected = extract_features(model, IMAGES).features
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("workers", [0, 2])
def test_stream_of_a_part(model: nn.Module, tmp_path: Path, workers: int) -> None:
    root = image_folder(tmp_path, [f"{index}.png" for index in range(9)])
    (root / "4.png").write_bytes(b"broken")
    inputs, _ = expand_inputs(root)
    batches = list(
        Extractor(model).stream(inputs, batch_size=3, workers=workers, indices=range(2, 9))
    )
    assert [batch.indices for batch in batches] == [[2, 3], [5, 6, 7], [8]]
    assert [batch.size for batch in batches] == [3, 3, 1]
    assert [skip.source for skip in batches[0].skipped] == [str(root / "4.png")]
    assert batches[1].sources == [str(root / f"{index}.png") for index in (5, 6, 7)]
    found = torch.cat([batch.outputs["pooled"] for batch in batches])
    expected = extract_features(model, root).features[2:]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_a_stream_of_what_was_listed(model: nn.Module, tmp_path: Path) -> None:
    [batch] = Extractor(model).stream(expand_inputs([IMAGES[0], tmp_path]))
    assert batch.sources == ["input[0]"]
    assert [skip.source for skip in batch.skipped] == [str(tmp_path)]


def test_a_stream_of_nothing_but_broken_images(model: nn.Module) -> None:
    [batch] = Extractor(model).stream([b"broken", b"too"])
    assert (batch.indices, batch.outputs, batch.size, len(batch.skipped)) == ([], {}, 2, 2)


def test_a_stream_leaves_the_caller_alone() -> None:
    model = make_model().train()
    for _ in Extractor(model).stream(IMAGES, batch_size=2):
        assert model.training
        assert torch.is_grad_enabled()
        model(torch.rand(2, 3, 32, 32)).sum().backward()


def test_a_model_that_does_not_fit_onto_a_device_stays_where_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = nn.Linear(2, 3)
    move = model.to
    asked: list[str] = []

    def to(device: torch.device) -> nn.Module:
        asked.append(device.type)
        if device.type == "meta":  # in place of a GPU that is full
            raise torch.OutOfMemoryError("CUDA out of memory")
        return move(device)

    monkeypatch.setattr(model, "to", to)
    with pytest.raises(torch.OutOfMemoryError), placed(model, torch.device("meta")):
        pass
    assert asked == ["meta", "cpu"]
    with placed(model, torch.device("cpu")):
        assert model(torch.zeros(1, 2)).shape == (1, 3)


def test_threads_may_share_a_model() -> None:
    model: Any = make_model().train()
    model.layer1.eval()
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    expected = extract_features(model, IMAGES).features
    found: list[float] = []

    def extract(number: int) -> None:
        wrapped = nn.DataParallel(model) if number % 2 else model
        for size in (1, 2, 3):
            own = extract_features(wrapped, IMAGES, batch_size=size, transform=transform).features
            found.append(float((own - expected).abs().max()))

    transform = Extractor(model).transform
    threads = [threading.Thread(target=extract, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 12
    assert max(found) < 1e-5
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_errors_restore_the_mode_while_another_extraction_goes_on() -> None:
    model = make_model().train()
    stream = Extractor(model).stream(IMAGES, batch_size=2)
    next(stream)
    with pytest.raises(DataError):
        Extractor(model)([b"broken"])
    assert model.training
    assert sum(batch.size for batch in stream) == 5
    assert model.training


def test_named_models_are_loaded_once() -> None:
    found = Extractor(EMOJI)(IMAGES)["pooled"]
    expected = extract_features(create_model(EMOJI, pretrained=True), IMAGES).features
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_models_of_timm_have_no_projector() -> None:
    with pytest.raises(ConfigError, match="'resnet18' is a model of timm, which has none"):
        Extractor("resnet18", outputs=("projected",))
