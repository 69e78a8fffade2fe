"""What an expression may be, what is refused, and in which words."""

import pytest

from vestige.config import parse_study
from vestige.errors import ConfigError
from vestige.expressions.language import AGGREGATES, FUNCTIONS, TABLES, Aggregate, Call, ExpressionError, Number, When
from vestige.expressions.reading import canonical, parse
from vestige.runs.tables import SCHEMAS

X = 'mean(history.top1, condition="baseline", step=last)'
TOP1 = Aggregate("mean", "history", "top1", {"condition": "baseline"}, When("last"))


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        (X, TOP1),
        (f"-{X}", Call("neg", (TOP1,))),
        (f"-{X} ** 2", Call("neg", (Call("**", (TOP1, Number(2))),))),
        (f"{X} ** 2 ** 3", Call("**", (TOP1, Number(8)))),
        (f"{X} ** -2", Call("**", (TOP1, Number(-2)))),
        (f"1 - 2 - {X}", Call("-", (Number(-1), TOP1))),
        (f"1 - (2 - {X})", Call("-", (Number(1), Call("-", (Number(2), TOP1))))),
        (f"8 / {X} / 2", Call("/", (Call("/", (Number(8), TOP1)), Number(2)))),
        (f"1 + 2 * {X}", Call("+", (Number(1), Call("*", (Number(2), TOP1))))),
        (f"max({X}, .5, 2e-1)", Call("max", (TOP1, Number(0.5), Number(0.2)))),
        (f"ln(exp(sqrt(abs({X}))))", Call("ln", (Call("exp", (Call("sqrt", (Call("abs", (TOP1,)),)),)),))),
    ],
)
def test_signs_bind_as_in_mathematics(text, meaning):
    assert parse(text) == meaning
    assert parse(canonical(text)) == meaning


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        (
            "max(selectivity.csi, condition='a', epoch=2, layer=\"layer3.*\", dead=any, selective=True)",
            Aggregate(
                *("max", "selectivity", "csi"),
                {"condition": "a", "layer": "layer3.*", "dead": "any", "selective": True},
                When("epoch", 2),
            ),
        ),
        (
            'share(selectivity.csi_cv >= -0.3, condition="a", step=steps(0, 40))',
            Aggregate(
                *("share", "selectivity", "csi_cv", {"condition": "a"}, When("steps", 0, 40)), comparison=(">=", -0.3)
            ),
        ),
        (
            'quantile(linearity.value, 0.9, measure="cka", other="logits", layer="*", condition="a",epoch=epochs(0,2))',
            Aggregate(
                *("quantile", "linearity", "value"),
                {"measure": "cka", "other": "logits", "layer": "*", "condition": "a"},
                When("epochs", 0, 2),
                quantile=0.9,
            ),
        ),
        (
            'area(cumulative.top1, order="csi-desc", scope="layer*", value="zero", condition="a", step=early)',
            Aggregate(
                *("area", "cumulative", "top1"),
                {"order": "csi-desc", "scope": "layer*", "value": "zero", "condition": "a"},
                When("early"),
            ),
        ),
        (
            'mean(history["eta2-permuted.dose"], condition="a", step=120)',
            Aggregate("mean", "history", "eta2-permuted.dose", {"condition": "a"}, When("step", 120)),
        ),
    ],
)
def test_rows_are_chosen_by_what_is_said(text, meaning):
    found = parse(text)
    assert found == meaning
    assert isinstance(found, Aggregate)
    assert found.text == text


