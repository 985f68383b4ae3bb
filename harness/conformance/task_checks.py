"""What every task must satisfy: its densities, scores, exact answers, data and protocols agree with
one another.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from itertools import islice, product
from typing import Any
from warnings import catch_warnings, simplefilter

import torch
from pydantic import ValidationError
from torch import Tensor

from harness.api import (
    Batch,
    Data,
    FixedTruth,
    LogDensity,
    Oracle,
    Params,
    Problem,
    Target,
    Task,
    autograd_score,
)
from harness.base.spec import Protocol
from harness.conformance.problems import (
    LIKE,
    Z_LIMIT,
    Check,
    RecordedNoise,
    Verdict,
    Worst,
    choices,
    described,
    distance,
    equal,
    global_state,
    gradients,
    leaf_fault,
    none_of,
    recorded,
    reliable,
    reseeded,
    run_checks,
    stacked_leaves,
)
from harness.densities import log_std_normal
from harness.numerics import bounds
from harness.numerics.noise import Noise
from harness.training.evaluation import checked_metrics
from harness.training.loop import load_data, streams

BASES = ("prior", "learned")
BATCH = 7  # examples in a mini-batch: it divides none of the usual sizes of a data set
SMALL = (1, 2, 5)  # values of a whole-number variant
SEEDS = (0, 1, 2)
DRAWS = 20_000
COMPONENTS, FITTED = (
    10,
    2_000,
)  # of the mixture that exact draws are bridged with, and draws that it is fitted to
EPSILON = torch.finfo(torch.float64).eps


def check_task(cls: type[Task], seed: int = 0, thoroughness: float = 1.0) -> Iterator[Check]:
    """Prove a task, one check at a time.

    Args:
        cls: the task's class; it must work with its defaults.
        seed: of all that is drawn.
        thoroughness: multiplies the draws of the statistical checks.
    """
    yield from run_checks(TASK_CHECKS, cls, seed, thoroughness)


def small_values(cls: type[Task]) -> list[dict[str, Any]]:
    """The variant field at a few small values, where it is a whole number; else the defaults. A
    `LogDensity` may be one in its own dimension alone.
    """
    name = str(cls.variant)
    field = cls.model_fields.get(name)
    is_whole = field is not None and field.annotation is int
    has_sizes = is_whole and not issubclass(cls, LogDensity)
    return [{name: value} for value in SMALL] if has_sizes else [{}]


def sized(cls: type[Task]) -> list[dict[str, Any]]:
    """The small values and the defaults."""
    return [values for values in small_values(cls) if values] + [{}]


class Case:
    """A task with its data in double precision: a stack of seeds, or the one of a task that does
    not stack.
    """

    def __init__(self, task: Task, seed: int, seeds: tuple[int, ...] = ()) -> None:
        n = len(SEEDS) if task.stacks else 1
        self.task, self.oracle = task, task.oracle()
        self.seeds = seeds or tuple(3 * seed + offset for offset in SEEDS[:n])
        self.data = load_data(task, self.seeds, torch.float64)
        self.best = None if self.oracle is None else self.oracle.mle(self.data)

    def theta(self, base: str, jitter: float = 0.0) -> Params:
        """First parameters [R, *event], every leaf moved by normal noise of scale `jitter`."""
        names = [str(seed) for seed in self.seeds]
        return stacked_leaves(
            lambda name: self.task.init(base, Noise([f"{name}/init/task"])), names, jitter
        )

    def thetas(self, base: str) -> Iterator[Params]:
        """The first parameters, those moved a little and much, and the best where they are
        known.
        """
        for jitter in (0.0, 0.1, 0.5):
            yield self.theta(base, jitter)
        if self.best is not None:
            yield self.theta(base) | self.best

    def batches(self) -> Iterator[Batch]:
        """Mini-batches, and all of the data where that is one problem a replicate."""
        order = Noise(streams(self.seeds, "batch"))
        if self.task.stacks:
            yield self.task.batch(self.data, 0, None, order)
        for step in (0, 3) if self.task.has_mini_batches else ():
            yield self.task.batch(self.data, step, BATCH, order.at(step))

    def scored(self) -> Iterator[Batch]:
        """The first few of the batches that final scores are taken over."""
        order = Noise(streams(self.seeds, "batch"), shuffled=False)
        yield from islice(self.task.scored_batches(self.data, BATCH, order), 2)


def random_points(problem: Problem, seed: int, n: int = 4) -> Tensor:
    """Standard normal points, [n, N, D]."""
    return Noise([f"{seed}/z"]).normal(n, *problem.base.mean.shape, like=LIKE)


def joint_is_evidence_times_posterior(cls: type[Task], seed: int, _: float) -> Verdict:
    """log_joint - log posterior = log evidence at random z; of the trained density too, where
    fields are at their defaults.
    """
    worst, compared = Worst(), False
    for values in (*sized(cls), *choices(cls)):
        case = Case(cls(**values), seed)
        modes = (False, True) if values in sized(cls) else (False,)
        if case.oracle is None:
            break
        for base in BASES:
            for theta, batch, training in product(case.thetas(base), case.batches(), modes):
                posterior = case.oracle.posterior(theta, batch)
                if posterior is None:
                    continue
                compared = True
                evidence = case.oracle.log_evidence(theta, batch)
                problem = case.task.problem(theta, batch, base, training=training)
                z = random_points(problem, seed)
                joint, conditional = problem.log_joint(z), posterior.log_prob(z)
                scale = torch.maximum(joint.abs(), conditional.abs()).maximum(evidence.abs())
                error = (joint - conditional - evidence).abs() / scale
                where = f", {'in training' if training else 'in scores'} at {described(values)}"
                worst.add(float(error.amax()), where)
    if not compared:
        return True, "not applicable: the task has no exact posterior"
    return worst.verdict("largest relative difference", 1e-12)


def score_is_the_gradient(cls: type[Task], seed: int, _: float) -> Verdict:
    """`score` equals autograd of `log_joint`, with and without gradients recorded, and so do its
    slopes in the parameters.
    """
    worst = Worst()
    for values in (*sized(cls), *choices(cls)):
        case = Case(cls(**values), seed)
        for base, training in product(BASES, (False, True)):
            theta = case.theta(base, 0.1)
            where = f" at {described(values)}, base {base}{', in training' if training else ''}"
            for batch in case.batches():
                worst.add(_score_error(case.task, theta, batch, base, training, seed), where)
    return worst.verdict("largest relative difference", 1e-9)


def _score_error(
    task: Task, theta: Params, batch: Batch, base: str, training: bool, seed: int
) -> float:
    leaves = recorded(theta)
    problem = task.problem(leaves, batch, base, training=training)
    z = random_points(problem, seed)
    weight = Noise([f"{seed}/z/weight"]).normal(*z.shape, like=LIKE)
    own, reference = problem.score(z), autograd_score(problem.log_joint)(z)
    with torch.no_grad():
        unrecorded = task.problem(theta, batch, base, training=training).score(z)
    slopes = [gradients((score * weight).sum(), leaves) for score in (own, reference)]
    errors = [distance(slopes[0][name], slopes[1][name]) for name in leaves]
    return max(distance(own, reference), distance(unrecorded, reference), *errors)


def mle_is_the_maximum(cls: type[Task], seed: int, _: float) -> Verdict:
    r"""At the oracle's best parameters the gradient g of the evidence is zero: a Newton step would
    gain less than rounding hides.

    $$\tfrac12\, g^\top (-H)^{-1} g \le 4 \epsilon\, |\log p(x)|$$

    and no point within ten standard errors has more evidence.
    """
    worst = Worst(-math.inf)
    for values in small_values(cls):
        case = Case(cls(**values), seed)
        if case.oracle is None or case.best is None:
            return True, "not applicable: the task has no exact maximum"
        for replicate in range(len(case.seeds)):
            gain = _gain_beyond_best(case, case.oracle, case.best, replicate, f"{seed}/nearby")
            worst.add(gain, f" at {described(values)}")
    return worst.verdict("largest gain of evidence over the stated maximum, over rounding", 1)


def _gain_beyond_best(
    case: Case, oracle: Oracle, best: Params, replicate: int, stream: str
) -> float:
    """The most that one replicate's evidence gains by a Newton step or at random nearby points,
    over what rounding hides.

    Where problems share one set of parameters, it is the evidence of all of them.
    """
    rest = case.theta(case.task.default_base)
    batch = case.task.batch(case.data, 0, None, Noise([stream]))
    sizes = [leaf[replicate].numel() for leaf in best.values()]

    def evidence(row: Tensor) -> Tensor:
        moved = {name: leaf.clone() for name, leaf in best.items()}
        for leaf, values in zip(moved.values(), row.split(sizes), strict=True):
            leaf[replicate] = values.reshape(leaf[replicate].shape)
        value = oracle.log_evidence(rest | moved, batch)
        return value[replicate] if case.task.stacks else value.sum()

    row = torch.cat([leaf[replicate].flatten() for leaf in best.values()]).detach()
    gradient: Any = torch.autograd.functional.jacobian(evidence, row)
    hessian: Any = torch.autograd.functional.hessian(evidence, row)
    newton = 0.5 * float(gradient @ torch.linalg.pinv(-hessian) @ gradient)
    deviation = (-hessian.diagonal()).clamp(min=EPSILON).rsqrt()
    at_best = evidence(row)
    directions = Noise([stream]).normal(12, len(row), like=LIKE)
    nearby = torch.stack(
        [
            evidence(row + 10.0 ** (index % 3 - 1) * deviation * direction)
            for index, direction in enumerate(directions)
        ]
    )
    gain = max(abs(newton), float((nearby - at_best).amax()))
    return gain / float(4 * EPSILON * at_best.abs())


def evidence_agrees_with_sampling(cls: type[Task], seed: int, thoroughness: float) -> Verdict:
    """The oracle's evidence is the integral of the joint density, by importance sampling that does
    not use the oracle.
    """
    worst, n_reliable, n_problems = Worst(), 0, 0
    for values in small_values(cls):
        case = Case(cls(**values), seed)
        if case.oracle is None:
            return True, "not applicable: the task has no exact answers"
        if isinstance(case.task, Target) and type(case.task).draws is not Target.draws:
            return True, "not applicable: the exact draws tell, and miss no mode"
        batches = list(case.batches())
        if isinstance(case.oracle, FixedTruth):
            batches = batches[:1]  # the truth is that of all the data
        for theta, batch in product(case.thetas("prior"), batches):
            problem = case.task.problem(theta, batch, "prior")
            evidence = case.oracle.log_evidence(theta, batch)
            with torch.no_grad():
                log_w = _importance_weights(problem, f"{seed}/evidence", int(DRAWS * thoroughness))
            estimate, error = bounds.log_evidence(log_w)
            rounding = 64 * EPSILON * log_w.abs().amax()
            z = (estimate - evidence) / (error + rounding)
            z_reliable = z[reliable(log_w, 0.5)]  # from 0.5 on weights have no variance
            n_reliable, n_problems = n_reliable + len(z_reliable), n_problems + len(z)
            for excess in z_reliable.abs().tolist():
                worst.add(excess)
    is_known = n_reliable >= 3 or worst.value >= Z_LIMIT
    if not is_known and not Case(cls(), seed).theta("prior"):
        return True, "cannot be told by sampling: the weights are too uneven; draws() would tell"
    counted = f"{n_reliable} of {n_problems} settings counted"
    detail = f"worst |z| {worst.value:.1f}, {counted} (limits {Z_LIMIT:g} and at least 3)"
    return worst.value < Z_LIMIT and n_reliable >= 3, detail


def _importance_weights(problem: Problem, stream: str, draws: int) -> Tensor:
    """Log-weights [S, N] of draws from a normal at the joint density's peak, half as wide again;
    from the base if it has no such peak.
    """
    mean = problem.base.mean.detach()
    factor = torch.diag_embed(problem.base.log_scale.detach().exp())
    # one step reaches the peak of a normal density; the second tells whether it was one
    step, _ = _newton(problem, mean)
    beyond, curvature = _newton(problem, mean + step)
    is_peak = bool(curvature.isfinite().all() and (torch.linalg.eigvalsh(-curvature) > 0).all())
    if is_peak and bool((beyond.abs() < 1e-6 * (1 + mean.abs() + step.abs())).all()):
        mean, factor = mean + step, 1.5 * torch.linalg.cholesky(torch.linalg.inv(-curvature))
    noise = Noise([stream]).normal(draws, *mean.shape, like=LIKE)
    z = mean + (factor @ noise[..., None])[..., 0]
    log_q = log_std_normal(noise) - torch.linalg.slogdet(factor).logabsdet
    return problem.log_joint(z).detach() - log_q


def _newton(problem: Problem, z: Tensor) -> tuple[Tensor, Tensor]:
    """The step from `z` [N, D] to the peak, were the joint density normal [N, D], and its curvature
    there [N, D, D].
    """
    with torch.enable_grad():
        point = z.clone().requires_grad_()
        score = autograd_score(problem.log_joint)(point[None])[0]
        rows = [
            torch.autograd.grad(score[:, j].sum(), point, retain_graph=True)[0]
            for j in range(z.shape[1])
        ]
    curvature = torch.stack(rows, -2)
    return -torch.linalg.solve(curvature, score.detach()[..., None])[..., 0], curvature


def draws_follow_the_density(cls: type[Task], seed: int, thoroughness: float) -> Verdict:
    r"""The oracle's exact draws satisfy Stein's identities, $E[\partial_j \log p] = 0$ and
    $E[z_j\, \partial_j \log p] = -1$, and give its evidence by bridge sampling.
    """
    worst, n = Worst(), int(DRAWS * thoroughness)
    for values in sized(cls):
        one = (seed,) if cls.shares_data else ()  # other seeds would have the same draws
        case = Case(cls(**values), seed, one)
        theta, batch = case.theta("prior"), next(iter(case.batches()))
        draws = getattr(case.oracle, "draws", lambda *_: None)
        z = draws(theta, batch, Noise([f"{seed}/draws"]), 5 * n)  # [5 n, N, D]
        if case.oracle is None or z is None:
            return True, "not applicable: the task has no exact draws"
        problem, where = case.task.problem(theta, batch, "prior"), f" at {described(values)}"
        if z.shape != (5 * n, *problem.base.mean.shape) or not bool(z.isfinite().all()):
            return False, f"draws are {list(z.shape)}{where}; they must be [n, D] and finite"
        _add_stein(worst, z, problem.score(z).detach(), where)
        evidence, error = _bridged_evidence(problem, z[: 2 * n], seed)
        excess = (evidence - case.oracle.log_evidence(theta, batch)).abs() / (error + 1e-9)
        worst.add(float(excess.amax()), f" of the evidence{where}")
    return worst.value < Z_LIMIT, f"worst |z| {worst.value:.1f}{worst.setting} (limit {Z_LIMIT:g})"


def _add_stein(worst: Worst, z: Tensor, score: Tensor, where: str) -> None:
    """Add the excess of both of Stein's identities over draws z [n, ...]."""
    for name, statistic in (("score", score), ("1 + z score", 1 + z * score)):
        excess = statistic.mean(0).abs() / statistic.std(0) * math.sqrt(len(z))
        worst.add(float(excess.amax()), f" of the mean {name}{where}")


