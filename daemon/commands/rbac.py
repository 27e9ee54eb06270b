"""`driftd rbac`: the least that a cluster must grant for the rules as they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import typer
import yaml

from daemon.access import Access, Need, access
from daemon.commands.printing import AsJson, print_json, print_line
from daemon.config import load_config
from daemon.core.errors import BadInput
from daemon.rulefiles import RuleFolder
from daemon.templates import load_templates
from daemon.verbs import load_verbs

API = "rbac.authorization.k8s.io"
NAME = "driftd"


def rbac(
    context: typer.Context,
    account: Annotated[str, typer.Option(help="NAMESPACE/NAME of the daemon's service account.")] = "driftd/driftd",
    as_json: AsJson = False,
) -> None:
    """Print the Roles, for `kubectl apply -f -`, that the loaded rules, config.yaml and the templates need; and no more."""
    namespace, _, name = account.partition("/")
    if not namespace or not name:
        raise BadInput(f"--account is NAMESPACE/NAME of a service account, not {account!r}")
    config = load_config(context.obj, with_secrets=False)
    verbs = {verb: loaded.verb for verb, loaded in load_verbs().items()}
    rules = RuleFolder(config, verbs).load().rules.rules
    needed = access(config, rules, verbs, load_templates(config.templates))
    objects = list(documents(needed, namespace, name))
    if as_json:
        print_json(objects)
    elif not objects:
        print_line("# Nothing: neither the platform nor a source is a cluster.")
    else:
        print_line(yaml.safe_dump_all(objects, sort_keys=False).rstrip())


def documents(needed: Access, namespace: str, account: str) -> Iterator[dict[str, Any]]:
    """Role and RoleBinding per namespace, and a ClusterRole where objects are in none."""
    subject = {"kind": "ServiceAccount", "name": account, "namespace": namespace}
    for place, needs in needed.namespaces.items():
        yield from _granted("Role", {"name": NAME, "namespace": place}, needs, subject)
    if needed.cluster:
        yield from _granted("ClusterRole", {"name": NAME}, needed.cluster, subject)


def _granted(
    kind: str, metadata: dict[str, str], needs: Iterable[Need], subject: dict[str, str]
) -> Iterator[dict[str, Any]]:
    yield {"apiVersion": f"{API}/v1", "kind": kind, "metadata": metadata, "rules": [_rule(need) for need in needs]}
    yield {
        "apiVersion": f"{API}/v1", "kind": f"{kind}Binding", "metadata": dict(metadata),
        "roleRef": {"apiGroup": API, "kind": kind, "name": NAME}, "subjects": [dict(subject)],
    }  # fmt: skip


def _rule(need: Need) -> dict[str, Any]:
    rule: dict[str, Any] = {"apiGroups": [need.group], "resources": [need.resource], "verbs": list(need.verbs)}
    return {**rule, "resourceNames": list(need.names)} if need.names else rule
