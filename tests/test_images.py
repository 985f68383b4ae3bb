"""Image tasks: nets, scores, binarisation, and the evidence of non-stacking tasks against closed
forms.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import json_lines
from linear_gaussian import LinearGaussian

from harness.analysis.selection import RunFilter, select_runs
from harness.api import Noise, autograd_score
from harness.base.errors import UsageError
from harness.base.workspace import Workspace
from harness.plan import registry
from harness.plan.grid import resolve
from harness.plan.registry import NamedPlugin, find
from harness.report.histograms import pareto_k_histograms
from harness.report.view import View
from harness.store import ResultStore
from harness.tasks._decoder import Likelihood, decoded, softplus
from harness.tasks._images import binarised
from harness.tasks._layers import flat, maps, phases
from harness.tasks._nets import ConvNets, DenseNets, widening
from harness.tasks.digits import Digits
from harness.training import checkpoint
from harness.training import loop as training
from harness.training.evaluation import evaluate, percentiles

METHODS = ["vb", "iwae", "pnf", "iaf", "hvae", "hvae-untempered", "hvae-iaf"]


def parameters(nets, dtype=torch.float64):
    return {name: leaf[None].to(dtype) for name, leaf in nets.init(Noise(["0/init"])).items()}


def images(n, pixels):
    return (
        Noise(["x"]).uniform(n, pixels, like=torch.zeros((), dtype=torch.float64)) < 0.3
    ).double()


@pytest.mark.parametrize(
    ("nets", "pixels"),
    [(DenseNets(64, 5, 11), 64), (ConvNets(6, 20), 784)],
    ids=["dense", "convolutions"],
)
def test_the_score_written_out_is_autograds_and_so_is_its_gradient(nets, pixels):
    params, x = parameters(nets), images(3, pixels)
    z = Noise(["z"]).normal(2, 3, nets.latent, like=x).requires_grad_()
    weights = {
        name: leaf.requires_grad_() for name, leaf in params.items() if name.startswith("decoder")
    }

    likelihood = Likelihood(nets.decoder(params), nets.own_order(x))
    written, automatic = likelihood.score(z), autograd_score(likelihood)(z.clone())
    assert torch.allclose(written, automatic, rtol=1e-12, atol=1e-13)
    direction = Noise(["d"]).normal(*z.shape, like=x)
    second = [
        torch.autograd.grad((score * direction).sum(), [z, *weights.values()])
        for score in (written, automatic)
    ]
    for one, other in zip(*second, strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-12)


def test_convolutions_give_the_sizes_of_the_images():
    nets = ConvNets(6)
    params = parameters(nets, torch.float32)
    logits = torch.zeros(2, 6)
    for layer, units in zip(
        nets.decoder(params), (450, 4 * 4 * 32, 7 * 7 * 32, 14 * 14 * 16, 784), strict=True
    ):
        logits = layer(logits)
        assert logits.shape == (2, units)
    assert nets.hidden(params, logits).shape == (2, 450)


def test_the_last_layer_is_a_transposed_convolution():
    params = parameters(ConvNets(6))
    second = images(3, 16 * 14 * 14).unflatten(1, (16, 14, 14))
    weight, bias = params["decoder.out.weight"][0], params["decoder.out.bias"][0]
    plain = torch.nn.functional.conv_transpose2d(
        second, weight, bias, stride=2, padding=2, output_padding=1
    )
    four = torch.nn.functional.conv_transpose2d(second, phases(weight), bias.expand(4), padding=1)
    assert torch.allclose(torch.nn.functional.pixel_shuffle(four, 2), plain, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("side", "made", "stride", "k"), [(4, 7, 2, 5), (7, 14, 2, 5), (14, 14, 1, 3), (5, 5, 1, 3)]
)
def test_a_widening_layer_is_the_transpose_of_a_convolution_forward_and_back(side, made, stride, k):
    """Values and gradients of torch's own layer, and gradients of the gradients by finite
    differences.
    """
    plain = images(3, 2 * side**2).unflatten(1, (2, side, side))
    weight, bias = (
        images(2 * 3 * k, k).reshape(2, 3, k, k).requires_grad_(),
        images(1, 3)[0].requires_grad_(),
    )
    layer = widening(weight, bias, side, made, stride)
    assert (layer.blocks is None) == (made % 2 == 1)
    h = plain.permute(0, 2, 3, 1).flatten(1).requires_grad_()
    extra = made - 1 - stride * (side - 1)
    expected = torch.nn.functional.conv_transpose2d(
        maps(h, side), weight, bias, stride, k // 2, extra
    )
    assert torch.allclose(maps(layer(h), made), expected, rtol=1e-12, atol=1e-13)
    g = images(3, layer(h).shape[1])
    for one, other in zip(
        *(
            torch.autograd.grad((y * g).sum(), (h, weight, bias))
            for y in (layer(h), flat(expected))
        ),
        strict=True,
    ):
        assert torch.allclose(one, other, rtol=1e-12, atol=1e-13)
    assert torch.autograd.gradgradcheck(
        lambda *given: widening(*given[1:], side, made, stride)(given[0]),
        (h[:1].detach().requires_grad_(), weight, bias),
    )


def test_the_density_where_the_score_was_asked_for_last_takes_its_logits():
    """And no others: neither for an equal z, nor for the same one with other numbers in it, nor
    where only one of them wants a gradient.
    """
    nets, x = DenseNets(64, 5, 11), images(3, 64)
    likelihood, z = (
        Likelihood(nets.decoder(parameters(nets)), x),
        Noise(["z"]).normal(2, 3, 5, like=x),
    )
    fresh = likelihood(z)
    likelihood.score(z)
    assert torch.allclose(likelihood(z), fresh, rtol=1e-12)
    assert torch.allclose(likelihood(z + 1), likelihood((z + 1).clone()), rtol=1e-12)
    z.add_(1)
    assert torch.allclose(likelihood(z), likelihood(z.clone()), rtol=1e-12)
    assert not torch.allclose(likelihood(z), fresh)
    z.requires_grad_()
    with torch.no_grad():
        likelihood.score(z)
    assert likelihood(z).requires_grad


def test_the_gradient_of_a_score_is_taken_once_and_has_none_of_its_own():
    nets, x = DenseNets(64, 5, 11), images(3, 64)
    z = Noise(["z"]).normal(2, 3, 5, like=x).requires_grad_()
    total = Likelihood(nets.decoder(parameters(nets)), x).score(z).sum()
    torch.autograd.grad(total, z, retain_graph=True)
    with pytest.raises(RuntimeError, match="taken twice"):
        torch.autograd.grad(total, z)
    (first,) = torch.autograd.grad(
        Likelihood(nets.decoder(parameters(nets)), x).score(z).square().sum(), z, create_graph=True
    )
    with pytest.raises(RuntimeError):
        torch.autograd.grad(first.sum(), z)


def test_the_decoder_is_transposed_convolutions_and_its_order_is_known():
    """Of torch's own layers, pixels row by row."""
    nets = ConvNets(6, 20)
    params = parameters(nets)
    leaf = {name: value[0] for name, value in params.items()}
    z = Noise(["z"]).normal(3, 6, like=leaf["decoder.in.bias"])
    x = z
    for name in ("decoder.in", "decoder.spread"):
        x = softplus(torch.nn.functional.linear(x, leaf[f"{name}.weight"], leaf[f"{name}.bias"]))
    x = x.unflatten(1, (32, 4, 4))
    for name, extra in (("decoder.conv0", 0), ("decoder.conv1", 1)):
        weight, bias = leaf[f"{name}.weight"], leaf[f"{name}.bias"]
        x = softplus(
            torch.nn.functional.conv_transpose2d(
                x, weight, bias, stride=2, padding=2, output_padding=extra
            )
        )
    weight, bias = leaf["decoder.out.weight"], leaf["decoder.out.bias"]
    plain = torch.nn.functional.conv_transpose2d(
        x, weight, bias, stride=2, padding=2, output_padding=1
    ).flatten(1)
    logits = decoded(nets.decoder(params), z)
    assert torch.allclose(nets.row_order(logits), plain, rtol=1e-12, atol=1e-14)
    assert torch.equal(nets.own_order(nets.row_order(logits)), logits)


