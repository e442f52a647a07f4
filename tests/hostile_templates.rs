//! Chat templates come with files: whatever they say, the answer is one sentence or a text, never a
//! stack overflow, or memory and time without bound; and what real ones do still works.

mod common;
mod text_base;

use lowrank::model::llama::Llama;
use lowrank::text::{Message, Tokenizer};
use text_base::{base, tokenizer};

/// The template rendered for one message, in an archive of its own.
fn render(template: &str) -> Result<String, String> {
    let archive = base(&tokenizer(|_| ()), template);
    let tokenizer = Tokenizer::new(&Llama::open(&archive).unwrap()).unwrap();
    tokenizer.render_chat(&[Message::new("user", "hi")], true).map_err(|error| error.to_string())
}

#[test]
fn values_that_grow_without_measure_are_refused() {
    let grow = |start: &str, step: &str, times: usize, end: &str| {
        format!(
            "{{% set ns = namespace(x={start}) %}}{{% for i in range({times}) %}}{{% set ns.x = {step} %}}{{% endfor %}}{end}"
        )
    };
    let ends = [
        "ok",
        "{{ ns.x }}",
        "{{ ns.x | tojson }}",
        "{{ ns.x ~ 'a' }}",
        "{{ ns.x == [ns.x] }}",
        "{{ ns.x | string | length }}",
        "{{ 'a' in ns.x }}",
        "{{ 'a'.join(ns.x) }}",
        "{{ '{}'.format(ns.x) }}",
        "{% set y %}{{ ns.x }}{% endset %}",
        "{{ ns }}",
    ];
    for end in ends {
        for step in [
            "[ns.x]",
            "[ns.x, ns.x]",
            "{'a': ns.x, 'b': ns.x}",
            "(ns.x, ns.x)",
            "dict(a=ns.x, b=ns.x)",
            "[ns.x]|zip([ns.x])|list",
            "ns.x + ns.x",
        ] {
            let template = grow("['abcdefgh']", step, 100_000, end);
            let error = render(&template).expect_err(&template);
            assert!(!error.contains('\n') && error.len() < 400, "{error}");
        }
    }
    // Without a loop.
    let unrolled =
        format!("{{% set x = ['abcdefgh'] %}}{}{{{{ x }}}}", "{% set x = [x, x] %}".repeat(60));
    render(&unrolled).unwrap_err();
    let macros = "{% macro f(x, n) %}{% if n %}{{ f([x, x], n - 1) }}{% else %}{{ x }}{% endif %}{% endmacro %}{{ f('a', 60) }}";
    render(macros).unwrap_err();
    for cycle in [
        "{% set ns = namespace() %}{% set ns.me = ns %}{{ ns }}",
        "{% set ns = namespace() %}{% set ns.me = [ns] %}{{ ns }}",
        "{% set a = namespace() %}{% set b = namespace(a=a) %}{% set a.b = b %}{{ a }}",
    ] {
        render(cycle).unwrap_err();
    }
}

#[test]
fn texts_and_work_without_measure_are_refused() {
    for template in [
        "{{ '{:>1000000000000}'.format('x') }}",
        "{{ '{:.1000000000000f}'.format(1.5) }}",
        "{{ '%1000000000000d' % 3 }}",
        "{{ '%1000000000000d' | format(3) }}",
        "{{ '%.1000000000000f' | format(3.5) }}",
        "{{ 'x'.center(1000000000000) }}",
        "{{ 'x' | center(1000000000000) }}",
        "{{ 'x' * 1000000000000 }}",
        "{{ 'x' * 90000000 }}",
        "{{ [0] * 90000000 }}",
        "{{ ([0] * 90000000) == ([0] * 90000000) }}",
        "{{ [[0] * 90000000] * 90000000 == 3 }}",
        "{{ (0, 1) * 90000000 }}",
        "{{ 90000000 * [0] }}",
        "{{ [0] * 65 }}",
        "{{ [0] * 8 * 9 }}",
        "{{ [0] * 2 ** 30 == [0] * 2 ** 30 }}",
        "{{ [[[[[0] * 9] * 9] * 9] * 9] * 9 }}",
        "{{ ([0] * 8, [0] * 8, 1 if [0] * 8 else 2) }}",
        "{% set x = [0] %}{{ x * 90000000 }}",
        "{% set x = (0, 1) %}{{ x * 40000000 }}",
        "{{ range(1000000000000) | list }}",
        "{{ range(100000) | join('xxxxxxxxxxxxxxxx') | indent(100000) }}",
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(x='x') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x='x') %}{% for i in range(60) %}{% set ns.x = ns.x.replace('x', 'xx') %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    ] {
        let error = render(template).expect_err(template);
        assert!(!error.contains('\n') && error.len() < 400, "{error}");
    }
}

