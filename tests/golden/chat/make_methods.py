"""Python methods, Jinja filters and template variables, rendered by transformers: methods.json.

For tests/chat_templates.rs.
Run with the packages of tests/golden/requirements.txt. One line per expression, so that a test names what differs.
"""

import json
import pathlib

from transformers.utils.chat_template_utils import _compile_jinja_template

TURNS = [
    {"role": "system", "content": "  Be brief.\tAnd kind. "},
    {"role": "user", "content": "Don't a\nb\r\nc\x0bd\u2028e"},
    {"role": "assistant", "content": "<think>yes</think>\n\nYes."},
]
VARIABLES = {"enable_thinking": False, "effort": "high", "limit": 3, "ratio": 0.5, "nothing": None, "parts": ["a", {"b": 1}]}

EXPRESSIONS = """
s.split()|tojson
s.split(' ')|tojson
s.split(None, 1)|tojson
s.split(' ', 1)|tojson
s.split(maxsplit=1)|tojson
s.split(sep='e', maxsplit=2)|tojson
s.split('e', -1)|tojson
s.split('.', 0)|tojson
s.rsplit()|tojson
s.rsplit(None, 1)|tojson
s.rsplit(' ', 1)|tojson
s.rsplit('e', maxsplit=1)|tojson
s.rsplit('.')|tojson
''.split()|tojson
''.split(',')|tojson
''.rsplit(',')|tojson
'a,b,,c'.split(',')[-1]
'</think>yes</think> no'.split('</think>')[-1].strip()
'</think>yes</think> no'.rsplit('</think>', 1)[0]
u.splitlines()|tojson
u.splitlines(True)|tojson
u.splitlines(keepends=true)|tojson
'a\\n'.splitlines()|tojson
''.splitlines()|tojson
'a=b=c'.partition('=')|list|tojson
'a=b=c'.rpartition('=')|list|tojson
'abc'.partition('=')|list|tojson
'abc'.rpartition('=')|list|tojson
'a=b=c'.partition('=')[2]
'a=b=c'.rpartition('=')[0]
'TestHook'.removeprefix('Test')
'TestHook'.removeprefix('Hook')
'TestHook'.removesuffix('Hook')
'TestHook'.removesuffix('')
'42'.zfill(5)
'-42'.zfill(5)
'+42'.zfill(2)
'abcdef'.zfill(3)
'ab'.ljust(5) ~ '|'
'ab'.rjust(5, '*')
'ab'.center(7, '-')
'ab'.center(6) ~ '|'
'abc'.center(6, '.')
'abcd'.center(7, '.')
'Hello World'.swapcase()
'Straße'.casefold()
'Straße'.upper()
'hELLO wORLD'.capitalize()
"they're bill's 3rd-rate x2y".title()
'a\\tb\\tcd'.expandtabs()
'a\\tb\\ncd\\te'.expandtabs(4)
'abcabc'.find('c')
'abcabc'.find('c', 3)
'abcabc'.find('c', -2)
'abcabc'.find('c', 0, 2)
'abcabc'.find('')
'abc'.find('', 5)
'abcabc'.rfind('b')
'abcabc'.rfind('b', 0, 4)
'éaéb'.find('b')
'abcabc'.index('b')
'abcabc'.rindex('b')
'abcabc'.count('bc')
'abcabc'.count('')
'abcabc'.count('a', 1)
'abcabc'.startswith('bc', 1)
'abcabc'.startswith(('x', 'ab'))
'abcabc'.endswith(('x', 'bc'))
'abcabc'.endswith('ab', 0, 5)
'xxabxx'.strip('x')
'xyabyx'.lstrip('xy')
'xyabyx'.rstrip('xy')
s.strip()
s.lstrip() ~ '|'
s.rstrip() ~ '|'
s.strip(none)
'aaa'.replace('a', 'b', 2)
'aaa'.replace('', '-')
'abc'.isalpha(), 'ab1'.isalpha(), ''.isalpha()
'abc1'.isalnum(), 'a c'.isalnum()
'123'.isdigit(), '12a'.isdigit(), ''.isdigit(), '²'.isdigit(), '½'.isdigit()
'123'.isdecimal(), '²'.isdecimal()
'123'.isnumeric(), '½'.isnumeric()
'ab'.islower(), 'aB'.islower(), '1'.islower()
'AB'.isupper(), 'aB'.isupper(), 'A1'.isupper()
'Ab Cd'.istitle(), 'Ab cd'.istitle(), 'AB'.istitle()
' \\t'.isspace(), ''.isspace()
'abc'.isascii(), 'é'.isascii()
'a_1'.isidentifier(), '1a'.isidentifier(), ''.isidentifier()
'a b'.isprintable(), 'a\\n'.isprintable()
'-'.join(['a', 'b'])
'-'.join('abc')
'{}-{}'.format('a', 1)
'{0}{1}{0}'.format('a', 'b')
'{name}: {x}'.format(name='n', x=2)
'{:>5}|{:<5}|{:^5}'.format('a', 'b', 'c')
'{:05d} {:x} {:.2f} {:,}'.format(42, 255, 3.14159, 1234567)
'{{}} {}'.format('a')
'{0[role]}'.format(messages[0])
'{m[role]}'.format(m=messages[1])
'{} {} {}'.format(true, none, 1.0)
'%s and %s'|format('a', 'b')
messages[0].keys()|list|tojson
messages[0].values()|list|tojson
messages[0].items()|list|tojson
messages[0].get('role')
messages[0].get('name')
messages[0].get('name', 'x')
messages[0].copy()|tojson
[1, 2, 1].count(1)
[1, 2, 1].index(2)
[1, 2].copy()|tojson
'ab' * 3
[1] * 2
[1] + [2]
'b' in 'abc', 4 in [1, 4], 'role' in messages[0]
[1, 'a', none, true, 1.5]
{'a': 1, 'b': [none]}
('a', 1)
"it's"
["it's", 'a"b']
none
true
1.0
10 / 4
7 // 2
-7 // 2
7 % 3
2 ** 10
1e3
'abc'[1:]
'abc'[::-1]
messages[1:]|length
messages[-1]['role']
'ab'|upper, 'AB'|lower, 'ab cd'|title, 'ab cd'|capitalize
' a '|trim
'xax'|trim('x')
[3, 1, 2]|sort|tojson
[3, 1, 2]|sort(reverse=true)|tojson
messages|map(attribute='role')|list|tojson
messages|selectattr('role', 'equalto', 'user')|map(attribute='role')|join(',')
messages|rejectattr('role', 'in', ['user', 'system'])|map(attribute='role')|join(',')
[1, 2, 3]|sum
[1, 2, 3]|first, [1, 2, 3]|last
[1, 2, 2]|unique|list|tojson
[1, 2, 3]|reverse|list|tojson
'abc'|reverse
[1, 2, 3, 4]|batch(2)|list|tojson
{'b': 1, 'a': 2}|dictsort|tojson
{'b': 1, 'a': 2}|items|list|tojson
missing|default('x')
''|default('x', true)
3.7|int, '12'|int, 'x'|int(5), 3|float
3.14159|round(2)
-3|abs
'a b c'|wordcount
'ab'|center(6)
'a\\nb'|indent(2)
'a\\nb'|indent(2, true)
'a\\nb'|indent(width=4, first=false)
'<a>'|escape
'<p>a</p>'|striptags
'a' ~ 1 ~ none
'one two three four'|truncate(9)
'one two three four'|truncate(9, true)
'one two three four'|truncate(length=9, leeway=20)
'one two three four'|truncate(12, false, '~', leeway=0)
'x'|list|tojson
[1, 2]|string
[[1, 2], [3]]|map('first')|list|tojson
[1, none, 2]|select|list|tojson
[1, 2, 3]|reject('odd')|list|tojson
messages|groupby('role')|map(attribute='grouper')|list|tojson
range(3)|list|tojson
range(1, 6, 2)|list|tojson
dict(a=1)|tojson
(1, 2) is sequence, 'a' is string, 1 is number, none is none, missing is undefined, [] is iterable, {} is mapping
1 is odd, 2 is even, 4 is divisibleby(2)
'ab' is lower, 'AB' is upper
1 is sameas(1), 1 is eq(1), 1 is in([1])
'x' if enable_thinking else 'y'
enable_thinking is defined and enable_thinking is false
effort ~ limit ~ ratio
nothing is none
parts[1].b + limit
parts|tojson
messages[0]['content'].split()[0]
[1, 2, 3][-2:]|tojson
not true, true and false, 1 or 2
messages[0].role == 'system' and messages[0]['role'] != 'user'
'é'|tojson
{'z': 1, 'a': {'c': [1, 2]}}|tojson(indent=2)
{'z': 1}|tojson(indent=none, separators=(',', ':'), sort_keys=true, ensure_ascii=false)
1.0|tojson, 1e20|tojson, 0.1|tojson, 1e-7|tojson, 0.0001|tojson, 1.5e-5|tojson, 123456789012345.0|tojson, 1e16|tojson, 1.25e17|tojson, -2.5|tojson, 0.0|tojson
'a/b"c\\\\d\\n\\u0001'|tojson
"""
EXPRESSIONS = [e for e in EXPRESSIONS.split("\n") if e]
SET = "{%- set s = messages[0].content -%}{%- set u = messages[1].content -%}"

