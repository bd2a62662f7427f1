import pytest
import torch

from cassle_zoo.common.errors import DataError
from cassle_zoo.eval.detection_ap import THRESHOLDS, Boxes, average_precisions, eleven_point


def objects(*rows):
    """Rows of left, top, right, bottom, label, difficult."""
    table = torch.tensor(rows, dtype=torch.float64).reshape(-1, 6)
    return Boxes(boxes=table[:, :4], labels=table[:, 4].long(), difficult=table[:, 5].bool())


def detections(*rows):
    """Rows of left, top, right, bottom, label, score."""
    table = torch.tensor(rows, dtype=torch.float64).reshape(-1, 6)
    return Boxes(boxes=table[:, :4], labels=table[:, 4].long(), scores=table[:, 5])


def test_eleven_points_by_hand():
    # Precision 1 up to a recall of 1/3, then 2/3 up to 2/3: levels 0-0.3 and 0.4-0.6.
    recall = torch.tensor([1 / 3, 1 / 3, 2 / 3])
    precision = torch.tensor([1, 1 / 2, 2 / 3])
    assert eleven_point(recall, precision) == pytest.approx((4 * 1 + 3 * 2 / 3) / 11)
    assert eleven_point(torch.tensor([]), torch.tensor([])) == 0
    assert eleven_point(torch.tensor([1.0]), torch.tensor([1.0])) == 1


def test_thresholds():
    assert THRESHOLDS == (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


def test_a_case_by_hand():
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
    ap = average_precisions(found, truth, 3, (0.5, 0.8, 0.9))
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
    ap = average_precisions(found, truth, 1, (0.5,))
    assert ap.item() == pytest.approx(6 / 11)


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
