"""Cards of a study's own claims, and what they say of changes after results."""

from vestige.report.cards import cards

CLAUSE = {
    "id": "C4x.a",
    "statistic": 'mean(history.loss, condition="a", step=last) - 1',
    "unit": "nats",
    "direction": "at least",
    "smallest_effect": 0.1,
    "estimate": 0.25,
    "low": 0.2,
    "high": 0.3,
    "upper": None,
    "seeds": [0, 1, 2],
    "values": [0.24, 0.25, 0.26],
    "verdict": "supported",
    "note": "",
}
CLAIM = {
    "id": "verdicts",
    "title": "Loss",
    "statement": "Loss stays",
    "sentence": "Loss stays: it is 0.25 nats.",
    "verdict": "supported",
    "p_holm": 0.01,
    "clauses": [CLAUSE],
}


def card(**changes):
    (found,) = cards({"claims": [{**CLAIM, **changes}]})
    return found


def test_an_own_claim_has_a_place_of_its_own_and_says_what_it_was_corrected_for():
    own, registered = card(own=True), card(own=False)
    assert (own.anchor, registered.anchor) == ("own-verdicts", "verdicts")
    assert own.p == "p = 0.010 (Holm over the study's own claims)"
    assert registered.p == "p = 0.010 (Holm over the claims)"


def test_own_units_stand_behind_their_numbers():
    def row(**changes):
        return card(own=True, clauses=[{**CLAUSE, **changes}]).clauses[0]

    assert (row().estimate, row().condition) == ("0.250 nats", "expected at least 0.1 nats")
    assert (row(unit="").estimate, row(unit="").condition) == ("0.250", "expected at least 0.1")
    assert row(unit="accuracy").estimate == "25.00 points"
    assert row(unit="steps", estimate=12.0).estimate == "12.0 steps"
    assert row(unit="ln ratio").estimate == "0.250 (× 1.28)"


def test_changes_after_results_are_on_the_card():
    assert card().changed == ()
    assert card(changed=["changed on Monday"]).changed == ("changed on Monday",)
