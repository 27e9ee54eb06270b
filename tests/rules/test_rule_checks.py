"""What a check of rule files finds: each mistake and warning once, at its place."""

from __future__ import annotations

from collections.abc import Callable
from textwrap import dedent, indent

import pytest

from daemon.rulefiles import Checked

Check = Callable[..., Checked]

MONITOR = "  - {name: inputs, window: {rows: 500}}\n"
TELL = "    do: [notify: {to: oncall}]\n"


def file(rules: str, model: str = "churn") -> str:
    """A rule file about a model with one monitor; the rules start in line 5."""
    head = f"model: {model}\nmonitors:\n{MONITOR}" if model else "owner: nobody\n# no model\n\n"
    return f"{head}rules:\n{indent(dedent(rules), '  ')}"


def mistakes(checked: Checked) -> list[str]:
    """As `line:column: message`."""
    return [f"{found.line}:{found.column}: {found.message}" for found in checked.mistakes]


def warnings(checked: Checked) -> list[str]:
    """As `line:column: message`."""
    return [f"{found.line}:{found.column}: {found.message}" for found in checked.loaded.warnings]


RULE = "- {name: r, on: drift.measured, when: event.drifted_columns >= 1, KEYS, do: [notify: {to: oncall}]}"


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("for: 2 windws", "for: '2 windws': write a duration (10m), `2 windows` or `2 of 3 windows`"),
        ("for: 3 of 2 windows", "for: '3 of 2 windows': at least 1, and no more than there are windows (at most 1000)"),
        ("for: 0s", "for: must be longer than nothing"),
        ("for: 10", "for: 10: write a duration (10m), `2 windows` or `2 of 3 windows`"),
        ("count: 3 in 1h", "count: '3 in 1h': write it like `3 within 1h`"),
        ("limit: 2 within 1h", "limit: '2 within 1h': write it like `2 per 24h`"),
        ("cooldown: soon", "cooldown: 'soon' is no duration; write for example 30s, 5m, 6h, 1d or 1h30m"),
        ("mode: dry", "mode: Input should be 'observe', 'approve' or 'enforce'"),
        ("on_unknwn: hold", "unknown key on_unknwn; did you mean on_unknown?"),
        ("include_own: 3", "include_own: Input should be a valid boolean, unable to interpret input"),
        ("count: 2 within 1h, for: 10m", "a rule has either for or count"),
        ("absent: data.landed", "a rule has either on or absent"),
        ("clear: event.drifted_columns >= 1", "is the same as a condition of when: the episode would end as it begins"),
        ("for_each: worst_colum", "drift.measured has no field worst_colum; did you mean worst_column?"),
        ("for_each: drifted_share", "drifted_share is a double; things are remembered apart by texts and whole numbers"),
        ("subject: price", "drift.measured is about models, and this file is about churn"),
        ("clear: event.drifted_column == 0", "unknown field event.drifted_column of drift.measured; did you mean drifted_columns?"),
    ],
)  # fmt: skip
def test_mistakes_in_the_keys_of_a_rule(checked: Check, keys: str, expected: str) -> None:
    """Misspelt keys, small languages misspoken, keys that exclude one another."""
    found = [found.message for found in checked(file(RULE.replace("KEYS", keys))).mistakes]

    assert f'rule "r": {expected}' in found


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ("retrian: {template: churn-train}", "unknown verb retrian; did you mean retrain?"),
        ("retrain: {template: chrn-train}", "there is no template chrn-train; did you mean churn-train?"),
        ("retrain: {template: sweep}", "template sweep is for command, not for retrain"),
        ("retrain: {template: churn-train}", "template churn-train needs the parameter name: what to call it"),
        ("retrain: {template: churn-train, with: {name: x, tres: 3}}", "template churn-train has no parameter tres; did you mean trees?"),
        ("retrain: {template: churn-train, with: {name: 5}}", "parameter name of churn-train must be string, not 5"),
        ("retrain: {template: churn-train, with: {name: x, rows_since: now}}", "parameter rows_since of churn-train must be time, not 'now'"),
        ('retrain: {template: churn-train, with: {name: "{{ event.drifted_columns }}"}}',
         "parameter name of churn-train must be string, not an expression that gives int"),
        ('retrain: {template: churn-train, with: {name: "{{ event.worst }}"}}',
         "unknown field event.worst of drift.measured; did you mean worst_column?"),
        ('retrain: {template: "{{ event.worst_column }}"}', "a template is named, never computed from an event"),
        ('notify: {to: oncall, text: "worst: {{ event.worst_column }}"}',
         "{{ }} must stand alone and hold one expression: it gives a value, not a part of a text"),
        ("notify: {to: oncal}", "there is no channel oncal; did you mean oncall?"),
        ("notify: {}", "to is missing"),
        ("notify: {too: oncall}", "unknown key too; did you mean to?"),
        ("notify: oncall", "the inputs of notify are a mapping, e.g. `notify: {...}`"),
        ("{notify: {to: oncall}, command: {template: sweep}}", "a step is one verb with its inputs; here are notify, command"),
        ("{notify: {to: oncall}, approve: maybe}", "approve is true or false"),
        ("evaluate: {}", "evaluate needs version, which neither an earlier step nor drift.measured gives; retrain gives it"),
        ("rollback: {to: champion, deadline: never}", "deadline: 'never' is no duration; write for example 30s, 5m, 6h, 1d or 1h30m"),
    ],
)  # fmt: skip
def test_mistakes_in_a_step(checked: Check, steps: str, expected: str) -> None:
    """Verbs, templates, parameters, channels and values are checked against what is declared."""
    step = steps if steps.startswith("{") else f"{{{steps}}}"
    checked_ = checked(file(f"- name: r\n  on: drift.measured\n  do:\n    - {step}\n"))

    assert f'rule "r": {expected}' in [found.message for found in checked_.mistakes]