REFUSED = {
    # what is found, and a part of what is said to be allowed
    "": ("the end", "Allowed are a number"),
    "2": ("nothing of any table", "mean(selectivity.csi_cv"),
    "__import__('os').system('true')": ("'__import__' at character 1", "ln, exp, sqrt, abs, min, max"),
    "import os": ("'import' at character 1", "Allowed are"),
    "eval('1')": ("'eval' at character 1, which is no function", "Allowed are"),
    "log(2)": ("'log' at character 1", "The logarithm is ln"),
    "maen(history.top1)": ("'maen'", "Did you mean 'mean'"),
    "lambda x: x": ("':' at character 9", "signs + - * /"),
    "[x for x in y]": ("'[' at character 1", "Allowed are"),
    "(x for x in y)": ("'x' at character 2", "Allowed are"),
    "{1: 2}": ("'{' at character 1", "signs"),
    'f"{1}"': ("'f' at character 1", "Allowed are"),
    "'a' * 9": ("'a' at character 1", "Allowed are"),
    f"{X} if 1 else 2": ("'if'", "Allowed are + - * / ** and the end"),
    f"x := {X}": ("':' at character 3", "signs"),
    f"{X}; 1": ("';'", "signs"),
    f"{X} # 1": ("'#'", "signs"),
    f"{X} @ 2": ("'@'", "signs"),
    f"{X} // 2": ("'/'", "Allowed are a number"),
    f"{X}\x00": ("'\\x00'", "signs"),
    "1\u22122": ("'\u2212' at character 2", "signs"),
    f"\u0661\u0660 * {X}": ("'\u0661' at character 1", "signs"),  # a ten in Arabic digits
    f"\uff11 * {X}": ("'\uff11' at character 1", "signs"),
    f"9 ** 9 ** 9 * {X}": ("9**9, which".replace("9**9", "9 ** 3.8742e+08"), "can be calculated"),
    f"1 / 0 + {X}": ("1 / 0, which is no finite number", "can be calculated"),
    f"ln(0) + {X}": ("ln(0), which is no finite number", "can be calculated"),
    "1e999": ("'1e999' at character 1, which is too large", "smaller"),
    "9" * 1900: ("which is too large", "smaller"),
    "9" * 3000: ("3,000 characters", "at most 2,000"),
    "x" * 10**7: ("10,000,000 characters, beginning 'xxx", "at most 2,000"),
    "(" * 10_000 + "1" + ")" * 10_000: ("20,001 characters", "at most 2,000"),
    "(" * 900 + "1" + ")" * 900: ("nesting of more than 30", "two clauses"),
    "-" * 1900 + "1": ("nesting of more than 30", "two clauses"),
    "2 ** " * 300 + "1": ("nesting of more than 30", "two clauses"),
    "1 + " * 300 + "1": ("more than 100 operations", "two clauses"),
    "ln(" * 31 + "2" + ")" * 31: ("nesting of more than 30", "two clauses"),
    "selectivity.csi_cv": ("outside an aggregate: a column has many rows", "mean(selectivity.COLUMN"),
    "selectivity.__class__.__mro__": ("outside an aggregate", "mean("),
    "mean(selectivity.__class__, step=last)": ("'__class__' at character 18, which is no column", "'csi_cv'"),
    "mean(selectivity.csi.real, step=last)": ("'.' at character 21", "Allowed is ')'"),
    "mean(selectivty.csi)": ("'selectivty' at character 6, which is no table", "Did you mean 'selectivity'"),
    "mean(os.path)": ("'os' at character 6, which is no table", "'history'"),
    "mean(selectivity.csi_vc)": ("no column of selectivity", "'csi_cv'"),
    "mean(selectivity.layer)": ("no column of selectivity to calculate with", ""),
    "mean(selectivity['csi.cv'])": ("selectivity[...] with 'csi.cv'", "history["),
    "mean(history['x'])": ("history[...] with 'x'", "eta2.dose"),
    "mean(history[0])": ("history[...] with '0'", "eta2.dose"),
    "mean(2)": ("'2' at character 6", "mean(selectivity.csi_cv, ...)"),
    "mean()": ("')' at character 6", "mean(selectivity.csi_cv, ...)"),
    "mean": ("the end", "Allowed is '('"),
    f"ln({X}, 2)": ("with 2 numbers", "ln takes one number"),
    f"min({X})": ("with 1 numbers", "two numbers or more"),
    "mean(history.top1, step=last)": ("without condition", 'Add condition="baseline"'),
    'mean(history.top1, condition="a")': ("neither step nor epoch", "step=early"),
    'mean(history.top1, condition="a", step=1, epoch=2)': ("both step and epoch", "step=last"),
    'mean(history.top1, condition="a", step=last, step=first)': ("'step' at character 46 a second time", "once"),
    "mean(history.top1, condition=a, step=last)": ("condition= and then 'a'", 'in quotes: condition="..."'),
    'mean(history.top1, condition="a", step=lats)': ("'lats'", "first, last, final, early, peak, steps(a, b)"),
    'mean(history.top1, condition="a", epoch=last)': ("epoch= and then 'last'", "a number, epochs(a, b)"),
    'mean(history.top1, condition="a", step=1.5)': ("step=1.5", "whole number"),
    'mean(history.top1, condition="a", step=steps(4, 4))': ("steps(4, 4)", "ends after its start"),
    'mean(history.top1, condition="a", step=last, split="val")': ("split='val'", "'test'"),
    'mean(history.top1, condition="a", step=last, layer="a")': ("'layer'", "Choose one of 'condition'"),
    'mean(history.top1, condition="a", step=last, each="layer")': ('each="layer"', "no such column"),
    'mean(history.top1 > 0, condition="a", step=last)': ("'>' at character 19 in mean(...)", "Only share(...)"),
    'share(history.top1, condition="a", step=last)': ("without a comparison", "share(history.top1 > 0.1"),
    'quantile(history.top1, 9, condition="a", step=last)': ("the quantile 9", "0 to 1"),
    'mean(ablation.loss_delta, condition="a", step=last)': ("without value", 'value="zero"'),
    'mean(cumulative.top1, condition="a", step=last)': (
        "without order and scope and value and fraction",
        "fraction=0.5",
    ),
    'area(history.top1, condition="a", step=last)': ("area(history.top1, ...)", "cumulative.top1"),
    'mean(linearity.value, condition="a", step=last)': ("without measure and layer", 'measure="midpoint"'),
    'mean(selectivity.csi, condition="a", step=last, dead=1)': ("dead='1'", "dead=any"),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("text", "said"), REFUSED.items(), ids=[text[:30] for text in REFUSED])