#[test]
fn macros_that_call_themselves_end_with_one_sentence() {
    for template in [
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f() %}{{ g() }}{% endmacro %}{% macro g() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f() %}{{ g() }}{% endmacro %}{% macro g() %}{{ h() }}{% endmacro %}{% macro h() %}{{ f() }}{% endmacro %}{{ h() }}",
        "{% macro f(g) %}{{ g(g) }}{% endmacro %}{{ f(f) }}",
        "{% macro f() %}{% call f() %}x{% endcall %}{{ caller() }}{% endmacro %}{% call f() %}x{% endcall %}",
        "{% macro f() %}{% set x = f() %}{% endmacro %}{% set y = f() %}",
        "{% macro f() %}{% set x %}{{ f() }}{% endset %}{% endmacro %}{{ f() }}",
        "{% macro f() %}{% for i in [1] %}{% if i %}{{ f()|trim ~ f() }}{% endif %}{% endfor %}{% endmacro %}{{ f() }}",
        "{% macro f(x) %}{{ [[[[[[[[f([x, 1])]]]]]]]] }}{% endmacro %}{{ f(1) }}",
        "{% macro f(x=f()) %}{{ x }}{% endmacro %}{{ f() }}",
        "{% set ns = namespace() %}{% macro f() %}{{ ns.g() }}{% endmacro %}{% set ns.g = f %}{{ f() }}",
        "{% for i in [1] recursive %}{% macro f() %}{{ loop([1]) }}{% endmacro %}{{ f() }}{% endfor %}",
        // Not deep, but twice as much with each step.
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(80) }}",
        "{% macro f(n) %}{% if n %}{{ g(n - 1) }}{{ g(n - 1) }}{% endif %}{% endmacro %}{% macro g(n) %}{% if n %}{{ f(n) }}{{ f(n) }}{% endif %}{% endmacro %}{{ f(60) }}",
    ] {
        let error = render(template).expect_err(template);
        assert!(!error.contains('\n') && error.len() < 400, "{template}: {error}");
    }
}

#[test]
fn long_and_deep_templates_are_refused() {
    for template in [
        format!("{{{{ 1{} }}}}", "+1".repeat(100_000)),
        format!("{{{{ x{} }}}}", "+x".repeat(100_000)),
        format!("{{{{ x{} }}}}", "|trim".repeat(40_000)),
        format!("{{{{ x{} }}}}", ".x".repeat(100_000)),
        format!("{{{{ x{} }}}}", "[0]".repeat(80_000)),
        format!("{{{{ {}x }}}}", "not ".repeat(60_000)),
        format!("{{{{ {}x }}}}", "-".repeat(200_000)),
        format!("{{{{ {}x }}}}", "(".repeat(200_000)),
        format!("{{{{ {}x{} }}}}", "[".repeat(2_000), "]".repeat(900)),
        format!("{{{{ x{} }}}}", " if x else x".repeat(20_000)),
        format!("{{% if x %}}{}{{% endif %}}", "{% elif x %}".repeat(20_000)),
        "{% if x %}".repeat(20_000),
        "{% for x in y %}".repeat(10_000),
        "x".repeat(1 << 24),
        "{{ x }}".repeat(30_000),
    ] {
        let error = render(&template).expect_err(&template[..60]);
        assert!(!error.contains('\n') && error.len() < 400, "{error}");
    }
}

