import math

import pytest

from flwr_byz import attacks
from flwr_byz.attacks.names import parse_attack


@pytest.mark.parametrize(
    ("text", "attack"),
    [
        (" SignFlip ", attacks.SignFlip()),
        ("Malformed(kind='bytes')", attacks.Malformed("bytes")),
        ("NonFinite(value=-1e999)", attacks.NonFinite(-math.inf)),
    ],
)
def test_a_name_with_or_without_keywords_is_an_attack(text, attack):
    assert parse_attack(text) == attack


@pytest.mark.parametrize(
    ("texts", "named"),
    [
        (["SignFlop", "SignFlip(scale='ten')", "SignFlip(**{'scale': 3})"], "SignFlip"),
        (["gaussian_noise"], "did you mean 'GaussianNoise'"),
        (["Attack", "Schedule"], "'Attack'|'Schedule'"),
        (["SignFlip(10)", "SignFlip(scale=", "SignFlip(scale=1).corrupt"], "write an attack as"),
        (["", "attacks.SignFlip()"], "write an attack as"),
        (["SignFlip(strength=3)"], "strength"),
        (["SignFlip(scale=-1)"], "at least 0"),
        (["SignFlip(scale=open('made', 'w'))"], "SignFlip"),  # it is not evaluated
    ],
)
def test_what_is_no_attack_is_a_value_error_that_says_why(texts, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for text in texts:
        with pytest.raises(ValueError, match=named):
            parse_attack(text)
    assert not list(tmp_path.iterdir())
