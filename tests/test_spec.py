"""Keys: equal where the computation is equal, different where it is not."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from harness.base.errors import InvalidSelector, InvalidSetting, UnknownName
from harness.base.spec import Protocol, RunSpec, added_later, former_values, settled_fields
from harness.plan.grid import expand, parse_seeds, parse_selector, parse_sets


def one(method="hvae", task="gaussian-5", seeds=(0,), protocol="smoke", **sets):
    (run,) = expand([method], [task], list(seeds), protocol, sets)
    return run


def test_a_variant_and_the_same_setting_have_one_key():
    written = {
        one("hvae-untempered").spec.key,
        one("hvae[tempering=none]").spec.key,
        one(**{"method.tempering": "none"}).spec.key,
    }
    assert len(written) == 1
    assert one("hvae").spec.key not in written


def test_a_protocol_and_the_same_fields_have_one_key():
    smoke = {name: str(value) for name, value in one().spec.protocol().model_dump().items()}
    assert one(protocol="standard", **smoke).spec.key == one().spec.key


def test_a_selector_sets_fields_of_the_protocol_too():
    plain, other = expand(
        ["vb"], ["gaussian-2[steps=50][lr.base=1e-3]", "gaussian-3"], [0], "smoke"
    )
    assert (plain.spec.steps, plain.spec.lr_base) == (50, 1e-3)
    assert (other.spec.steps, other.spec.lr_base) == (200, None)
    assert plain.settings["steps"] == 50
    assert one("vb[lr=0.1]", "gaussian-5[lr=0.2]").spec.lr == 0.2  # the task's wins
    assert one("vb[lr=0.1]", "gaussian-5[lr=0.2]", lr="0.3").spec.lr == 0.3
    assert one("hvae[n_leapfrog=2]").spec.method_fields["n_leapfrog"] == 2
    with pytest.raises(UnknownName, match="nothing"):
        one("vb[nothing=1]")


def test_values_are_typed_before_they_are_hashed():
    assert one(lr="1e-3").spec.key == one(lr="0.001").spec.key
    assert one(steps="1e3").spec.key == one(steps="1000").spec.key
    assert one(**{"batch_size": "none"}).spec.batch_size is None


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in Protocol.model_fields
        if name not in ("optimiser", "lr_schedule", "gradient")
    ],
)
def test_every_protocol_field_is_part_of_the_key(name):
    other = {
        "shuffle": "true",
        "base": "learned",
        "bound": "iwae",
        "dtype": "float32",
        "rmsprop_decay": "0.5",
        "clip_norm": "1.0",
        "momentum": "0.5",
        "start_from": "77" * 8,
        "eval_parameters": "best",
    }
    assert one(**{name: other.get(name, "77")}).spec.key != one().spec.key


def test_seeds_share_a_cell_and_nothing_else():
    runs = expand(["vb"], ["gaussian-5"], [0, 1, 2], "smoke")
    assert len({run.spec.cell for run in runs}) == 1
    assert len({run.spec.key for run in runs}) == 3


def test_a_spec_survives_its_plain_values():
    spec = one().spec
    assert RunSpec.from_plain(spec.plain()) == spec


def test_a_field_added_later_keeps_old_keys():
    class Old(BaseModel):
        a: int = 1

    class New(Old):
        b: int = added_later(old=7, default=9)

    assert settled_fields(New, New(b=7).model_dump()) == Old().model_dump()
    assert New(**{**former_values(New), **Old().model_dump()}).b == 7
    assert "b" in settled_fields(New, New().model_dump())


def test_later_layers_win():
    assert one(protocol="standard").spec.lr == 1e-2
    assert one(protocol="smoke").spec.lr == 5e-2
    assert one(protocol="smoke", lr="0.5").spec.lr == 0.5
    assert (
        one("hvae[n_leapfrog=3]", **{"method.n_leapfrog": "4"}).spec.method_fields["n_leapfrog"]
        == 4
    )


def test_a_matrix_is_crossed_and_each_run_stands_once():
    runs = expand(
        ["hvae[n_leapfrog=1,10][tempering=fixed,none]", "hvae"],
        ["gaussian-2", "gaussian-3"],
        [0, 1],
        "smoke",
    )
    assert len(runs) == 4 * 2 * 2
    assert len({run.spec.key for run in runs}) == len(runs)


def test_settings_name_what_is_not_the_default():
    assert one("hvae[n_leapfrog=3]", protocol="standard").settings == {"method.n_leapfrog": 3}
    assert one("hvae", protocol="standard", **{"task.n_data": "50"}).settings == {"task.n_data": 50}


def test_seeds_parse():
    assert parse_seeds("0-2,9, 4-5,1") == [0, 1, 2, 9, 4, 5]


@pytest.mark.parametrize("seed", [10**17, 10**18, 2**63 - 1])
def test_a_long_seed_is_as_good_as_another(seed):
    (run,) = expand(["vb"], ["gaussian-2"], parse_seeds(f"{seed}"), "smoke")
    assert run.spec.seed == seed


@pytest.mark.parametrize("text", [f"{2**63}", f"0-{10**20}"])
def test_a_seed_that_no_database_holds_is_named(text):
    with pytest.raises(InvalidSelector, match=f"'{text}' .* beyond 9223372036854775807"):
        parse_seeds(text)


def test_steps_that_cannot_be_counted_are_refused():
    with pytest.raises(InvalidSetting, match=r"steps=.*less than 9223372036854775808"):
        expand(["vb"], ["gaussian-2"], [0], "smoke", {"steps": 10**23})


@pytest.mark.parametrize("text", ["3-1", "", "a", "1-", "-1", "0-99999999", "1,,2", "1.5"])
def test_bad_seeds_are_refused(text):
    with pytest.raises(InvalidSelector):
        parse_seeds(text)


@pytest.mark.parametrize(
    "text",
    [
        "hvae[",
        "hvae]",
        "hvae[n_leapfrog]",
        "hvae[=1]",
        "hvae[n_leapfrog=]",
        "[a=1]",
        "",
    ],
)
def test_bad_selectors_are_refused(text):
    with pytest.raises((InvalidSelector, UnknownName)):
        parse_selector("method", text)


@pytest.mark.parametrize("text", ["lr", "=1", "lr=", ""])
def test_bad_sets_are_refused(text):
    with pytest.raises(InvalidSelector):
        parse_sets([text])


@pytest.mark.parametrize(
    ("sets", "error", "says"),
    [
        ({"lr": "-1"}, InvalidSetting, "lr=-1"),
        ({"lr": "nan"}, InvalidSetting, "lr=nan"),
        ({"steps": "0"}, InvalidSetting, "greater than or equal to 1"),
        ({"steps": "1.5"}, InvalidSetting, "steps=1.5"),
        ({"bound": "elb"}, InvalidSetting, "'elbo', 'iwae' or 'log-variance'"),
        ({"n_leapfrog": "5"}, UnknownName, "method.n_leapfrog"),
        ({"method.n_leapfog": "5"}, UnknownName, "Did you mean 'method.n_leapfrog'"),
        ({"method.init_step": "0.7"}, InvalidSetting, "must be below max_step"),
    ],
)
def test_bad_values_are_named(sets, error, says):
    with pytest.raises(error, match=says):
        one(**sets)


def test_a_label_is_the_name_with_its_variant():
    from harness.plan import registry

    cls = registry.find("method", "hvae").cls
    assert registry.method_label(cls, "hvae", {"tempering": "none"}) == "hvae-untempered"
    assert registry.method_label(cls, "hvae", {"tempering": "free"}) == "hvae"
