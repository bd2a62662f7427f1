import pytest
import torch
from sklearn.linear_model import LogisticRegression

from cassle_zoo.common.errors import ConfigError, DataError
from cassle_zoo.eval.protocols import few_shot
from cassle_zoo.eval.protocols.few_shot import (
    FewShot,
    draw_episodes,
    episode_accuracies,
    mean_and_interval,
)
from cassle_zoo.eval.solvers.few_shot import solve_episodes


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make_features(count=600, width=24, classes=12, scale=1.0):
    labels = torch.arange(count) % classes
    centres = torch.randn(classes, width, generator=seeded(1))
    noise = torch.randn(count, width, generator=seeded(2))
    return (centres[labels] + 1.5 * noise) * scale, labels


@pytest.mark.parametrize("shots", [1, 5])
@pytest.mark.parametrize("scale", [0.05, 1.0, 30.0])
def test_logits_agree_with_sklearn(shots, scale):
    features, labels = make_features(scale=scale)
    rows = torch.arange(600)
    drawn = draw_episodes(labels, rows, ways=4, shots=shots, episodes=4, generator=seeded())
    ones = torch.ones(600, 1)
    samples = torch.cat([features, ones], 1).double()
    support, query = drawn.support.flatten(1), drawn.query.flatten(1)
    found = solve_episodes(features[support].double(), features[query].double(), ways=4, l2=0.5)
    classes = torch.arange(4).repeat_interleave(shots)
    for episode in range(4):
        # The bias is regularised like the weights: a feature that is always 1.
        model = LogisticRegression(C=1, fit_intercept=False, tol=1e-9, max_iter=100_000)
        model.fit(samples[support[episode]].numpy(), classes.numpy())
        expected = torch.from_numpy(model.decision_function(samples[query[episode]].numpy()))
        expected -= expected.mean(1, keepdim=True)
        logits = found[episode] - found[episode].mean(1, keepdim=True)
        torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3 * float(expected.max()))
        assert torch.equal(logits.argmax(1), expected.argmax(1))


def test_gradient_is_zero_at_the_solution():
    features, _ = make_features()
    support = features[:15].double()[None]
    identity = torch.eye(24, dtype=torch.float64)[None]
    zero = torch.zeros(1, 1, 24, dtype=torch.float64)
    bias = solve_episodes(support, zero, ways=3, l2=0.7)[0]
    weight = solve_episodes(support, identity, ways=3, l2=0.7)[0] - bias
    theta = torch.cat([weight, bias]).requires_grad_()
    samples = torch.cat([support[0], torch.ones(15, 1)], 1)
    classes = torch.arange(3).repeat_interleave(5)
    loss = torch.nn.functional.cross_entropy(samples @ theta, classes, reduction="sum")
    objective = loss + 0.7 * theta.square().sum()
    (gradient,) = torch.autograd.grad(objective, theta)
    assert float(gradient.norm()) < 1e-4 * objective.item()


def test_result_does_not_depend_on_the_batch(monkeypatch):
    features, labels = make_features()
    drawn = draw_episodes(labels, torch.arange(600), episodes=25, generator=seeded())
    expected = episode_accuracies(features, drawn)
    monkeypatch.setattr(few_shot, "_CHUNK", 4)
    assert torch.equal(episode_accuracies(features, drawn), expected)
    assert 0.3 < float(expected.mean()) < 1


def test_more_shots_help():
    features, labels = make_features()
    means = [
        mean_and_interval(
            episode_accuracies(
                features,
                draw_episodes(labels, torch.arange(600), shots=k, episodes=60, generator=seeded()),
            )
        )[0]
        for k in (1, 5)
    ]
    assert means[1] > means[0] + 0.05


def test_episodes_are_drawn_without_replacement_from_the_rows():
    _, labels = make_features()
    rows = torch.arange(100, 600)
    drawn = draw_episodes(labels, rows, shots=3, queries=7, episodes=30, generator=seeded())
    assert drawn.support.shape == (30, 5, 3)
    assert drawn.query.shape == (30, 5, 7)
    for support, query in zip(drawn.support, drawn.query, strict=True):
        together = torch.cat([support, query], 1)
        assert len(together.unique()) == together.numel()
        assert int(together.min()) >= 100
        own = labels[together]
        assert (own == own[:, :1]).all()
        assert len(own[:, 0].unique()) == 5
    again = draw_episodes(labels, rows, shots=3, queries=7, episodes=30, generator=seeded())
    assert torch.equal(drawn.query, again.query)
    other = draw_episodes(labels, rows, shots=3, queries=7, episodes=30, generator=seeded(1))
    assert not torch.equal(drawn.query, other.query)


def test_small_classes_are_left_out():
    labels = torch.cat([torch.arange(60) % 6, torch.full((3,), 6)])
    drawn = draw_episodes(
        labels, torch.arange(63), shots=1, queries=4, episodes=50, generator=seeded()
    )
    assert drawn.left_out == (6,)
    assert int(drawn.support.max()) < 60
    with pytest.raises(DataError, match=r"7-way .* 6 of 7 classes have so many; use fewer ways"):
        draw_episodes(labels, torch.arange(63), ways=7, queries=4, generator=seeded())


def test_interval():
    values = torch.tensor([0.2, 0.4, 0.6, 0.8])
    mean, half = mean_and_interval(values)
    assert mean == pytest.approx(0.5)
    assert half == pytest.approx(1.96 * 0.2581989 / 2)


@pytest.mark.parametrize("name", ["ways", "shots", "queries", "episodes", "l2"])
def test_numbers_are_checked(name):
    with pytest.raises(ConfigError, match=f"{name} must be .*, got"):
        FewShot(**{name: (0,) if name == "shots" else 0})


def test_bad_features():
    features, labels = make_features()
    drawn = draw_episodes(labels, torch.arange(600), episodes=5, generator=seeded())
    features[drawn.query[0, 0, 0], 3] = float("nan")
    with pytest.raises(DataError, match=r"1 of .* feature vectors are NaN"):
        episode_accuracies(features, drawn)
    with pytest.raises(DataError, match="did not converge"):
        episode_accuracies(make_features()[0] * 1e9, drawn)
