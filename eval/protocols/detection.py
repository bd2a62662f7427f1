"""Object detection on PASCAL VOC."""

from dataclasses import dataclass, fields

from cassle_zoo.common.errors import DataError
from cassle_zoo.eval.base import EvalContext, Outcome, Task
from cassle_zoo.eval.detection import DetectorSettings, detect, train_detector
from cassle_zoo.eval.detection_ap import THRESHOLDS, average_precisions
from cassle_zoo.eval.detection_data import DetectionImages, objects_of
from cassle_zoo.features.inference import choose_device

_POINTS = 100


@dataclass(frozen=True, kw_only=True)
class Detection(DetectorSettings):
    """Object detection: Faster R-CNN (C4) trained from the backbone, AP as in PASCAL VOC 2007."""

    def evaluate(self, context: EvalContext) -> Outcome:
        """Return mAP at 0.5, at 0.75, and over 0.5 to 0.95, and the AP of each class at 0.5."""
        metrics: dict[str, dict[str, float]] = {}
        series: dict[str, list[float]] = {}
        for task in context.data.tasks_of("detection"):
            own, losses = self._measure(context, task)
            metrics |= own
            size = -(-len(losses) // _POINTS)
            windows = [losses[start : start + size] for start in range(0, len(losses), size)]
            series[f"{task.name}: loss"] = [sum(window) / len(window) for window in windows]
        settings = ", ".join(f"{field.name}: {getattr(self, field.name)}" for field in fields(self))
        return Outcome(
            metrics=metrics,
            series=series,
            protocol={
                "input": "images as they are, resized to the sizes below",
                "detector": f"Faster R-CNN, C4, stage 4 and a BatchNorm as box head; {settings}",
                "average precision": "11 points, IoU above 0.5, 0.55, ..., 0.95, difficult objects "
                "ignored in the test; mean over the classes that the test has",
            },
        )

    def _measure(
        self, context: EvalContext, task: Task
    ) -> tuple[dict[str, dict[str, float]], list[float]]:
        compute, images = context.compute, context.data.images
        device = choose_device(context.model, compute.device)
        train, test = task.splits["train"], task.splits["test"]
        if not len(train) or not len(test):
            raise DataError(f"task {task.name} needs training and test images.")
        detector, losses = train_detector(
            context.model,
            DetectionImages(images, task.targets, compute.seed),
            train,
            classes=len(task.classes),
            settings=self,
            device=device,
            seed=compute.seed,
            workers=compute.workers,
            progress=compute.progress,
        )
        found = detect(
            detector,
            DetectionImages(images, task.targets, None),
            test,
            device=device,
            workers=compute.workers,
            progress=compute.progress,
        )
        ap = average_precisions(found, objects_of(task.targets, test), len(task.classes))
        known = ~ap[:, 0].isnan()
        if not known.any():
            raise DataError(f"task {task.name}: the test images have no object that counts.")
        mean = ap[known].mean(0)
        by_class = zip(task.classes, ap[:, 0].tolist(), known.tolist(), strict=True)
        return {
            task.name: {
                "mAP50": float(mean[THRESHOLDS.index(0.5)]),
                "mAP75": float(mean[THRESHOLDS.index(0.75)]),
                "mAP": float(mean.mean()),
            },
            f"{task.name} by class": {
                f"{name} AP50": value for name, value, counts in by_class if counts
            },
        }, losses