def test_every_mistake_in_every_file_is_told_at_its_place(checked: Check) -> None:
    """One look shows all: in several rules, several files, the head of a file, a monitor, and a file that is no YAML."""
    a = file("""\
        - name: r
          on: drift.measurd
          do: [notify: {to: oncal}]
        - name: s
          on: drift.measured
          when:
            - event.drifted_shares > 0.5
            - event.columns["agee"].effect > 0.2
          for: soon
          do: [notify: {to: oncall}]
        """)
    b = "model: chrn\nrules: []\n"
    c = "model: churn\nmonitors:\n  - {name: m, window: {}, methods: {number: kss}}\n"
    found = checked(a, b=b, c=c, d="rules: [\n").mistakes

    assert [str(mistake) for mistake in found] == [
        'rules/a.yaml:6:9: rule "r": unknown event type drift.measurd; did you mean drift.measured?',
        'rules/a.yaml:7:23: rule "r": there is no channel oncal; did you mean oncall?',
        'rules/a.yaml:11:15: rule "s": unknown field event.drifted_shares of drift.measured; did you mean drifted_share?',
        'rules/a.yaml:12:9: rule "s": event.columns.agee.effect: stream churn has no column agee; did you mean age?',
        "rules/a.yaml:13:10: rule \"s\": for: 'soon': write a duration (10m), `2 windows` or `2 of 3 windows`",
        "rules/b.yaml:1:8: file: there is no model chrn; did you mean churn?",
        'rules/c.yaml:3:23: monitor "m": window: needs either rows or every',
        "rules/d.yaml:2:1: is not YAML: did not find expected node content",
    ]


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ("1 > 2", "is always false: the rule can never fire"),
        ("1 / 0 > 2", "is always unknown: the rule can never fire"),
        ("event.drifted_columns > 3 && event.drifted_columns < 2",
         "can never fire: event.drifted_columns > 3 and event.drifted_columns < 2 exclude each other"),
        ("event.drifted_columns > 3 && 3 >= event.drifted_columns",
         "can never fire: event.drifted_columns > 3 and event.drifted_columns <= 3 exclude each other"),
        ('event.segment == "a" && event.segment == "b"',
         'can never fire: event.segment == "a" and event.segment == "b" exclude each other'),
        ("event.drifted_columns == 1 && event.drifted_columns >= 2",
         "can never fire: event.drifted_columns == 1 and event.drifted_columns >= 2 exclude each other"),
        ('event.monitor == "input"', "there is no monitor input; did you mean inputs?"),
        ('event.stream == "chrn"', "there is no stream chrn; did you mean churn?"),
        ('event.columns["email"].drifted', "event.columns.email.drifted: stream churn has no column email; it has age, city"),
    ],
)  # fmt: skip
def test_conditions_that_can_never_hold(checked: Check, when: str, expected: str) -> None:
    """Constants, contradictions, and names that do not exist."""
    found = checked(file(f"- name: r\n  on: drift.measured\n  when: '{when}'\n{TELL[2:]}")).mistakes

    assert [mistake.message for mistake in found] == [f'rule "r": {expected}']


