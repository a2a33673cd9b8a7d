"""A template may neither run for long nor fill memory, and what templates usually do still works."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from meteor_agents.cli.commands.prompts import lint_prompts
from meteor_agents.errors import TemplateError
from meteor_agents.method.template_sandbox import Sandbox

ENDLESS = [
    "{% for i in range(10**9) %}x{% endfor %}",
    "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}",
    "{% for i in 'x' * 9000 %}{% for j in 'x' * 9000 %}{% endfor %}{% endfor %}",
    "{% for i in range(99) %}{{ range(99999)|list|length }}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ 10**10000000 }}",
    "{{ 9 * 9**300 * 9**300 }}",
]
HUGE = [
    "{{ 'x' * 10**9 }}",
    "{{ 10**9 * 'x' }}",
    "{{ (['x'] * 10**9)|length }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%*d' % (1000000000, 1) }}",
    "{{ '%1000000000d'|format(1) }}",
    "{{ '{:1000000000}'.format(1) }}",
    "{{ '{:{w}}'.format(1, w=10**9) }}",
    "{{ 'x'.ljust(1000000000) }}",
    "{{ 'x'|center(1000000000) }}",
    "{{ '\t'.expandtabs(1000000000) }}",
    "{{ ('a' * 100000).replace('a', 'b' * 100000) }}",
    "{{ ('a' * 100000)|replace('a', 'b' * 100000) }}",
    "{{ (['a' * 100000] * 10000)|join }}",
    "{{ ''.join(['a' * 100000] * 10000) }}",
    "{{ 'x\nx'|indent(1000000000) }}",
    "{{ lipsum(10000000) }}",
    "{% set n = namespace(x='x' * 999) %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x|length }}",
    "{% set n = namespace(x='x' * 999) %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}{{ n.x|length }}",
    "{% set x = 'x' * 99 %}" + "{% set x %}{{ x * 9 }}{{ x }}{% endset %}" * 12 + "{{ x|length }}",
    "{% for i in range(99) %}{{ 'x' * 100000 }}{% endfor %}",
]


@pytest.mark.parametrize("text", [*ENDLESS, *HUGE])
def test_a_template_that_would_run_or_grow_without_end_is_refused_at_once(tmp_path: Path, text: str) -> None:
    (tmp_path / "student_attempt.jinja").write_text(f"{{% block user %}}{text} why?{{% endblock %}}")
    began = time.monotonic()
    with pytest.raises(TemplateError, match=r"student_attempt\.jinja"):
        lint_prompts(tmp_path)
    assert time.monotonic() - began < 10


def test_what_prompts_use_still_works() -> None:
    text = (
        "{% for k, v in {'a': 1, 'b': 0}.items() if v %}{{ loop.index }}/{{ loop.length }} {{ k }}{% endfor %}|"
        "{% for c in 'ab' %}{{ c }}{{ ', ' if not loop.last }}{% else %}none{% endfor %}|"
        "{{ 'n' ~ 2 ~ none }}|{{ 1 + 2 }}|{{ [1] + [2] }}|{{ 2**64 }}|{{ '-' * 5 }}|{{ '%05.2f' % 3.14159 }}|"
        "{{ '%.1f%%'|format(2.5) }}|{{ '{} {:>5}'.format(100000, 2) }}|{{ 'a\nb'|indent(2) }}|{{ [1, 2]|join('-') }}|"
        "{{ 'abc'|replace('b', 'x') }}|{{ 'abc'.replace('c', '') }}|{{ range(3)|list }}|{{ 'x'.ljust(3) }}|"
        "{% macro f(n) %}{{ n * 2 }}{% endmacro %}{{ f(4) }}"
    )
    assert Sandbox().from_string(text).render() == (
        "1/1 a|a, b|n2None|3|[1, 2]|18446744073709551616|-----|03.14|2.5%|100000     2|a\n  b|1-2|axc|ab|[0, 1, 2]|x  |8"
    )
