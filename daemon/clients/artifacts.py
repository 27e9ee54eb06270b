"""The digest of a model's artifacts: the same model logged twice has the same one.

MLflow writes things beside a model that differ from run to run, or that are no part of what it computes: they are left
out, and of the MLmodel file only what the model itself is counts. The training templates and the registry use this one
function, so a version that was rejected is known again under any name.

skops files, MLflow's default for scikit-learn, are archives of arrays named by memory addresses and of a schema that is
full of them: they are read for what they say. Pickles are taken as they are.
"""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import orjson
import yaml

from daemon.core.canonical import canonical

RUN_KEYS = frozenset({
    "artifact_path", "env_vars", "is_signature_from_type_hint", "metadata", "mlflow_version", "model_id", "model_size_bytes",
    "model_uuid", "prompts", "run_id", "saved_input_example_info", "type_hint_from_example", "utc_time_created",
})  # fmt: skip
"""What MLmodel says about the run that logged the model."""
BESIDE = frozenset({"input_example.json", "registered_model_meta", "serving_input_example.json", "input_example"})
"""Files that lie beside a model and are no part of it."""
_CHUNK = 1 << 20


def artifacts_digest(folder: Path) -> str:
    """SHA-256, in hex, over names and contents of the model's files below `folder`."""
    sha = hashlib.sha256()
    for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix()):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or name.split("/", 1)[0] in BESIDE:
            continue
        content = _content_digest(path)
        # Lengths keep `ab` + `c` apart from `a` + `bc`.
        sha.update(f"{len(name.encode())}:{name}:{content}\n".encode())
    return sha.hexdigest()


def _content_digest(path: Path) -> str:
    if path.name == "MLmodel":
        return _model_digest(path)
    if path.suffix == ".skops" and zipfile.is_zipfile(path):
        return _skops_digest(path)
    return _file_digest(path)


def _model_digest(path: Path) -> str:
    described: dict[str, Any] = yaml.safe_load(path.read_text()) or {}
    own = {key: value for key, value in described.items() if key not in RUN_KEYS}
    return hashlib.sha256(canonical(own)).hexdigest()


def _file_digest(path: Path) -> str:
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            sha.update(chunk)
    return sha.hexdigest()


def _skops_digest(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        if "schema.json" not in archive.namelist():
            return _file_digest(path)
        contents = {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}
        schema = orjson.loads(archive.read("schema.json"))
    return hashlib.sha256(canonical(_without_addresses(schema, contents, {}))).hexdigest()


def _without_addresses(node: Any, contents: dict[str, str], places: dict[int, int]) -> Any:
    """The schema with files named by their content and repeated objects by their place: `places` is address -> place."""
    if isinstance(node, list):
        return [_without_addresses(item, contents, places) for item in node]
    if not isinstance(node, dict):
        return contents.get(node, node) if isinstance(node, str) else node
    address = node.get("__id__", 0)
    own = {key: _without_addresses(value, contents, places) for key, value in node.items() if key != "__id__"}
    if node.get("__loader__") == "CachedNode":
        return {**own, "place": places.get(address, -1)}
    places[address] = len(places)
    return own
