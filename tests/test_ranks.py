"""Mean ranks across tasks, Friedman's test and Nemenyi's critical difference: a published example,
scipy, and what must not matter.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import comparisons
import filled_store
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from harness.analysis.grids import rank_grid
from harness.analysis.ranks import Ranking, across, ranking, ranks
from harness.analysis.selection import RunFilter, select_runs
from harness.analysis.tables import Options, compare
from harness.plan.grid import expand
from harness.store import ResultStore

PAPER = json.loads((Path(__file__).parent / "data" / "demsar2006.json").read_text())
scores = st.one_of(st.none(), st.floats(-10, 10), st.integers(-2, 2).map(float))


@st.composite
def tables(draw):
    """Names of methods, and some blocks of their scores, with failures and ties."""
    k = draw(st.integers(2, 5))
    return [f"m{place}" for place in range(k)], draw(
        st.lists(st.lists(scores, min_size=k, max_size=k), min_size=1, max_size=6)
    )


def by_name(found):
    return dict(zip(found.names, found.mean_ranks, strict=True))


# The published example


def test_the_ranks_are_those_printed_in_the_paper():
    for task, auc, printed in zip(PAPER["tasks"], PAPER["auc"], PAPER["ranks"], strict=True):
        if task != "voting":  # told apart there by digits that are not printed
            assert ranks(auc, lower_is_better=False) == printed
    found = ranking(PAPER["methods"], PAPER["ranks"], lower_is_better=True)
    assert found.mean_ranks == pytest.approx(PAPER["mean_ranks"], abs=0.0005)
    assert found.critical_difference == pytest.approx(PAPER["critical_difference"], abs=0.005)


def test_friedmans_statistic_is_the_papers_up_to_the_correction_for_ties():
    found = ranking(PAPER["methods"], PAPER["ranks"], lower_is_better=True)
    n, k = len(PAPER["tasks"]), len(PAPER["methods"])
    ties = sum(
        sum(row.count(rank) ** 3 - row.count(rank) for rank in set(row)) for row in PAPER["ranks"]
    )
    correction = 1 - ties / (n * k * (k**2 - 1))
    assert found.chi_square * correction == pytest.approx(PAPER["chi_square"], abs=0.005)
    columns = zip(*PAPER["ranks"], strict=True)
    assert found.chi_square == pytest.approx(stats.friedmanchisquare(*columns).statistic, rel=1e-12)


def test_iman_and_davenports_f_is_the_papers():
    """Page 12: F = 3.69 with 3 and 39 degrees of freedom, from the statistic without the correction
    for ties.
    """
    n, k = len(PAPER["tasks"]), len(PAPER["methods"])
    found = ranking(PAPER["methods"], PAPER["ranks"], lower_is_better=True)
    uncorrected = PAPER["chi_square"]
    assert (n - 1) * uncorrected / (n * (k - 1) - uncorrected) == pytest.approx(3.69, abs=0.005)
    by_definition = (n - 1) * found.chi_square / (n * (k - 1) - found.chi_square)
    assert found.f == pytest.approx(by_definition, rel=1e-12)
    assert found.p == pytest.approx(stats.f.sf(by_definition, 3, 39), rel=1e-12)
    assert found.p < 0.05
    agreed = ranking(["a", "b", "c"], [[1.0, 2.0, 3.0]] * 4, lower_is_better=True)
    assert (agreed.f, agreed.p) == (math.inf, 0.0)


def test_at_five_percent_the_papers_four_methods_are_one_group():
    """The paper: even the best and the worst differ by less than 1.25."""
    found = ranking(PAPER["methods"], PAPER["ranks"], lower_is_better=True)
    assert found.cliques == [("C4.5+m+cf", "C4.5+m", "C4.5+cf", "C4.5")]


@pytest.mark.parametrize(
    ("k", "q"),
    [
        (2, 1.960),
        (3, 2.343),
        (4, 2.569),
        (5, 2.728),
        (6, 2.850),
        (7, 2.949),
        (8, 3.031),
        (9, 3.102),
        (10, 3.164),
    ],
)
def test_critical_differences_are_the_papers_table(k, q):
    """Table 5a; at k (k + 1) / (6 N) = 1 the difference is the table's value, printed to three
    digits and cut.
    """
    n = 30
    found = ranking([str(place) for place in range(k)], [list(map(float, range(k)))] * n, True)
    assert found.critical_difference / math.sqrt(k * (k + 1) / (6 * n)) == pytest.approx(
        q, abs=0.001
    )


# Groups


def test_groups_are_the_largest_sets_that_lie_within_the_critical_difference():
    """By hand: 1.0, 1.5, 2.4 and 4.0 at 1.45: the first three, then nothing that is not within
    them; at 1.0 two pairs overlap.
    """
    four = ("a", "b", "c", "d")
    assert Ranking(four, (1.0, 1.5, 2.4, 4.0), 9, 1.0, 1.0, 0.5, 1.45).cliques == [("a", "b", "c")]
    assert Ranking(four, (4.0, 2.4, 1.5, 1.0), 9, 1.0, 1.0, 0.5, 1.0).cliques == [
        ("d", "c"),
        ("c", "b"),
    ]
    assert Ranking(four, (1.0, 2.0, 3.0, 4.0), 9, 1.0, 1.0, 0.5, 1.0).cliques == []


@given(tables())
def test_two_methods_share_a_group_where_they_are_nearer_than_the_critical_difference(table):
    found = ranking(*table, lower_is_better=True)
    means = by_name(found)
    for one in means:
        for other in means:
            near = abs(means[one] - means[other]) < found.critical_difference
            assert one == other or near == any(
                {one, other} <= set(group) for group in found.cliques
            )
    groups = [set(group) for group in found.cliques]
    assert not any(one < other for one in groups for other in groups)


# Failures, ties, few


def test_failures_share_the_last_ranks():
    assert ranks([None, 3.0, math.nan, 1.0], lower_is_better=True) == [3.5, 2.0, 3.5, 1.0]
    assert ranks([None, 3.0, 5.0], lower_is_better=False) == [3.0, 2.0, 1.0]
    assert ranks([None, None], lower_is_better=True) == [1.5, 1.5]


def test_one_failed_run_of_ten_is_better_than_ten(tmp_path):
    """By the median of runs, of which failed ones are worse than any value."""
    workspace = filled_store.workspace_in(tmp_path)
    for method, n_failed, value in (
        ("vb", 1, 1.0),
        ("iaf", 0, 2.0),
        ("pnf", 6, 0.5),
        ("hvae", 10, 0),
    ):
        for task in ("gaussian-2", "gaussian-3"):
            comparisons.store_runs(
                workspace,
                expand([method], [task], range(10), "smoke"),
                lambda run, n_failed=n_failed, value=value: (
                    "not finite" if run.spec.seed < n_failed else {"elbo_gap": value}
                ),
            )
    with ResultStore.open(workspace.database_url) as store:
        found = across(compare(select_runs(store, RunFilter()), Options()))
    assert found is not None
    assert by_name(found) == {"vb": 1.0, "iaf": 2.0, "pnf": 3.0, "hvae": 4.0}
    assert "Of fewer than 5 columns" in rank_grid(found).notes[0]
    ten = ranking(["a", "b"], [[1.0, 2.0]] * 10, lower_is_better=True)
    assert "Of fewer than" not in rank_grid(ten).notes[0]


def test_each_block_has_its_own_better_end():
    found = ranking(["a", "b"], [[1.0, 2.0], [1.0, 2.0]], [True, False])
    assert found.mean_ranks == (1.5, 1.5)


def test_with_nothing_but_ties_nobody_differs():
    found = ranking(["a", "b", "c"], [[1.0] * 3, [None] * 3], True)
    assert (found.mean_ranks, found.chi_square, found.p) == ((2.0, 2.0, 2.0), 0.0, 1.0)
    assert found.cliques == [("a", "b", "c")]


def test_of_two_methods_or_one_block_friedman_says_nothing():
    assert math.isnan(ranking(["a", "b"], [[1.0, 2.0], [2.0, 3.0]], True).p)
    assert math.isnan(ranking(["a", "b", "c"], [[1.0, 2.0, 3.0]], True).p)
    none = ranking(["a", "b"], [], True)
    assert math.isnan(none.critical_difference)
    assert none.cliques == []


# scipy, and what must not matter


@given(tables())
def test_ranks_and_friedman_are_scipys(table):
    names, blocks = table
    found = ranking(names, blocks, lower_is_better=True)
    ranked = [
        stats.rankdata([math.inf if score is None else score for score in block])
        for block in blocks
    ]
    assert found.mean_ranks == pytest.approx(
        [sum(row[place] for row in ranked) / len(blocks) for place in range(len(names))], rel=1e-12
    )
    if len(names) > 2 and len(blocks) > 1 and any(len(set(row)) > 1 for row in ranked):
        expected = stats.friedmanchisquare(
            *([row[place] for row in ranked] for place in range(len(names)))
        )
        assert found.chi_square == pytest.approx(expected.statistic, rel=1e-9)


@given(tables(), st.randoms(use_true_random=False))
def test_the_order_of_methods_and_tasks_does_not_matter(table, chance: random.Random):
    names, blocks = table
    found = ranking(names, blocks, lower_is_better=False)
    order = chance.sample(range(len(names)), len(names))
    shuffled = [[block[place] for place in order] for block in chance.sample(blocks, len(blocks))]
    other = ranking([names[place] for place in order], shuffled, lower_is_better=False)
    assert by_name(other) == pytest.approx(by_name(found), rel=1e-12)
    assert (other.chi_square, other.p) == pytest.approx(
        (found.chi_square, found.p), rel=1e-9, abs=1e-12, nan_ok=True
    )
    assert [set(group) for group in other.cliques] == [set(group) for group in found.cliques]


@given(tables(), st.booleans())
def test_only_the_order_of_scores_within_a_task_matters(table, lower):
    names, blocks = table
    turned = [[None if score is None else -2 * score for score in block] for block in blocks]
    assert by_name(ranking(names, turned, not lower)) == by_name(ranking(names, blocks, lower))


def test_cliques_of_many_rows_are_by_definition_the_largest_sets_of_neighbours():
    dice = random.Random(5)
    for count in (1, 2, 7, 300):
        means = tuple(float(dice.randrange(count)) for _ in range(count))
        for critical in (0.5, 3.0, 1e9):
            made = Ranking(tuple(map(str, range(count))), means, 2, 0.0, 0.0, 1.0, critical)
            order = sorted(range(count), key=lambda place: (means[place], str(place)))
            runs = [
                [place for place in order[start:] if means[place] - means[order[start]] < critical]
                for start in range(count)
            ]
            inside = [set() if start == 0 else set(runs[start - 1]) for start in range(count)]
            expected = [
                tuple(map(str, run))
                for run, outer in zip(runs, inside, strict=True)
                if len(run) > 1 and not set(run) <= outer
            ]
            assert made.cliques == expected


def test_a_grid_of_many_ranks_asks_once_who_is_not_told_apart(monkeypatch):
    """Once for each row, it took more time than all the rest of a report on some hundred
    settings.
    """
    made, asked = (
        ranking([str(place) for place in range(50)], [list(range(50))] * 2, lower_is_better=True),
        [],
    )
    cliques = Ranking.cliques.fget
    monkeypatch.setattr(Ranking, "cliques", property(lambda self: asked.append(1) or cliques(self)))
    assert rank_grid(made).rows[0][2].text
    assert len(asked) == 1
