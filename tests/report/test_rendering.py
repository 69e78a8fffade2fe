"""What is shown of texts that come from elsewhere."""

import pytest

from vestige.report.rendering import coded, environment


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("run `vestige run`", "run <code>vestige run</code>"),
        ("`a<b>` & `c`", "<code>a&lt;b&gt;</code> &amp; <code>c</code>"),
        ("one ` alone, <i>", "one ` alone, &lt;i&gt;"),
        ("", ""),
    ],
)
def test_what_stands_in_backticks_is_code_and_all_else_is_escaped(text, shown):
    assert coded(text) == shown
    assert environment().from_string("{{ text|coded }}").render(text=text) == shown
    assert environment().from_string("{{ text|cell }}").render(text=text) == shown
