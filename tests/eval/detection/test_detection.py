import pytest
import timm
import torch
from torch import nn

from cassle_zoo.common.errors import ConfigError, DataError, NonFiniteLossError
from cassle_zoo.eval.base import Compute
from cassle_zoo.eval.datasets import open_data
from cassle_zoo.eval.protocols.detection import (
    THRESHOLDS,
    Boxes,
    Detection,
    DetectionImages,
    average_precisions,
    build_detector,
    eleven_point,
    lr_fraction,
)
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
    detector = build_detector(model, 20, Detection(**TINY, iterations=1))
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
    settings = Detection()
    steps = {0: 0.001, 50: 0.5005, 100: 1, 17999: 1, 18000: 0.1, 21999: 0.1, 22000: 0.01}
    for step, fraction in steps.items():
        assert lr_fraction(step, settings) == pytest.approx(fraction)


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
    with pytest.raises(DataError, match=r"image VOC2007/00000\d\.jpg cannot be read"):
        run(voc_root, iterations=6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"iterations": 0}, "iterations"), ({"sizes": ()}, "sizes"), ({"lr": 0.0}, "lr")],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        Detection(**settings)


def objects(*rows):
    """Rows of left, top, right, bottom, label, difficult."""
    table = torch.tensor(rows, dtype=torch.float64).reshape(-1, 6)
    return Boxes(boxes=table[:, :4], labels=table[:, 4].long(), difficult=table[:, 5].bool())


def detections(*rows):
    """Rows of left, top, right, bottom, label, score."""
    table = torch.tensor(rows, dtype=torch.float64).reshape(-1, 6)
    return Boxes(boxes=table[:, :4], labels=table[:, 4].long(), scores=table[:, 5])


def test_eleven_points_of_a_small_case():
    # Precision 1 up to a recall of 1/3, then 2/3 up to 2/3: levels 0-0.3 and 0.4-0.6.
    recall = torch.tensor([1 / 3, 1 / 3, 2 / 3])
    precision = torch.tensor([1, 1 / 2, 2 / 3])
    assert eleven_point(recall, precision) == pytest.approx((4 * 1 + 3 * 2 / 3) / 11)
    assert eleven_point(torch.tensor([]), torch.tensor([])) == 0
    assert eleven_point(torch.tensor([1.0]), torch.tensor([1.0])) == 1