def simulated_data_are_the_models(cls: type[Task], seed: int, thoroughness: float) -> Verdict:
    """Over simulated data and the latent vectors behind them the slope of the log joint is zero in
    the mean: in each leaf of the parameters, summed, and in z; and Stein's other identity holds.
    """
    worst, n = Worst(), int(DRAWS / 20 * thoroughness)
    case = Case(cls(), seed)
    theta, batch = case.theta("prior", 0.1), next(case.scored())
    theta = {name: leaf.requires_grad_() for name, leaf in theta.items()}
    shape = case.task.problem(theta, batch, "prior").base.mean.shape  # [N, D]
    vectors, scores, slopes = [], [], []
    for number in range(math.ceil(n / shape[0])):
        noise = Noise([f"{seed}/simulated/{number}/{problem}" for problem in range(shape[0])])
        simulated = case.task.simulate(theta, batch, noise)
        if simulated is None:
            return True, "not applicable: the task simulates no data"
        data, z = simulated[0], simulated[1].detach()
        if z.shape != shape:
            return False, f"z is {list(z.shape)}; it must be [N, D] = {list(shape)}"
        problem = case.task.problem(theta, data, "prior")
        vectors.append(z)
        scores.append(problem.score(z[None])[0].detach())
        joint = problem.log_joint(z[None]).sum()
        slopes.append(torch.stack([slope.sum() for slope in gradients(joint, theta).values()]))
    _add_stein(worst, torch.cat(vectors), torch.cat(scores), "")
    for name, slope in zip(theta, torch.stack(slopes).T, strict=True):  # [batches]
        excess = slope.mean().abs() / slope.std() * math.sqrt(len(slope))
        worst.add(float(excess.nan_to_num(0.0)), f" of the mean slope in {name}")
    return worst.value < Z_LIMIT, f"worst |z| {worst.value:.1f}{worst.setting} (limit {Z_LIMIT:g})"


