import pytest

from flwr_byz import attacks
from flwr_byz.attacks.names import parse_attack
from tests.support.table import table

WRONG = """
SignFlop : SignFlip | gaussian_noise : did you mean 'GaussianNoise' | Attack : 'Attack'
Schedule : 'Schedule' | SignFlip(10) : write an attack as | SignFlip(scale= : write an attack as
SignFlip(scale=10).corrupt : write an attack as | attacks.SignFlip() : write an attack as
SignFlip(strength=3) : strength | SignFlip(scale=-1) : at least 0 | SignFlip(scale='ten') : SignFlip
SignFlip(scale=open('made', 'w')) : SignFlip | SignFlip(**{'scale': 3}) : SignFlip
"""


def test_a_name_with_or_without_keywords_is_an_attack():
    assert parse_attack(" SignFlip ") == attacks.SignFlip()
    assert parse_attack("Malformed(kind='bytes')") == attacks.Malformed("bytes")
    assert parse_attack("NonFinite(value=-1e999)") == attacks.NonFinite(float("-inf"))


@pytest.mark.parametrize(("text", "named"), [*table(WRONG), ("", "write an attack as")])
def test_what_is_no_attack_is_a_value_error_that_says_why(text, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=named):
        parse_attack(text)
    assert not list(tmp_path.iterdir())  # a text is not evaluated
