#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes template_vectors.json: small templates, one per thing that the language can do, and what Jinja
3.1 renders in the environment that transformers sets up (or null where it raises).

usage: template_vectors.py >template_vectors.json     (needs jinja2)"""
import datetime, json, sys
import jinja2, jinja2.ext, jinja2.sandbox


class Generation(jinja2.ext.Extension):
    """{% generation %}, which transformers uses to mark what the assistant says."""
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("mark"), [], [], body).set_lineno(line)

    def mark(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                      sort_keys=sort_keys)


env = jinja2.sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
env.filters["tojson"] = tojson
env.globals["raise_exception"] = raise_exception
env.globals["strftime_now"] = lambda f: datetime.datetime(2024, 7, 26, 12, 0, 0).strftime(f)

MESSAGES = [
    {"role": "system", "content": " Be kind.\n"},
    {"role": "user", "content": "Hi \"you\" & <me> it's\tö 🙂", "name": "Ann"},
    {"role": "assistant", "content": "", "tool_calls": [
        {"id": "c1", "function": {"name": "f", "arguments": {"city": "Paris", "days": 2, "x": None}}}]},
    {"role": "user", "content": [{"type": "text", "text": "part"}, {"type": "image"}]},
]
KWARGS = {"s": "Hello World", "u": "  Straße ÉCOLE 你好  ", "n": 7, "m": -3, "f": 2.5, "t": True, "z": None,
          "e": "", "l": [3, 1, 2], "w": ["b", "A", "c", "a"], "d": {"b": 1, "a": [1, {"x": "y"}], "C": 2.0},
          "nested": [[1, 2], [3]], "objs": [{"k": "x", "v": 2}, {"k": "y", "v": 1}, {"k": "x", "v": 3}],
          "html": "<a href='x'>&\"", "lines": "one\ntwo\n\nthree", "big": 1e20, "small": 1.5e-7, "items": 5}

T = []
exec(open(__file__.replace(".py", "_cases.py"), encoding="utf-8").read())


def render(source):
    try:
        return env.from_string(source).render(
            messages=MESSAGES, tools=None, documents=None, add_generation_prompt=True, **KWARGS)
    except Exception as e:
        print(source.replace("\n", "\\n"), "raises", type(e).__name__, e, file=sys.stderr)
        return None


json.dump({"jinja2": jinja2.__version__, "messages": MESSAGES, "kwargs": KWARGS,
           "cases": [[t, render(t)] for t in T]}, sys.stdout, ensure_ascii=True, indent=0)
print()