def test_thresholds():
    assert THRESHOLDS == (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


def test_a_small_case():
    truth = [
        objects((0, 0, 10, 10, 0, 0), (20, 0, 30, 10, 0, 0), (40, 0, 50, 10, 0, 1)),
        objects((0, 0, 10, 10, 0, 0), (0, 0, 10, 10, 1, 0)),
    ]
    found = [
        detections(
            (0, 0, 10, 8, 0, 0.9),  # right up to 0.8
            (0, 0, 10, 10, 0, 0.8),  # the same object again: wrong, except above 0.8
            (40, 0, 50, 10, 0, 0.7),  # difficult: does not count
            (40, 0, 50, 10, 0, 0.65),  # nor does it the second time
            (60, 0, 70, 10, 0, 0.6),  # nothing there
        ),
        detections((0, 0, 10, 10, 0, 0.5)),  # right
    ]
    ap = average_precisions(found, truth, 3)[:, [THRESHOLDS.index(t) for t in (0.5, 0.8, 0.9)]]
    # 0.5: right, wrong, wrong, right of 3 objects: precision 1 at 1/3, 1/2 at 2/3.
    assert ap[0, 0] == pytest.approx((4 * 1 + 3 * 1 / 2) / 11)
    # An overlap of exactly 0.8 is not above 0.8: wrong, right, wrong, right.
    assert ap[0, 1] == pytest.approx(7 * (1 / 2) / 11)
    assert ap[0, 2] == ap[0, 1]
    assert ap[1].tolist() == [0, 0, 0]  # never found
    assert ap[2].isnan().all()  # not there


def test_the_object_of_most_overlap_is_taken_even_if_it_is_taken_already():
    # As in the VOC code: the second detection is wrong, though the other object overlaps enough.
    truth = [objects((0, 0, 10, 10, 0, 0), (0, 2, 10, 12, 0, 0))]
    found = [detections((0, 0, 10, 10, 0, 0.9), (0, 0.5, 10, 10.5, 0, 0.8))]
    ap = average_precisions(found, truth, 1)
    assert ap[0, THRESHOLDS.index(0.5)].item() == pytest.approx(6 / 11)


def test_perfect_and_empty():
    boxes = torch.rand(4, 5, 2) * 50
    truth, found = [], []
    for part in boxes:
        corners = torch.cat([part, part + 10 + 40 * torch.rand(5, 2)], 1)
        labels = torch.arange(5) % 2
        truth.append(Boxes(boxes=corners, labels=labels, difficult=torch.zeros(5).bool()))
        found.append(Boxes(boxes=corners, labels=labels, scores=torch.rand(5)))
    assert (average_precisions(found, truth, 2) == 1).all()
    nothing = [detections()] * 4
    assert (average_precisions(nothing, truth, 2) == 0).all()
    order = [2, 0, 3, 1]
    moved = average_precisions([found[i] for i in order], [truth[i] for i in order], 2)
    assert torch.equal(moved, average_precisions(found, truth, 2))


def test_numbers_of_images_differ():
    with pytest.raises(DataError, match="in 1 images, but 2"):
        average_precisions([detections()], [objects(), objects()], 1)


def reference(found, truth, label, threshold):
    """The rules of the VOC development kit, written as a loop over detections."""
    rows = [
        (float(score), image, box.tolist())
        for image, part in enumerate(found)
        for box, own, score in zip(part.boxes, part.labels, part.scores, strict=True)
        if own == label
    ]
    taken, right, wrong = set(), 0, 0
    curve = []
    total = sum(int(((t.labels == label) & ~t.difficult).sum()) for t in truth)
    for _, image, box in sorted(rows, key=lambda row: -row[0]):
        best, which = -1.0, -1
        for index, other in enumerate(truth[image].boxes.tolist()):
            width = min(box[2], other[2]) - max(box[0], other[0])
            height = min(box[3], other[3]) - max(box[1], other[1])
            common = max(width, 0) * max(height, 0)
            areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)]
            if truth[image].labels[index] == label and common / (sum(areas) - common) > best:
                best, which = common / (sum(areas) - common), index
        if best > threshold and truth[image].difficult[which]:
            continue
        new = best > threshold and (image, which) not in taken
        right, wrong = right + new, wrong + (not new)
        taken |= {(image, which)} if new else set()
        curve.append((right / total, right / (right + wrong)))
    levels = [level / 10 for level in range(11)]
    return sum(max((p for r, p in curve if r >= level), default=0) for level in levels) / 11


@pytest.mark.parametrize("seed", [0, 1])
def test_agrees_with_a_loop_over_random_boxes(seed):
    generator = torch.Generator().manual_seed(seed)
    truth, found = [], []
    for _ in range(7):
        corner = 60 * torch.rand(6, 2, generator=generator)
        boxes = torch.cat([corner, corner + 10 + 20 * torch.rand(6, 2, generator=generator)], 1)
        labels = torch.randint(2, (6,), generator=generator)
        difficult = torch.rand(6, generator=generator) < 0.2
        truth.append(Boxes(boxes=boxes, labels=labels, difficult=difficult))
        guess = boxes.repeat(3, 1) + 2.5 * torch.randn(18, 4, generator=generator)
        scores = torch.rand(18, generator=generator)
        found.append(Boxes(boxes=guess, labels=labels.repeat(3), scores=scores))
    ap = average_precisions(found, truth, 2)
    for label in range(2):
        for place, threshold in enumerate(THRESHOLDS):
            expected = reference(found, truth, label, threshold)
            assert ap[label, place].item() == pytest.approx(expected, abs=1e-9)
    assert 0 < ap[:, 5].mean() < ap[:, 0].mean() < 1
