"""Old names still work, and warn with the new one."""

import dataclasses
import warnings

import numpy as np
import pytest

from flwr_byz import attacks, theory
from flwr_byz.attacks import Knowledge, defense_aware, omniscient

RNG = np.random.default_rng(0)
PLAN = theory.plan(num_clients=5, num_byzantine=1, samples_per_client=50, dim=2)
POINT = PLAN.trade_off[0]


def knowledge(**changes):
    return Knowledge(np.ones(2), 5, 1, RNG, model=np.zeros(2), **changes)


@pytest.mark.parametrize(
    ("owner", "old", "expected", "new", "named"),
    [
        (attacks, "aimed", defense_aware, "defense_aware", "flwr_byz.attacks.aimed"),
        (omniscient, "AllKnowing", omniscient.Omniscient, "Omniscient", "omniscient.AllKnowing"),
        (attacks.Mimic, "knows", {"honest"}, "requires", "Mimic.knows"),
        (knowledge(uses_gradients=True), "descends", True, "uses_gradients", "Knowledge.descends"),
        (PLAN, "error_in_peace", PLAN.clean_error, "clean_error", "Plan.error_in_peace"),
        (POINT, "error_in_peace", POINT.clean_error, "clean_error", "TradeOff.error_in_peace"),
    ],
)
def test_an_old_name_is_read(owner, old, expected, new, named):
    with pytest.warns(DeprecationWarning, match=f"{named}.* is now called {new};"):
        assert getattr(owner, old) == expected


def test_the_old_name_of_an_argument_is_taken_but_no_unknown_name():
    with pytest.raises(AttributeError, match=r"flwr_byz\.attacks.*'SignFlop'"):
        _ = attacks.SignFlop
    assert "error_in_peace" not in PLAN.to_dict()
    for make in (knowledge, lambda **change: dataclasses.replace(knowledge(), **change)):
        with pytest.warns(DeprecationWarning, match=r"Knowledge\(descends=\).*uses_gradients;"):
            assert make(descends=True).uses_gradients


class New(attacks.Malformed):
    def corrupt(self, arrays, rng):
        return [*super().corrupt(arrays, rng), "new"]


def test_an_attack_written_with_the_old_names_works_also_in_one_family_with_new_ones():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")

        class Old(New):
            knows = frozenset({"model"})

            def __call__(self, knowledge):
                self.check_known(knowledge)
                return -knowledge.model if knowledge.descends else knowledge.model

            def spoil(self, arrays, rng):
                return [*super().spoil(arrays, rng), "old"]

    said = {str(warning.message).partition(";")[0] for warning in caught}
    assert said == {"Old.knows is now called requires", "Old.spoil is now called corrupt"}
    assert {warning.filename for warning in caught} == {__file__}
    assert Old.requires == {"model"}
    with pytest.warns(DeprecationWarning, match=r"New\.spoil is now called corrupt;"):
        assert New("empty").spoil([], RNG) == ["new"]
    old = Old("empty")
    with pytest.warns(DeprecationWarning, match=r"Old\.spoil is now called corrupt;"):
        assert old.corrupt([], RNG) == ["new", "old"]
    with pytest.raises(ValueError, match="Old needs to know the model"):
        old(dataclasses.replace(knowledge(), model=None))
    with pytest.warns(DeprecationWarning, match=r"Knowledge\.descends.*uses_gradients"):
        assert old(knowledge()).tolist() == [0.0, 0.0]