def test_what_is_no_expression_is_refused_at_once_naming_claim_clause_and_what_is_allowed(text, said):
    settings = {
        "name": "x",
        "claims": {
            "early_window": 3,
            "own": {"mine": {"statement": "S", "clauses": [{"statistic": text, "smallest_effect": 0}]}},
        },
    }
    with pytest.raises(ConfigError) as caught:
        parse_study(settings, source="x.yaml")
    found, allowed = said
    assert caught.value.found.startswith("claims.own.0: claim 'mine', clause 'a': its statistic has ")
    assert found in caught.value.found
    assert allowed in caught.value.remedy
    assert len(str(caught.value)) < 1000


def test_spaces_and_quotes_do_not_matter():
    one = "ln( mean(history.top1,condition='a',step=last)/-2 )**2-share(selectivity.csi>.5 ,condition=\"a\",epoch=1)"
    other = (
        'ln(mean(history.top1, condition="a", step=last) / -2)**2 - share(selectivity.csi > .5, condition="a", epoch=1)'
    )
    assert canonical(one) == canonical(other) == other


def test_errors_are_of_one_kind_and_never_python_s():
    """Every prefix of an expression, and every character of it changed, is read or refused in our words."""
    text = (
        'ln(quantile(selectivity.csi, 0.9, condition="a", step=steps(0, 4))) - '
        'share(selectivity.dead, condition="a", step=1)'
    )
    refused = []
    for place in range(len(text)):
        for changed in (text[:place], text[:place] + "(" + text[place:], text[:place] + "\u00b2" + text[place + 1 :]):
            try:
                parse(changed)
            except ExpressionError as error:  # any other error is ours
                refused.append(error)
    assert len(refused) > 2 * len(text)
    assert all(error.found and error.remedy for error in refused)


def test_every_column_that_an_expression_knows_is_a_number_of_the_table_s_schema():
    for name, table in TABLES.items():
        schema = SCHEMAS[name]
        assert all(schema[column].is_numeric() or str(schema[column]) == "Boolean" for column in table.columns)
        chosen_by = {"step", "epoch", "condition", "protocol", "split", "seed", "dataset", "n", "each"}
        assert set(table.selectors) - chosen_by <= set(schema)
        # what is measured, and not what names a row or a class
        numbers = {column for column, kind in schema.items() if kind.is_float() or str(kind) == "Boolean"}
        assert numbers - {"epoch", "fraction"} == set(table.columns)
    assert set(AGGREGATES) & set(FUNCTIONS) == {"min", "max"}