def test_contradictions_between_clauses(checked: Check) -> None:
    """Clauses of one list must all hold, so they are held against one another; those that fit are left alone."""
    rules = """\
        - name: r
          on: drift.measured
          when: [event.drifted_share >= 0.5, event.drifted_share <= 0.5, event.drifted_share < 0.5]
          do: [notify: {to: oncall}]
        """
    assert mistakes(checked(file(rules))) == [
        '7:68: rule "r": can never fire: event.drifted_share >= 0.5 and event.drifted_share < 0.5 exclude each other'
    ]


CANARY = "- {name: r, on: model.registered, do: [canary: {KEYS}, promote: {}]}"


@pytest.mark.parametrize(
    ("model", "keys", "expected"),
    [
        ("price", "guards: [accuracy]", "guard accuracy cannot decide: stream price has no labels (fields.label)"),
        ("price", "guards: [prediction_shift]",
         "guard prediction_shift cannot decide: stream price has no score or prediction (fields.score, fields.prediction)"),
        ("price", "guards: [latency_p95: {margin: 2}]",
         "guard latency_p95 cannot decide: stream price has no latencies (fields.latency_ms)"),
        ("price", "guards: [error_rate]", "guard error_rate cannot decide: stream price has no errors (fields.error)"),
        ("lonely", "", "a canary is judged by the prediction log, and the model has no stream, which does not say the version (fields.version)"),
    ],
)  # fmt: skip
def test_guards_that_the_stream_cannot_decide(checked: Check, model: str, keys: str, expected: str) -> None:
    """A guard without its field in the prediction log would wait forever."""
    text = f"model: {model}\nrules:\n  {CANARY.replace('KEYS', keys)}\n"

    assert f'rule "r": {expected}' in [mistake.message for mistake in checked(text).mistakes]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("{name: r, on: model.registered, do: [canary: {}]}", "a canary with no promote after it: the version would never be promoted"),
        ("{name: r, on: drift.measured}", "it has no steps: say `do`, or `mode: observe` to record only"),
        ("{name: r, do: [notify: {to: oncall}]}", "it says neither `on` (an event type) nor `absent`"),
        ("{name: r, on: timer.due, do: [notify: {to: oncall}]}", "timer.due is made by driftd for itself; rules cannot listen to it"),
        ("{name: r, on: data.landed, for: 2 windows, do: [notify: {to: oncall}]}",
         "data.landed has no windows; write a duration or `count: n within t`"),
        ("{name: r, on: data.landed, subject: landin, do: [notify: {to: oncall}]}", "there is no storage source landin; did you mean landing?"),
        ("{name: r, on: schedule.due, subject: nightl, do: [notify: {to: oncall}]}", "there is no schedule nightl; did you mean nightly?"),
        ("{name: r, absent: data.landed, do: [notify: {to: oncall}]}", "absent needs `for` with a duration: how long it must be silent"),
        ("{name: r, absent: data.landed, for: 2 windows, do: [notify: {to: oncall}]}", "absent needs `for` with a duration: how long it must be silent"),
        ("{name: r, absent: data.landed, for: 2h, clear: event.bytes > 1, do: [notify: {to: oncall}]}",
         "clear means nothing with absent: the event that comes ends the silence"),
        ("{name: r, on: drift.measured, do: [notify: {to: oncall}], on_failure: [rollback: {}]}",
         "on_failure only tells (notify, command); a failed run undoes itself, so no rollback here"),
        ("5", "Input should be a valid dictionary or instance of RuleForm"),
    ],
)  # fmt: skip
def test_rules_that_make_no_sense(checked: Check, rule: str, expected: str) -> None:
    """Steps that lead nowhere, events that nobody may listen to, silences without a length."""
    found = checked(file(f"- {rule}\n")).mistakes
    label = "rule 1" if rule == "5" else 'rule "r"'

    assert [mistake.message for mistake in found] == [f"{label}: {expected}"]


def test_what_touches_a_model_needs_one(checked: Check) -> None:
    """A file without a model can tell and run commands, not train."""
    text = file("- {name: r, on: schedule.due, do: [retrain: {template: churn-train, with: {name: x}}]}", model="")

    assert mistakes(checked(text)) == ['5:38: rule "r": retrain works on a model: say `model:` at the top of the file']