TEMPLATES = {
    "loop controls": "{% for m in messages %}{% if loop.index0 == 1 %}{% continue %}{% endif %}{{ loop.index }}{{ loop.last }}{% endfor %}",
    "generation with spaces": "{% for m in messages %}{%- generation -%} {{ m.role }} {%- endgeneration -%}\n{% endfor %}",
    "else of a loop": "{% for m in [] %}a{% else %}none{% endfor %}",
    "loop filter": "{% for m in messages if m.role != 'user' %}{{ loop.index }}{{ m.role }}{% endfor %}",
    "loop cycle and changed": "{% for m in messages %}{{ loop.cycle('a', 'b') }}{{ loop.changed(m.role) }}{{ loop.revindex }}{{ loop.previtem is defined }}{% endfor %}",
    "recursive loop": "{% for x in [[1, [2]], [3]] recursive %}{% if x is iterable %}({{ loop(x) }}){% else %}{{ x }}{% endif %}{% endfor %}",
    "macro defaults and kwargs": "{% macro f(a, b='x') %}{{ a }}{{ b }}{% endmacro %}{{ f('1') }}{{ f('1', b='2') }}{{ f(a='3') }}",
    "macro caller": "{% macro f() %}<{{ caller() }}>{% endmacro %}{% call f() %}in{% endcall %}",
    "set block": "{% set x %}a{{ 1 }}b{% endset %}[{{ x }}]{% set y | upper %}abc{% endset %}{{ y }}",
    "filter block": "{% filter upper %}abc{% endfilter %}",
    "with": "{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}",
    "namespace": "{% set ns = namespace(x=0, seen=[]) %}{% for m in messages %}{% set ns.x = ns.x + loop.index %}{% set ns.seen = ns.seen + [m.role] %}{% endfor %}{{ ns.x }}{{ ns.seen | tojson }}",
    "unpacking": "{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}{{ v }}{% endfor %}{% set a, b = 'x=y'.split('=') %}{{ b }}{{ a }}",
    "partition unpacked": "{% set a, sep, b = 'k: v'.partition(': ') %}{{ b }}{{ sep }}{{ a }}",
    "raw and comments": "{# no #}{% raw %}{{ x }}{% endraw %}\n{#- trimmed -#}\n x",
    "line statements stay text": "# for x in y\n## z",
    "whitespace control": "a\n  {%- if true %}\n  b\n  {%+ if true %}c{% endif +%}\n{% endif -%}\n d",
    "joiner and cycler": "{% set j = joiner(', ') %}{% for m in messages %}{{ j() }}{{ m.role }}{% endfor %}{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}",
    "undefined prints nothing": "[{{ missing }}][{{ messages[0].missing }}][{{ missing is defined }}]",
    "variables": "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>{% endif %}{{ effort }}{% if nothing is none %}none{% endif %}",
}

cases = []


def add(name, template):
    compiled = _compile_jinja_template(template)
    text = compiled.render(messages=TURNS, tools=None, documents=None, add_generation_prompt=True, bos_token="<s>", eos_token="</s>", **VARIABLES)
    cases.append({"name": name, "template": template, "text": text})


for expression in EXPRESSIONS:
    add(expression, SET + "{{ (" + expression + ") }}")
for name, template in TEMPLATES.items():
    add(name, template)
out = {"messages": TURNS, "variables": VARIABLES, "cases": cases}
pathlib.Path(__file__).with_name("methods.json").write_text(json.dumps(out, ensure_ascii=False, indent=1) + "\n")