def test_many_particles_are_decoded_in_parts():
    """The same to rounding, whatever is decoded together."""
    found = resolve(find("method", "iwae"), find("task", "digits"), "smoke", {})
    task = found.task
    params = {name: leaf[None] for name, leaf in task.init("learned", Noise(["0/init"])).items()}
    problem = task.problem(params, {"x": images(3, 64).to(torch.uint8)}, "learned")
    z = Noise(["z"]).normal(1000, 3, task.latent_dim, like=params["decoder.out.bias"])
    together = problem.log_joint(z)
    assert torch.allclose(
        together, torch.cat([problem.log_joint(some) for some in z.split(7)]), rtol=1e-12
    )


def test_binarisations():
    grey = torch.tensor([[0, 127, 128, 255]] * 4000, dtype=torch.uint8)
    assert binarised(grey, "threshold", "a")[0].tolist() == [0, 0, 1, 1]
    drawn = binarised(grey, "fixed", "a").double().mean(0).tolist()
    assert drawn == pytest.approx([0, 127 / 255, 128 / 255, 1], abs=4 * 0.5 / 4000**0.5)
    assert torch.equal(binarised(grey, "fixed", "a"), binarised(grey, "dynamic", "a"))
    assert not torch.equal(binarised(grey, "fixed", "a"), binarised(grey, "fixed", "b"))