#[test]
fn what_templates_really_do_still_works() {
    for (template, expected) in [
        (
            "{% set ns = namespace(l=[]) %}{% for i in range(200) %}{% set ns.l = ns.l + [i] %}{% endfor %}{{ ns.l|length }}",
            "200",
        ),
        (
            "{% set all = [{'role': 'system', 'content': 'x'}] + messages %}{{ all|length }}{{ all[1].content }}",
            "2hi",
        ),
        ("{{ messages | tojson }}", r#"[{"role": "user", "content": "hi"}]"#),
        (
            "{{ loop_count is defined }}{% for m in messages %}{{ loop.index * 2 }}{% endfor %}",
            "False2",
        ),
        ("{{ messages[0].content|length * 3 }}{{ '=' * 5 }}", "6====="),
        (
            "{{ [1] * 2 * 2 + [[0] * 2] * 2 }}{{ [2] * 64 == [2] }}{{ [3] * 0 }}",
            "[1, 1, 1, 1, [0, 0], [0, 0]]False[]",
        ),
        ("{% set n = 3 %}{% set x = ['-'] %}{{ (x * n)|join }}", "---"),
        (
            "{% macro m(x, deep) %}{{ x }}{% if deep %}{{ m(x, deep - 1) }}{% endif %}{% endmacro %}{{ m('a', 20) }}",
            "aaaaaaaaaaaaaaaaaaaaa",
        ),
        (
            "{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}",
            "role=user;content=hi;",
        ),
        ("{% set a, b = 1, 2 %}{{ a + b }}{{ '{:>6}|'.format('x') }}", "3     x|"),
        (
            "{% set x = 'a\nb\nc'.split('\n') %}{{ x|join(',') }}{{ x[::-1] }}",
            "a,b,c['c', 'b', 'a']",
        ),
        (
            "{% for m in messages %}{% if m.role == 'user' and not loop.last %}x{% else %}y{% endif %}{% endfor %}",
            "y",
        ),
    ] {
        assert_eq!(render(template).as_deref(), Ok(expected), "{template}");
    }
}

#[test]
fn what_stands_between_items_and_the_format_of_a_date_are_short() {
    // A megabyte before each of 9,000 items, or a date of twenty megabytes a step.
    for (template, part) in [
        ("{{ range(9000)|list|tojson(separators=[s, ':']) }}", "tojson: 1000000 bytes"),
        ("{{ {'a': 1}|tojson(separators=[',', s]) }}", "tojson: 1000000 bytes"),
        ("{{ range(9000)|list|tojson(indent=s) }}", "tojson: 1000000 bytes"),
        ("{{ strftime_now(s) }}", "strftime_now: a format of 1000000 bytes"),
    ] {
        let template = format!("{{% set s = 'x' * 1000000 %}}{template}");
        let error = render(&template).expect_err(&template);
        assert!(error.contains(part) && error.len() < 400, "{error}");
    }
    let short = "{{ [1, {'a': 2}]|tojson(separators=[' ; ', ' = '], indent='--') }}";
    assert_eq!(render(short).unwrap(), "[\n--1 ; \n--{\n----\"a\" = 2\n--}\n]");
}

#[test]
fn methods_look_at_each_letter_of_a_long_text_once() {
    // Searched for each letter, the set takes minutes; so does a pattern made for each digit.
    let strip = "{% set s = 'a' * 400000 %}{% set set = 'b' * 400000 ~ 'a' %}{{ s.strip(set) }}";
    assert_eq!(render(&format!("{strip}{{{{ 'xay'.strip('yx') }}}}")).unwrap(), "a");
    let digits = "{% set s = '٣' * 400000 %}{{ s.isdigit() }}{{ '٣x'.isdecimal() }}";
    assert_eq!(render(digits).unwrap(), "TrueFalse");
}
