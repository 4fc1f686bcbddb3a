import math

import pytest

from flwr_byz import attacks
from flwr_byz.attacks.names import parse_attack


def test_a_name_is_an_attack_with_its_defaults():
    assert parse_attack("SignFlip") == attacks.SignFlip()
    assert parse_attack(" SignFlip() ") == attacks.SignFlip()


def test_keywords_are_literals():
    assert parse_attack("SignFlip(scale=10)") == attacks.SignFlip(scale=10)
    assert parse_attack("Scale(scale=-2.5)") == attacks.Scale(scale=-2.5)
    assert parse_attack("Malformed(kind='bytes')") == attacks.Malformed("bytes")
    assert parse_attack("NonFinite(value=-1e999)") == attacks.NonFinite(-math.inf)


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
        ("SignFlip(scale=abs(3))", "SignFlip"),
        ("SignFlip(**{'scale': 3})", "SignFlip"),
    ],
)
def test_what_is_no_attack_is_a_value_error_that_says_why(text, named):
    with pytest.raises(ValueError, match=named):
        parse_attack(text)


def test_a_text_is_not_evaluated(tmp_path):
    path = tmp_path / "made"
    with pytest.raises(ValueError, match="SignFlip"):
        parse_attack(f"SignFlip(scale=open({str(path)!r}, 'w'))")
    assert not path.exists()
