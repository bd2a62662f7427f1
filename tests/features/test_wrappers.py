"""Models in wrappers give the features of the model inside, or a warning."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from builders import make_image
from small_models import make_model, reference
from timm.utils import ModelEmaV2, ModelEmaV3
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from cassle_zoo.common.errors import ConfigError
from cassle_zoo.features.extract import Extractor, extract_features
from cassle_zoo.features.transform import eval_transform
from cassle_zoo.store.tensors import state_sha256

IMAGES = [make_image(0), make_image(1)]


class Adapter(nn.Module):
    """Passes on what its model returns, as LoRA's wrappers do."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.inside = model

    def forward(self, images: Tensor) -> Tensor:
        return self.inside(images)

    def train(self, mode: bool = True) -> "Adapter":
        raise AssertionError("would merge its weights into the model's")


class Peft(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.wrapped = nn.ModuleList([model])

    def get_base_model(self) -> nn.Module:
        return self.wrapped[0]


def compiled(model: nn.Module) -> Any:
    return torch.compile(model, backend="eager")


WRAPPERS: list[Callable[[nn.Module], nn.Module]] = [
    nn.DataParallel,
    AveragedModel,
    ModelEmaV2,
    ModelEmaV3,
    nn.Sequential,
    lambda model: nn.Sequential(model, nn.Identity()),
    lambda model: nn.Sequential(nn.Sequential(nn.DataParallel(model))),
    Adapter,
    Peft,
    compiled,
    lambda model: compiled(nn.DataParallel(model)),
    lambda model: nn.DataParallel(Adapter(model)),
]


@pytest.mark.parametrize("num_classes", [0, 10])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers_are_seen_through(
    wrapper: Callable[[nn.Module], nn.Module], num_classes: int
) -> None:
    model = make_model(num_classes=num_classes, pretrained_cfg_overlay=odd_config()).eval()
    plain = make_model(pretrained_cfg_overlay=odd_config()).eval()
    plain.load_state_dict(model.state_dict(), strict=False)
    wrapped = wrapper(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = extract_features(wrapped, IMAGES).features
        transformed = eval_transform(wrapped)(IMAGES[0])
    torch.testing.assert_close(found, reference(plain, IMAGES), atol=1e-5, rtol=1e-5)
    assert torch.equal(transformed, eval_transform(plain)(IMAGES[0]))


def odd_config() -> dict[str, Any]:
    return {"input_size": (3, 32, 32), "crop_pct": 1.0, "mean": (0.1,) * 3, "std": (0.9,) * 3}


def test_what_comes_after_a_classifier_is_left_out_with_a_warning() -> None:
    model = make_model(num_classes=10).eval()
    with pytest.warns(UserWarning, match="input of the classifier of ResNet"):
        found = extract_features(nn.Sequential(model, nn.Softmax(dim=1)), IMAGES).features
    assert torch.equal(found, extract_features(model, IMAGES).features)


def test_what_comes_after_a_backbone_counts_with_a_warning() -> None:
    model = make_model().eval()
    head = nn.Linear(96, 7)
    with pytest.warns(UserWarning, match="the output of Sequential"):
        found = extract_features(nn.Sequential(model, head), IMAGES).features
    with torch.no_grad():
        expected = head(extract_features(model, IMAGES).features)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_classifier_that_runs_twice_is_refused() -> None:
    class Twice(Adapter):
        def forward(self, images: Tensor) -> Tensor:
            return self.inside(images) + self.inside(images.flip(-1))

    with pytest.raises(ConfigError, match="classifier 2 times"):
        extract_features(Twice(make_model(num_classes=10)), IMAGES)


def test_teacher_and_student_agree_on_the_transform() -> None:
    class Distillation(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.student, self.teacher = make_model(), make_model()

        def forward(self, images: Tensor) -> Tensor:
            return self.student(images)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = extract_features(Distillation(), IMAGES).features
    torch.testing.assert_close(found, extract_features(make_model(), IMAGES).features)


class Student(nn.Module):
    """Holds a teacher as well, and returns what the student's classifier does."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student, self.teacher = student, make_model(num_classes=10)

    def forward(self, images: Tensor) -> Tensor:
        return self.student(images)


class Ensemble(Student):
    def forward(self, images: Tensor) -> Tensor:
        return self.student(images) + self.teacher(images)


def test_of_several_models_the_one_in_use_gives_the_features() -> None:
    model = make_model(num_classes=10).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = extract_features(Student(model), IMAGES).features
    assert torch.equal(found, extract_features(model, IMAGES).features)
    with pytest.warns(UserWarning, match="2 timm models and uses 2 of them.*output of Ensemble"):
        assert extract_features(Ensemble(model), IMAGES).features.shape == (2, 10)


def test_wrapped_distilled_models_give_no_logits() -> None:
    model = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=10, img_size=32)
    expected = extract_features(model, IMAGES).features
    assert expected.shape == (2, 192)
    torch.testing.assert_close(extract_features(Adapter(model), IMAGES).features, expected)


def test_quantised_models_are_read() -> None:
    model = timm.create_model("test_vit", num_classes=10, img_size=32).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's quantisation moves to torchao
        small = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    found = extract_features(small, IMAGES).features
    assert (
        nn.functional.cosine_similarity(found, extract_features(model, IMAGES).features).min()
        > 0.99
    )
    assert state_sha256(small) == state_sha256(copy.deepcopy(small)) != state_sha256(model)
    assert Extractor(small).origin == "" != Extractor(model).origin


def test_models_without_weights_are_refused() -> None:
    with pytest.raises(ConfigError, match="on the device 'meta'"):
        extract_features(make_model().to("meta"), IMAGES)


def test_defaults_are_taken_with_a_warning() -> None:
    module = nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.warns(UserWarning, match="Sequential has no pretrained_cfg"):
        assert extract_features(module, IMAGES).features.shape == (len(IMAGES), 5)
    assert eval_transform(module)(IMAGES[0]).shape == (3, 224, 224)
    other = make_model(pretrained_cfg_overlay=odd_config())
    with pytest.warns(UserWarning, match="or several"):
        eval_transform(nn.ModuleList([make_model(), other]))


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="is a dict; give a torch"):
        extract_features({}, IMAGES)  # type: ignore[arg-type]


def test_outputs_inside_a_composition_are_refused() -> None:
    with pytest.raises(ConfigError, match="give the model inside"):
        Extractor(nn.Sequential(make_model(), nn.ReLU()), outputs=("tokens",))
    assert Extractor(nn.DataParallel(make_model()), outputs=("tokens",))(IMAGES)["tokens"].ndim == 4


def test_weights_changed_between_calls_count() -> None:
    model: Any = timm.create_model("test_resnet", num_classes=0).eval()
    extractor = Extractor(model)
    before = extractor(IMAGES)["pooled"]
    other = copy.deepcopy(model)
    with torch.no_grad():
        model.conv1[0].weight.mul_(2)
    after = extractor(IMAGES)["pooled"]
    assert not torch.equal(before, after)
    assert torch.equal(after, Extractor(copy.deepcopy(model))(IMAGES)["pooled"])
    model.load_state_dict(other.state_dict())
    assert torch.equal(extractor(IMAGES)["pooled"], before)
