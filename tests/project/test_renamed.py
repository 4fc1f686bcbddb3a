"""Old names still work, and warn with the new one."""

import dataclasses
import warnings
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from flwr_byz import attacks, theory
from flwr_byz.attacks import Attack, Knowledge, defense_aware, omniscient


def knowledge(**changes):
    rng = np.random.default_rng(0)
    return Knowledge(np.ones(2), 5, 1, rng, model=np.zeros(2), **changes)


def warns(old, new):
    return pytest.warns(DeprecationWarning, match=f"{old}.* is now called {new};")


def test_the_old_names_of_modules_and_classes():
    with warns("flwr_byz.attacks.aimed", "defense_aware"):
        from flwr_byz.attacks import aimed
    assert aimed is defense_aware
    with warns("flwr_byz.attacks.omniscient.AllKnowing", "Omniscient"):
        assert omniscient.AllKnowing is omniscient.Omniscient
    with pytest.raises(AttributeError, match=r"flwr_byz\.attacks.*'SignFlop'"):
        _ = attacks.SignFlop


def test_the_old_names_of_an_attack_are_read():
    attack = attacks.Malformed("count")
    with warns("Mimic.knows", "requires"):
        assert attacks.Mimic.knows == {"honest"}
    with warns("Malformed.spoil", "corrupt"):
        assert len(attack.spoil([np.ones(2)], np.random.default_rng(0))) == 2
    with warns("Knowledge.descends", "uses_gradients"):
        assert knowledge(uses_gradients=True).descends


def test_the_old_name_of_the_clean_error_is_read():
    plan = theory.plan(num_clients=5, num_byzantine=1, samples_per_client=50, dim=2)
    with warns("Plan.error_in_peace", "clean_error"):
        assert plan.error_in_peace == plan.clean_error
    with warns("TradeOff.error_in_peace", "clean_error"):
        assert plan.trade_off[0].error_in_peace == plan.trade_off[0].clean_error
    assert "error_in_peace" not in plan.to_dict()


def test_the_old_name_of_an_argument_is_taken():
    with warns(r"Knowledge\(descends=\)", "uses_gradients"):
        assert knowledge(descends=True).uses_gradients
    with warns(r"Knowledge\(descends=\)", "uses_gradients"):
        assert dataclasses.replace(knowledge(), descends=True).uses_gradients


def test_old_and_new_names_of_a_method_may_meet_in_one_family():
    @dataclass(frozen=True)
    class New(attacks.Malformed):
        def corrupt(self, arrays, rng):
            return [*super().corrupt(arrays, rng), "new"]

    with warns("Old.spoil", "corrupt"):

        @dataclass(frozen=True)
        class Old(New):
            def spoil(self, arrays, rng):
                return [*super().spoil(arrays, rng), "old"]

    rng = np.random.default_rng(0)
    with warns("New.spoil", "corrupt"):
        assert New("empty").spoil([], rng) == ["new"]
    with warns("Old.spoil", "corrupt"):
        assert Old("empty").corrupt([], rng) == ["new", "old"]


def test_an_attack_written_with_the_old_names_works():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")

        @dataclass(frozen=True)
        class Own(Attack):
            knows: ClassVar[frozenset[str]] = frozenset({"model"})

            def __call__(self, knowledge):
                self.check_known(knowledge)
                return -knowledge.model if knowledge.descends else knowledge.model

            def spoil(self, arrays, rng):
                return [*arrays, *arrays]

    assert {str(warning.message).partition(";")[0] for warning in caught} == {
        "Own.knows is now called requires",
        "Own.spoil is now called corrupt",
    }
    assert {warning.filename for warning in caught} == {__file__}
    assert Own.requires == {"model"}
    assert len(Own().corrupt([np.ones(2)], np.random.default_rng(0))) == 2
    with pytest.raises(ValueError, match="Own needs to know the model"):
        Own()(dataclasses.replace(knowledge(), model=None))
    with warns("Knowledge.descends", "uses_gradients"):
        assert Own()(knowledge()).tolist() == [0.0, 0.0]
