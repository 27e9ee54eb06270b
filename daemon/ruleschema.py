"""What is generated for rule authors: `python -m daemon.ruleschema rules` writes schema.json and events.md there.

The JSON Schema (for editors) is made from the forms that read the files and from the verbs' declarations, the list of
events from the catalogue: they cannot say anything else than the code does. A test holds the committed files against it.
"""

from __future__ import annotations

import ast
import inspect
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from daemon import ruleforms
from daemon.core.events import CATALOGUE
from daemon.core.fields import Field, Kind
from daemon.rulereading import INTERNAL
from daemon.rulesteps import VerbShape
from daemon.verbs import load_verbs

_DURATION = {"type": "string", "pattern": r"^(\d+(\.\d+)?(ms|s|m|h|d|w))+$", "examples": ["10m"]}
_EXPRESSION = {"type": "string", "pattern": r"^\s*\{\{.*\}\}\s*$", "description": "{{ a CEL expression over `event` }}"}


def schema(verbs: Mapping[str, VerbShape]) -> dict[str, Any]:
    """The schema, with the steps that these verbs allow."""
    made = ruleforms.FileForm.model_json_schema(by_alias=True)
    definitions: dict[str, Any] = made["$defs"]
    made["title"] = "driftd rule file"
    _describe(definitions | {"FileForm": made}, ruleforms)
    definitions["Expression"] = _EXPRESSION
    rule = definitions["RuleForm"]["properties"]
    kinds = {
        "anyOf": [
            {"const": kind.name, "description": kind.doc} for kind in CATALOGUE.values() if kind.name not in INTERNAL
        ]
    }
    for key in ("on", "absent"):
        rule[key] = {**kinds, "description": rule[key]["description"]}
    for key in ("when", "for_each"):
        rule[key] = {**rule[key], "type": ["string", "array"]}
    steps = [_step(verb, definitions) for verb in verbs.values()]
    for key in ("do", "on_failure"):
        rule[key]["items"] = {"$ref": "#/$defs/Step"}
    definitions["Step"] = {"anyOf": steps, "description": "one verb with its inputs"}
    result: dict[str, Any] = _tidy({"$schema": "https://json-schema.org/draft/2020-12/schema", **made})
    return result


def _step(verb: VerbShape, definitions: dict[str, Any]) -> dict[str, Any]:
    inputs = verb.inputs.model_json_schema(by_alias=True)
    inner = inputs.pop("$defs", {})
    _describe({**inner, verb.inputs.__name__: inputs}, inspect.getmodule(verb.inputs))
    definitions.update(inner)
    inputs["properties"] = {name: _or_template(item) for name, item in inputs.get("properties", {}).items()}
    approve = {"type": "boolean", "description": "wait for a person before this step"}
    optional = [] if inputs.get("required") else [{"type": "null"}]
    under = {"anyOf": [inputs, *optional]} if optional else inputs
    return {
        "type": "object",
        "description": getattr(verb, "doc", ""),
        "properties": {verb.name: under, "approve": approve},
        "required": [verb.name],
        "additionalProperties": False,
    }


def _or_template(item: dict[str, Any]) -> dict[str, Any]:
    """Any input may be an expression; a plain text may anyway."""
    if item.get("type") == "string" and "pattern" not in item and "enum" not in item and "format" not in item:
        return item
    outer: dict[str, Any] = {key: item[key] for key in ("description", "default") if key in item}
    rest = {key: value for key, value in item.items() if key not in outer}
    return {**outer, "anyOf": [rest, {"$ref": "#/$defs/Expression"}]}


def _describe(definitions: dict[str, Any], module: Any) -> None:
    """Fill in the descriptions: the texts under the fields in the source."""
    for node in ast.parse(inspect.getsource(module)).body:
        if not isinstance(node, ast.ClassDef) or node.name not in definitions:
            continue
        properties = definitions[node.name].get("properties", {})
        for field, text in zip(node.body, node.body[1:], strict=False):
            if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
                continue
            name = _alias(module, node.name, field.target.id)
            if name in properties and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                properties[name]["description"] = " ".join(str(text.value.value).split())


def _alias(module: Any, model: str, field: str) -> str:
    form: type[BaseModel] = getattr(module, model)
    known = form.model_fields.get(field)
    return (known.alias if known is not None else None) or field


def _tidy(value: Any) -> Any:
    """Durations as they are written here, no titles made up from names, no defaults that only code understands."""
    if isinstance(value, list):
        return [_tidy(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("format") == "duration":
        return {**{key: item for key, item in value.items() if key == "description"}, **_DURATION}
    return {
        key: _tidy(item)
        for key, item in value.items()
        if not (key == "title" and isinstance(item, str) and item != "driftd rule file") and key != "default"
    }


def events_page() -> str:
    """All event types with their fields, as Markdown."""
    lines = [
        "# Events, and what conditions can read of them",
        "",
        "Generated from the catalogue by `python -m daemon.ruleschema rules`. A field without ● may be absent; a condition",
        "that reads it is unknown then.",
    ]
    for kind in CATALOGUE.values():
        if kind.name not in INTERNAL:
            lines += ["", f"## {kind.name}", "", kind.doc, "", "| field | type | meaning |", "|---|---|---|"]
            lines += _rows("event", kind.fields)
    return "\n".join(lines) + "\n"


def _rows(path: str, fields: tuple[Field, ...]) -> list[str]:
    rows = []
    for field in fields:
        mark = " ●" if field.required else ""
        rows.append(f"| `{path}.{field.name}`{mark} | {field.kind.value} | {field.doc} |")
        inner = f'{path}.{field.name}["…"]' if field.kind is Kind.RECORDS else f"{path}.{field.name}"
        rows += _rows(inner, field.fields)
    return rows


def pages(verbs: Mapping[str, VerbShape]) -> Mapping[str, str]:
    """The generated files by name."""
    return {
        "schema.json": json.dumps(schema(verbs), indent=1, ensure_ascii=False) + "\n",
        "events.md": events_page(),
    }


def main(folder: Path) -> None:
    """Write the generated files into the rules folder."""
    verbs = {name: loaded.verb for name, loaded in load_verbs().items()}
    for name, text in pages(verbs).items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