@pytest.mark.parametrize("how", ["threshold", "fixed", "dynamic"])
def test_seeds_share_their_test_images_and_only_dynamic_ones_change_on_the_way(how):
    task = Digits(binarisation=how)
    first, second = (task.load(Noise([f"{seed}/data"])) for seed in (0, 1))
    for split in ("train", "validation", "test"):
        assert torch.equal(getattr(first, split)["x"], getattr(second, split)["x"])
    assert set(np.unique(first.test["x"].numpy())) == {0, 1}
    noise = Noise(["0/batch"], shuffled=False)
    batches = [task.batch(first, step, 1297, noise.at(step))["x"] for step in (0, 1)]
    assert torch.equal(*batches) == (how != "dynamic")
    assert set(np.unique(batches[0].numpy())) == {0, 1}


@pytest.mark.parametrize("name", METHODS)
def test_the_evidence_of_a_linear_decoder_is_found_by_every_method(name):
    task = LinearGaussian()
    method = registry.find("method", name)
    values = {f"method.{field}": value for field, value in method.fields.items()}
    resolved = resolve(
        method,
        NamedPlugin(LinearGaussian, "linear-gaussian"),
        "short",
        values | {"base": "learned"},
    )
    state = training.start(resolved.method, task, resolved.protocol, [0])
    for _ in training.train(resolved.method, task, resolved.protocol, state):
        pass
    scores = evaluate(resolved.method, task, resolved.protocol, state)
    theta, _ = state.layout.owned(state.flat)
    exact = task.oracle().log_evidence(theta, state.data.test).mean()
    found = scores["log_evidence"]
    assert float(found.error) < 0.1
    assert abs(float(found.value - exact)) < 3 * float(found.error)
    assert float(scores["elbo"].value) <= float(exact) + 3 * float(scores["elbo"].error)
    assert float(scores["elbo_gap"].value) == pytest.approx(
        float(exact - scores["elbo"].value), abs=1e-9
    )


def stopping():
    """A run on few digits that learns fast, so that the validation bound soon falls."""
    values = {
        "steps": 300,
        "lr": 0.02,
        "batch_size": 40,
        "validate_every": 10,
        "patience": 3,
        "eval_particles": 20,
        "task.n_train": 40,
    }
    return resolve(registry.find("method", "vb"), registry.find("task", "digits"), "smoke", values)