def _bridged_evidence(problem: Problem, z: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """The evidence of each problem and its standard error, [N] each, nats: from half of its draws
    `z` [2 n, N, D], and as many from a mixture of normals fitted to the other half.
    """
    from sklearn.mixture import GaussianMixture

    (of_p, of_others), bridged = z.chunk(2), []
    for n in range(z.shape[1]):
        q = GaussianMixture(COMPONENTS, max_iter=20, random_state=seed)
        with catch_warnings():
            simplefilter("ignore")  # any density will do, also one that is still to converge
            q.fit(of_others[:FITTED, n].numpy())
        of_q = of_p.clone()
        of_q[:, n] = torch.from_numpy(q.sample(len(of_p))[0])
        log_ratios = [
            problem.log_joint(at)[:, n].detach()
            - torch.from_numpy(q.score_samples(at[:, n].numpy()))
            for at in (of_p, of_q)
        ]
        bridged.append(bounds.bridge_sampling(*log_ratios))
    log_z, error = zip(*bridged, strict=True)
    return torch.stack(log_z), torch.stack(error)


def _splits(data: Data) -> dict[str, Tensor]:
    return {
        f"{split}/{name}": leaf
        for split in ("train", "validation", "test")
        for name, leaf in (getattr(data, split) or {}).items()
    }


def data_depend_on_the_seed_alone(cls: type[Task], seed: int, _: float) -> Verdict:
    """`load` gives the same bits whatever else was done, and whatever the global generators;
    another seed gives others.
    """
    case, noise = Case(cls(), seed), RecordedNoise([f"{seed}/data"])
    with reseeded(1):
        state = global_state()
        data_at_first = _splits(case.task.load(noise))
        if global_state() != state:
            return False, "load moved a global generator"
    for base in BASES:
        for batch in case.batches():
            problem = case.task.problem(case.theta(base), batch, base, training=True)
            problem.log_joint(problem.base.sample(Noise([f"{seed}/draw"]), 2))
        with reseeded(2):
            if not equal(data_at_first, _splits(case.task.load(Noise([f"{seed}/data"])))):
                return False, f"the data changed after a method with base {base} had been prepared"
    if not noise.draws:
        return True, "same seed, same data, whatever came before; no split is drawn"
    if equal(data_at_first, _splits(case.task.load(Noise([f"{seed + 1}/data"])))):
        return False, "another seed gave the same data"
    return True, "same seed, same data, whatever came before; another seed, other data"


def batches_depend_on_the_step_alone(cls: type[Task], seed: int, _: float) -> Verdict:
    """A batch is the same whichever steps came before it; a shuffled epoch has another order."""
    case = Case(cls(), seed)

    def batch(step: int, noise: Noise, size: int | None = BATCH) -> dict[str, Tensor]:
        leaves = case.task.batch(case.data, step, size, noise.at(step)).items()
        return {name: leaf for name, leaf in leaves if isinstance(leaf, Tensor)}

    names = streams(case.seeds, "batch")
    history = Noise(names)
    in_turn = [batch(step, history) for step in range(4)]
    for step in (3, 0, 2):
        if not equal(in_turn[step], batch(step, Noise(names))):
            return False, f"the batch of step {step} depends on the steps before it"
    if equal(in_turn[0], batch(0, history, None)):
        return True, "not applicable: the task has no examples to divide"
    if equal(in_turn[0], in_turn[1]):
        return False, "two steps of one epoch had the same batch"
    return True, "the same after any history"


def leaves_and_metrics_have_their_shapes(cls: type[Task], seed: int, _: float) -> Verdict:
    """First leaves are finite reals [*event] with at least one axis; each metric is [R] and finite;
    the base is [N, D]; evidence is [N].
    """
    for values, base in product(sized(cls), BASES):
        case = Case(cls(**values), seed)
        if fault := leaf_fault(case.task.init(base, Noise([f"{seed}/init"]))):
            return False, fault
        theta, R = case.theta(base), len(case.seeds)
        for name, metric in checked_metrics(
            case.task, case.task.metrics(theta, case.data), R
        ).items():
            if not bool(metric.value.isfinite().all()):
                return False, f"metric '{name}' is not finite"
        for batch in (*case.batches(), *case.scored()):
            if fault := _problem_fault(case, theta, batch, base, seed):
                return False, fault
    return True, "leaves [*event], metrics [R], base [N, D], log_joint [S, N], evidence [N]"


def _problem_fault(case: Case, theta: Params, batch: Batch, base: str, seed: int) -> str | None:
    """What is wrong with the shapes of a batch's problem and evidence, if anything."""
    problem = case.task.problem(theta, batch, base)
    mean, D = problem.base.mean, case.task.latent_dim
    N = len(case.seeds) if case.task.stacks else len(mean)
    if mean.shape != (N, D) or problem.base.log_scale.shape != (N, D):
        got = f"{list(mean.shape)} and {list(problem.base.log_scale.shape)}"
        return f"the base is {got}; it must be [N, D], D = {D}"
    if problem.log_joint(random_points(problem, seed)).shape != (4, N):
        return "log_joint of z [S, N, D] must be [S, N]"
    context = 0 if problem.context is None else problem.context.shape[-1]
    if context != case.task.n_context:
        return f"the context has {context} numbers, and n_context says {case.task.n_context}"
    evidence = None if case.oracle is None else case.oracle.log_evidence(theta, batch)
    if evidence is not None and evidence.shape != (N,):
        return f"the evidence is {list(evidence.shape)}; it must be [N] = [{N}]"
    return None


def problems_do_not_leak(cls: type[Task], seed: int, _: float) -> Verdict:
    """log_joint[s, n] has a gradient of exactly zero in the z of every other particle and
    problem.
    """
    worst = Worst()
    for values in sized(cls):
        case = Case(cls(**values), seed)
        base = case.task.default_base
        for batch, training in product(case.batches(), (False, True)):
            problem = case.task.problem(case.theta(base, 0.1), batch, base, training=training)
            z = random_points(problem, seed, 2).requires_grad_()
            for s, n in ((0, 0), (1, z.shape[1] - 1)):
                (slope,) = torch.autograd.grad(problem.log_joint(z)[s, n], z)
                slope[s, n] = 0.0
                worst.add(float(slope.abs().amax()))
    return worst.verdict("largest slope in the z of another particle or problem", 0)


def replicates_do_not_leak(cls: type[Task], seed: int, _: float) -> Verdict:
    """A stack of three gives the densities, scores and metrics that each replicate gives alone."""
    if not cls.stacks:
        return True, "not applicable: replicates of this task do not stack"
    worst = Worst()
    for values, base in product((*sized(cls), *choices(cls)), BASES):
        case = Case(cls(**values), seed)
        theta = case.theta(base, 0.1)
        z = Noise([f"{seed}/z"]).normal(4, len(case.seeds), case.task.latent_dim, like=LIKE)
        stack = _answers(case, theta, base, z)
        for index, replicate_seed in enumerate(case.seeds):
            own = {name: leaf[index : index + 1] for name, leaf in theta.items()}
            alone = Case(case.task, seed, (replicate_seed,))
            single = _answers(alone, own, base, z[:, index : index + 1])
            for name, answer in stack.items():
                axis = 0 if name.startswith("metric") else 1
                worst.add(distance(answer.narrow(axis, index, 1), single[name]))
    return worst.verdict("largest relative difference between a stack and one alone", 1e-10)


def _answers(case: Case, theta: Params, base: str, z: Tensor) -> dict[str, Tensor]:
    """Densities and scores [S, R, ...] of every kind of batch, and metrics [R]."""
    metrics = checked_metrics(case.task, case.task.metrics(theta, case.data), len(case.seeds))
    answers = {f"metric/{name}": metric.value for name, metric in metrics.items()}
    for number, batch in enumerate(case.batches()):
        problem = case.task.problem(theta, batch, base, training=True)
        answers[f"joint/{number}"] = problem.log_joint(z)
        answers[f"score/{number}"] = problem.score(z)
        answers[f"base/{number}"] = problem.base.log_prob(z)
    return answers


def protocols_are_valid(cls: type[Task], _: int, __: float) -> Verdict:
    """Every protocol is whole, alone and with what is recommended for a method, and has fields that
    exist; `default_protocol` and `smoke` are among them.
    """
    needed = (cls.default_protocol, "smoke")
    faults = [f"no protocol '{name}'" for name in needed if name not in cls.protocols]
    default = cls.protocols.get(cls.default_protocol, {})
    protocols = dict(cls.protocols)
    for method, settings in cls.recommended.items():
        protocols[f"recommended for {method}"] = {**default, **settings}
    for name, settings in protocols.items():
        fields: dict[str, dict[str, Any]] = {"": {}, "task": {}, "method": {}}
        for address, value in settings.items():
            owner, field = address.rpartition(".")[::2]
            fields[owner if owner in fields else ""][field] = value
        try:
            Protocol(**fields[""])
            cls(**fields["task"])
        except ValidationError as error:
            fault = error.errors()[0]
            address = ".".join(map(str, fault["loc"]))
            faults.append(f"{name}: {address}: {fault['msg']}")
    return none_of(faults, "faults")


def has_a_docstring_and_source(cls: type[Task], _: int, __: float) -> Verdict:
    """The class says what it is and where it comes from."""
    holds = bool(inspect.getdoc(cls)) and "__doc__" in vars(cls)
    if issubclass(cls, Target):
        return holds, "the docstring is there" if holds else "the class needs a docstring"
    holds = holds and bool(cls.source)
    there, missing = "docstring and source are there", "the class needs a docstring and a `source`"
    return holds, there if holds else missing


TASK_CHECKS: dict[str, Callable[[type[Task], int, float], Verdict]] = {
    "joint = evidence x posterior": joint_is_evidence_times_posterior,
    "score is the gradient": score_is_the_gradient,
    "the best parameters are the maximum": mle_is_the_maximum,
    "evidence agrees with sampling": evidence_agrees_with_sampling,
    "draws follow the density": draws_follow_the_density,
    "simulated data are the model's": simulated_data_are_the_models,
    "data depend on the seed alone": data_depend_on_the_seed_alone,
    "batches depend on the step alone": batches_depend_on_the_step_alone,
    "shapes are kept": leaves_and_metrics_have_their_shapes,
    "problems do not leak": problems_do_not_leak,
    "replicates do not leak": replicates_do_not_leak,
    "protocols are valid": protocols_are_valid,
    "the task says where it comes from": has_a_docstring_and_source,
}
"""Each check of a task by its name."""
