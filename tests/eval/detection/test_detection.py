import pytest
import timm
import torch
from torch import nn

from cassle_zoo.common.errors import ConfigError, DataError, NonFiniteLossError
from cassle_zoo.eval.base import Compute
from cassle_zoo.eval.datasets import open_data
from cassle_zoo.eval.detection import DetectorSettings, build_detector, learning_rate
from cassle_zoo.eval.detection_data import DetectionImages
from cassle_zoo.eval.protocols.detection import Detection
from cassle_zoo.eval.runner import evaluate
from cassle_zoo.eval.sources import open_source

TINY = {"train_batch": 2, "lr": 0.05, "warmup": 4, "sizes": (64,), "max_size": 64, "rois": 16}


def run(root, model="random-init:test_resnet", *, compute=None, **settings):
    compute = compute or Compute(progress=False)
    settings = Detection(**{**TINY, **settings})
    return evaluate("detection", settings, model, open_data("voc07+12", root), compute)[0]


def test_it_trains_and_is_measured(voc_root):
    source = open_source("random-init:test_resnet")
    before = {key: value.clone() for key, value in source.model.state_dict().items()}
    result = run(voc_root, source, iterations=24)
    losses = result.series["objects: loss"]
    assert len(losses) == 24
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])
    assert set(result.metrics) == {"objects", "objects by class"}
    assert set(result.metrics["objects"]) == {"mAP50", "mAP75", "mAP"}
    by_class = result.metrics["objects by class"]
    assert set(by_class) == {"cat AP50", "dog AP50"}
    mean = sum(by_class.values()) / 2
    assert result.metrics["objects"]["mAP50"] == pytest.approx(mean, abs=2e-6)  # rounded
    assert mean > 0.05
    assert all(torch.equal(before[key], value) for key, value in source.model.state_dict().items())
    assert "iterations: 24" in result.protocol["detector"]


def test_same_numbers_for_other_workers(voc_root):
    expected = run(voc_root, iterations=2, sizes=(48, 64))
    compute = Compute(progress=False, workers=1, batch_size=3)
    again = run(voc_root, iterations=2, sizes=(48, 64), compute=compute)
    assert again.series == expected.series
    assert again.metrics == expected.metrics


def test_the_whole_backbone_is_in_the_detector():
    model = timm.create_model("resnet18", num_classes=0)
    detector = build_detector(model, 20, DetectorSettings(**TINY, iterations=1))
    state = detector.state_dict()
    for ours, theirs in {
        "conv1.weight": "backbone.conv1.weight",
        "layer3.1.bn2.running_var": "backbone.layer3.1.bn2.running_var",
        "layer4.1.conv2.weight": "roi_heads.box_head.0.1.conv2.weight",
    }.items():
        assert torch.equal(state[theirs], model.state_dict()[ours])
    shared = [name for name in state if "rpn" not in name and "predictor" not in name]
    assert len(shared) == len(model.state_dict()) + 5  # the additional BatchNorm
    assert state["roi_heads.box_predictor.cls_score.weight"].shape == (21, 512)
    assert tuple(detector.transform.image_mean) == model.pretrained_cfg["mean"]


def test_learning_rate_of_the_usual_protocol():
    settings = DetectorSettings()
    steps = {0: 0.001, 50: 0.5005, 100: 1, 17999: 1, 18000: 0.1, 21999: 0.1, 22000: 0.01}
    for step, share in steps.items():
        assert learning_rate(step, settings) == pytest.approx(share)


def test_flipping_moves_the_boxes(voc_root):
    data = open_data("voc07+12", voc_root)
    targets = data.tasks[0].targets
    plain, objects = DetectionImages(data.images, targets, None)[0, 0]
    assert objects["labels"].tolist() == [12, 8]  # 0 is the background
    assert objects["boxes"].tolist() == [[3, 5, 27, 29], [39, 35, 59, 55]]
    dataset = DetectionImages(data.images, targets, 0)
    seen = [dataset[epoch, 0] for epoch in range(8)]
    flipped = [pair for pair in seen if not torch.equal(pair[0], plain)]
    assert 0 < len(flipped) < 8
    assert torch.equal(flipped[0][0], plain.flip(2))
    assert flipped[0][1]["boxes"].tolist() == [[37, 5, 61, 29], [5, 35, 25, 55]]
    assert torch.equal(dataset[3, 0][0], seen[3][0])


def test_other_networks_and_data_are_refused(voc_root, emoji_tar):
    for model in ("random-init:test_vit", nn.Conv2d(3, 4, 1)):
        with pytest.raises(ConfigError, match="around a ResNet of timm"):
            run(voc_root, model, iterations=1)
    data = open_data("emoji64", emoji_tar)
    with pytest.raises(DataError, match="no task of the kind detection"):
        evaluate("detection", Detection(), "random-init:test_resnet", data, Compute())


def test_diverging_and_broken_images(voc_root):
    with pytest.raises(NonFiniteLossError, match=r"at step \d"):
        run(voc_root, iterations=5, lr=1e20, warmup=0)
    for name in ("000000", "000001", "000002", "000003", "000004", "000005"):
        path = voc_root / "VOCdevkit" / "VOC2007" / "JPEGImages" / f"{name}.jpg"
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"image \d cannot be read"):
        run(voc_root, iterations=6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"iterations": 0}, "iterations"), ({"sizes": ()}, "sizes"), ({"lr": 0.0}, "lr")],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        DetectorSettings(**settings)
