import math

import pytest

from flwr_byz import attacks
from flwr_byz.attacks.names import parse_attack


@pytest.mark.parametrize(
    ("text", "attack"),
    [
        ("SignFlip", attacks.SignFlip()),
        (" SignFlip() ", attacks.SignFlip()),
        ("Scale(scale=-2.5)", attacks.Scale(scale=-2.5)),
        ("Malformed(kind='bytes')", attacks.Malformed("bytes")),
        ("NonFinite(value=-1e999)", attacks.NonFinite(-math.inf)),
    ],
)
def test_a_name_with_or_without_keywords_is_an_attack(text, attack):
    assert parse_attack(text) == attack


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("SignFlop", "SignFlip"),
        ("gaussian_noise", "did you mean 'GaussianNoise'"),
        ("Attack", "'Attack'"),
        ("Schedule", "'Schedule'"),
        ("SignFlip(10)", "write an attack as"),
        ("SignFlip(scale=", "write an attack as"),
        ("SignFlip(scale=10).corrupt", "write an attack as"),
        ("attacks.SignFlip()", "write an attack as"),
        ("", "write an attack as"),
        ("SignFlip(strength=3)", "strength"),
        ("SignFlip(scale=-1)", "at least 0"),
        ("SignFlip(scale='ten')", "SignFlip"),
        ("SignFlip(scale=open('made', 'w'))", "SignFlip"),  # it is not evaluated
        ("SignFlip(**{'scale': 3})", "SignFlip"),
    ],
)
def test_what_is_no_attack_is_a_value_error_that_says_why(text, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=named):
        parse_attack(text)
    assert not list(tmp_path.iterdir())