def test_training_stops_when_the_validation_bound_falls_and_the_best_parameters_are_scored():
    resolved = stopping()
    state = training.start(resolved.method, resolved.task, resolved.protocol, [0])
    kept = {}
    for progress in training.train(resolved.method, resolved.task, resolved.protocol, state):
        kept[progress.step] = state.flat.clone()
    looks = training.curves(resolved.protocol, state, 0)["validation_bound"]
    best = max(looks, key=lambda point: point[1])
    assert state.step < 300
    assert looks[-1][0] == state.step == best[0] + 30
    assert torch.equal(state.best_parameters(), kept[best[0]])
    assert list(training.train(resolved.method, resolved.task, resolved.protocol, state)) == []
    scores = evaluate(resolved.method, resolved.task, resolved.protocol, state)
    assert float(scores["nll"].value) == -float(scores["log_evidence"].value)
    assert float(scores["validation_elbo"].value) == pytest.approx(best[1], rel=1e-6)


def test_early_stopping_goes_on_from_a_checkpoint_to_the_same_bits():
    resolved = stopping()
    whole, part, again = (
        training.start(resolved.method, resolved.task, resolved.protocol, [0]) for _ in range(3)
    )
    for _ in training.train(resolved.method, resolved.task, resolved.protocol, whole):
        pass
    for progress in training.train(resolved.method, resolved.task, resolved.protocol, part):
        if progress.step == 25:
            break
    checkpoint.restore(again, [checkpoint.replicate_tensors(part, 0)], 25)
    for _ in training.train(resolved.method, resolved.task, resolved.protocol, again):
        pass
    assert again.step == whole.step
    assert checkpoint.encode(again, 0, resolved.spec(0)) == checkpoint.encode(
        whole, 0, resolved.spec(0)
    )


def test_validation_is_refused_where_there_is_nothing_to_look_at():
    resolved = resolve(
        registry.find("method", "vb"),
        registry.find("task", "gaussian-2"),
        "smoke",
        {"validate_every": 10},
    )
    state = training.start(resolved.method, resolved.task, resolved.protocol, [0])
    with pytest.raises(UsageError, match="no validation data"):
        next(training.train(resolved.method, resolved.task, resolved.protocol, state))


@pytest.mark.parametrize("n", [1, 2, 7, 100, 350, 1000])
def test_a_percentile_is_the_least_value_that_so_many_do_not_exceed(n):
    values = Noise(["k"]).normal(n, like=torch.zeros((), dtype=torch.float64))
    expected = [
        min(v for v in values.tolist() if 100 * (values <= v).sum() >= p * n) for p in range(101)
    ]
    assert percentiles(values).tolist() == expected


def test_pareto_k_of_each_problem_is_stored_and_drawn(bench, workspace):
    """The stored percentiles agree with the two metrics, and the histogram with them."""
    run, gaussian = (
        json_lines(bench("run", "-m", "vb", "-t", task, "--protocol", "smoke", "--json"))[0]
        for task in ("digits", "gaussian-2")
    )
    with ResultStore.open(Workspace.current().database_url) as store:
        curve = store.curves(run["key"])["pareto_k_percentiles"]
        assert "pareto_k_percentiles" not in store.curves(gaussian["key"])
        values = [k for _, k in curve[1:]]
        assert [step for step, _ in curve] == list(range(101))
        assert values == sorted(values)
        assert values[89] == run["metrics"]["pareto_k"]
        share = sum(k > 0.7 for k in values) / 100
        assert share == pytest.approx(run["metrics"]["pareto_k_share"], abs=0.01)
        section = pareto_k_histograms(View(select_runs(store, RunFilter())))
    ((plot,),) = (figure.plots for figure in section.figures)
    assert plot.title == "digits"
    (line,) = plot.chart.data
    assert sum(line.y) == pytest.approx(100)
    right = sum(y for x, y in zip(line.x, line.y, strict=True) if x > 0.7)
    assert right == pytest.approx(100 * share)
