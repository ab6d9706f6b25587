"""What a token counts in a calibration, by sums and by shares."""

import pytest

from rac.calibration import Part, token_weights, weigh
from rac.definitions import Calibration
from rac.errors import RacError

TOKENS = {"traces": {"prompt": 10, "decode": 30}, "text": {"text": 60}}


def weights(**given):
    by_key = weigh(Calibration(**given), TOKENS)
    return token_weights(part for parts in by_key.values() for part in parts)


def test_a_weight_of_every_part():
    assert weights(sum={"traces": 1, "traces.decode": 2, "text": 0.5}) == {
        ("traces", "prompt"): 1,
        ("traces", "decode"): 3,
        ("text", "text"): 0.5,
    }


def test_shares_are_of_all_tokens_together():
    found = weights(share={"traces": 0.25, "text": 0.75})
    counted = sum(TOKENS[source][part] * weight for (source, part), weight in found.items())
    assert counted == pytest.approx(100)
    assert found["traces", "prompt"] == found["traces", "decode"] == pytest.approx(25 / 40)
    assert found["text", "text"] == pytest.approx(75 / 60)


def test_tokens_are_told_by_key():
    by_key = weigh(Calibration(sum={"traces": 2, "text.text": 1}), TOKENS)
    assert by_key == {
        "traces": [Part("traces", "prompt", 2, 10), Part("traces", "decode", 2, 30)],
        "text.text": [Part("text", "text", 1, 60)],
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sum": {"c4": 1}}, "nothing was given of 'c4'; given: traces, text"),
        (
            {"sum": {"traces.text": 1}},
            "'traces.text': the source holds prompt, decode and no 'text'",
        ),
    ],
)
def test_what_is_not_there_is_one_line(given, message):
    with pytest.raises(RacError) as error:
        weights(**given)
    assert str(error.value) == message


def test_no_share_of_no_tokens():
    with pytest.raises(RacError, match="'text' has no tokens to take a share of"):
        weigh(Calibration(share={"text": 1}), {"text": {"text": 0}})
