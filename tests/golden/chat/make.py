"""Chat templates of our own, rendered by transformers: templates.json for tests/text.rs.

Run with the packages of tests/golden/requirements.txt. Each template asks for one thing that transformers' environment does.
"""

import json
import pathlib

from transformers.utils.chat_template_utils import _compile_jinja_template

USER = {"role": "user", "content": " Is 1 < 2 & 'so'? é\n"}
ASSISTANT = {"role": "assistant", "content": "<think>yes</think>\nYes."}
TURNS = [{"role": "system", "content": "Be brief."}, USER, ASSISTANT, {"role": "user", "content": "Why?"}]

TEMPLATES = {
    "json without HTML escapes": "{{ messages | tojson }}\n{{ {'b': [], 'a': {}, 'c': [1, true, none, 0.5]} | tojson }}",
    "json with options": "{{ messages[0] | tojson(indent=4) }}\n{{ {'b': 'é', 'a': []} | tojson(ensure_ascii=True, sort_keys=true) }}\n"
    "{{ {'a': [1, 2]} | tojson(separators=(',', ':')) }}\n{{ [[1], {'x': []}] | tojson(indent=2) }}",
    "tools and documents are none": "{% if tools is not none %}tools{% endif %}{% if tools is defined %}defined{% endif %}"
    "{% if documents %}documents{% endif %}{% if undefined is defined %}undefined{% endif %}",
    "generation": "{% for m in messages %}\n    {%- if m.role == 'assistant' %}\n  {% generation %}\n{{ m.content }}\n"
    "  {% endgeneration %}\n    {%- else %}\n{{ m.content }}|\n    {%- endif %}\n{% endfor %}",
    "space around blocks": "  {% for m in messages %}  \n  {{- m.role -}}  \n    {% if loop.first %}\n first {% elif loop.last %} last\n"
    "  {%- endif %}\n{% endfor %}  \n\n",
    "loop controls": "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}{% if loop.index0 == 3 %}{% break %}"
    "{% endif %}[{{ m.role }}:{{ loop.index }}/{{ loop.length }}]{% endfor %}",
    "strings": "{{ messages[1].content.strip().upper() }}|{{ messages[2]['content'].split('</think>')[-1].lstrip('\\n') }}|"
    "{{ 'abc'.startswith('a') and not 'abc'.endswith('a') }}|{{ 'a-b'.replace('-', '+') }}|{{ messages[-1].content[:2] }}|"
    "{{ 'x y'.title() }}|{{ messages[1].content | trim | length }}|{{ ' '.join(['a', 'b']) }}",
    "namespaces, macros and slices": "{% set ns = namespace(n=0, last='') %}{% macro say(role, content) %}<{{ role }}>{{ content }}"
    "{% endmacro %}{% for m in messages[1:] %}{% set ns.n = ns.n + 1 %}{% set ns.last = m.role %}{{ say(m.role, m.content | trim) }}"
    "{% endfor %}{{ ns.n }}{{ ns.last }}{{ messages[::-1][0].role }}",
    "dictionaries": "{% for key, value in messages[0].items() %}{{ key }}={{ value }};{% endfor %}{{ messages[0].get('name', 'none') }}"
    "{{ 'role' in messages[0] }}{{ messages[0] is mapping }}{{ messages is iterable }}{{ messages[0].content is string }}",
    "kinds": "{% for x in [none, 'a', 1, 1.5, true, [1], {'a': 1}, missing] %}{{ x is iterable }},{{ x is sequence }},{{ x is string }},"
    "{{ x is mapping }},{{ x is number }},{{ x is none }},{{ x is defined }},{{ x is boolean }},{{ x is integer }};{% endfor %}",
    "tokens and tests": "{{ bos_token }}{{ eos_token }}{{ add_generation_prompt }}{{ none }}{{ '%s' | format('a') }}"
    "{{ (messages | selectattr('role', 'equalto', 'user') | list) | length }}{{ 'a' ~ 1 }}{{ 7 // 2 }}{{ messages | map(attribute='role') | join(',') }}",
}

cases = []
for name, template in TEMPLATES.items():
    compiled = _compile_jinja_template(template)
    for add in [False, True]:
        text = compiled.render(
            messages=TURNS, tools=None, documents=None, add_generation_prompt=add, bos_token="<s>", eos_token="</s>"
        )
        cases.append({"name": name, "template": template, "messages": TURNS, "add_generation_prompt": add, "text": text})
pathlib.Path(__file__).with_name("templates.json").write_text(json.dumps(cases, ensure_ascii=False, indent=1) + "\n")