def test_names_are_unique_over_all_files(checked: Check) -> None:
    """The second one is told where the first one stands."""
    rule = "- {name: r, on: data.landed, do: [notify: {to: oncall}]}"
    found = checked(file(rule, model=""), b=file(rule, model="")).mistakes

    assert [str(mistake) for mistake in found] == [
        'rules/b.yaml:5:12: rule "r": the name is taken by the one at rules/a.yaml:5; names are unique over all files'
    ]


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ("- {name: r, on: model.registered, do: [evaluate: {}, promote: {}]}",
         "5:56: promotes without a canary: no traffic will have proven the version"),
        ("- {name: r, on: drift.measured, when: 2 > 1, do: [notify: {to: oncall}]}", "5:41: is always true: it reads nothing of the event"),
        ("- {name: r, on: drift.measured, repeat: 1h, cooldown: 6h, do: [notify: {to: oncall}]}", "5:43: is shorter than cooldown, which decides"),
        ("- {name: r, on: drift.measured, cooldown: 12h, limit: 2 per 24h, do: [notify: {to: oncall}]}",
         "5:57: is never reached: with this cooldown there are at most 2 firings in that time"),
        ("- {name: r, on: drift.measured, on_unknown: notify, do: [notify: {to: oncall}]}", "5:47: tells nobody: there is no on_failure"),
        ("- {name: r, on: webhook.received, do: [notify: {to: oncall}]}", "5:19: config.yaml has no webhook.hooks, so webhook.received never comes"),
        ("- {name: r, on: run.finished, do: [notify: {to: oncall}]}", '5:5: it starts itself again; add event.rule != "r"'),
        ("""- {name: r, on: model.registered, when: 'event.registered_by != ""', do: [notify: {to: oncall}]}""",
         "5:19: asks for driftd's own registrations, which do not count without `include_own: true`"),
    ],
)  # fmt: skip
def test_warnings(checked: Check, rules: str, expected: str) -> None:
    """What is allowed and yet surely not meant; it does not keep the rules from being loaded."""
    found = checked(file(rules))

    assert mistakes(found) == []
    assert [warning.replace('rule "r": ', "", 1) for warning in warnings(found)] == [expected]


@pytest.mark.parametrize(
    ("kind", "model", "expected"),
    [
        ("drift.measured", "price", "no monitor measures price, so drift.measured never comes"),
        ("performance.measured", "churn", ""),
    ],
)
def test_measurements_that_nobody_makes(checked: Check, kind: str, model: str, expected: str) -> None:
    """A rule on measurements needs a monitor of its model."""
    text = f"model: {model}\nrules:\n  - {{name: r, on: {kind}, do: [notify: {{to: oncall}}]}}\n"
    if not expected:
        text = f"model: {model}\nmonitors:\n{MONITOR}" + text.split("\n", 1)[1]

    assert [warning.message for warning in checked(text).loaded.warnings] == (
        [f'rule "r": {expected}'] if expected else []
    )


def test_a_run_that_tells_of_other_runs_is_no_cycle(checked: Check) -> None:
    """Leaving out one's own runs breaks the circle."""
    rules = """- {name: r, on: run.finished, when: 'event.rule != "r"', do: [notify: {to: oncall}]}"""

    assert warnings(checked(file(rules))) == []


def test_rules_that_start_one_another(checked: Check) -> None:
    """A circle over two rules is told once, with the way round it."""
    rules = """\
        - {name: a, on: model.registered, include_own: true, do: [canary: {}, promote: {}]}
        - name: b
          on: model.alias_changed
          include_own: true
          do: [retrain: {template: churn-train, with: {name: x}}]
        """
    assert warnings(checked(file(rules))) == [
        '5:5: rule "a": rules start one another: a → b → a; without include_own it would not'
    ]


def test_rules_that_fire_together(checked: Check) -> None:
    """Two acting rules with the same trigger and conditions are told; one that only observes is a comparison."""
    same = "on: drift.measured, when: event.drifted_columns > 1, do: [notify: {to: oncall}]"
    rules = f"- {{name: a, {same}}}\n- {{name: b, {same}}}\n- {{name: c, mode: observe, {same}}}\n"

    assert warnings(checked(file(rules))) == ['6:5: rule "b": fires whenever rule "a" does (rules/a.yaml:5)']
