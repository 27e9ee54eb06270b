"""What the loaded rules need of a cluster: the least that RBAC must grant, as `driftd rbac` prints it.

It is a function of config.yaml, the rules and the templates, and nothing else: rules that say more need more, and then it
is printed anew. What each part of driftd does with which objects stands in one table here, beside nothing that runs; the
tests run the verbs under exactly what it says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from daemon.config import Config
from daemon.core.programs import Template
from daemon.core.rules import Rule
from daemon.handling import Verb
from daemon.nodeparts import NodesSource
from daemon.platformparts import KubernetesPlatform
from daemon.servingparts import KserveServing

LOOK = ("get", "list", "watch")
WORK = ("create", "delete")
PLURALS = {
    "Job": "jobs",
    "PyTorchJob": "pytorchjobs",
    "TrainJob": "trainjobs",
    "Workflow": "workflows",
    "Experiment": "experiments",
    "NetworkPolicy": "networkpolicies",
    "Ingress": "ingresses",
}
"""How the kinds of templates are called in paths; others by the rules of English that definitions follow."""
NODE_VERBS = frozenset({"cordon", "uncordon"})
CONFIG = ("kserve", "inferenceservice-config")
"""KServe's own configuration, which says its mode."""
DEFINITION = "inferenceservices.serving.kserve.io"


@dataclass(frozen=True, slots=True, order=True)
class Need:
    """What may be done to objects of one kind: one rule of a Role."""

    group: str
    """API group; empty: the core."""
    resource: str
    verbs: tuple[str, ...]
    names: tuple[str, ...] = ()
    """Only objects of these names; empty: of any."""


_TOLD = Need("events.k8s.io", "events", ("create",))
"""The Kubernetes Events that driftd writes on what it changes."""


@dataclass(frozen=True, slots=True)
class Access:
    """All that is needed."""

    namespaces: Mapping[str, tuple[Need, ...]]
    cluster: tuple[Need, ...]
    """Of objects that are in no namespace."""


def access(
    config: Config, rules: Iterable[Rule], verbs: Mapping[str, Verb], templates: Mapping[str, Template]
) -> Access:
    """What `config` and `rules` need; nothing when the platform is no cluster and no source asks one."""
    steps = [step for rule in rules for step in (*rule.steps, *rule.on_failure)]
    used = {str(step.inputs["template"]) for step in steps if isinstance(step.inputs.get("template"), str)}
    serves = any(verbs[step.verb].target == "serving" for step in steps)
    found: dict[str, list[Need]] = {}
    cluster: list[Need] = []
    if isinstance(config.platform, KubernetesPlatform):
        platform = config.platform
        for name, template in templates.items():
            for namespace, need in _of_template(platform.namespace, template, name in used):
                found.setdefault(namespace, []).append(need)
        if isinstance(platform.serving, KserveServing) and config.models:
            for namespace in _served(config, platform, platform.serving):
                found.setdefault(namespace, []).extend(_of_serving(platform.serving, serves))
            found.setdefault(CONFIG[0], []).append(Need("", "configmaps", ("get",), (CONFIG[1],)))
            cluster.append(Need("apiextensions.k8s.io", "customresourcedefinitions", ("get",), (DEFINITION,)))
        if any(step.verb in NODE_VERBS for step in steps):
            cluster.append(Need("", "nodes", ("get", "patch")))
            found.setdefault("default", []).append(_TOLD)  # where Events on what is in no namespace are
    if any(isinstance(source, NodesSource) for source in config.sources.values()):
        cluster.append(Need("", "nodes", LOOK))
    return Access({name: _joined(needs) for name, needs in sorted(found.items())}, _joined(cluster))


def _of_template(namespace: str, template: Template, used: bool) -> Iterator[tuple[str, Need]]:
    """Objects are followed as soon as a template may make them; made and removed only when a rule uses it."""
    if not template.manifest:
        return
    group = str(template.manifest["apiVersion"]).rpartition("/")[0]
    resource = plural(str(template.manifest["kind"]))
    if template.verb == "apply":
        if used:
            place = str((template.manifest.get("metadata") or {}).get("namespace") or namespace)
            yield place, Need(group, resource, ("create", "get", "patch"))
            yield place, _TOLD
        return
    yield namespace, Need(group, resource, (*LOOK, *WORK) if used else LOOK)
    yield namespace, Need("", "pods", LOOK)
    if used:
        yield namespace, Need("", "pods/log", ("get",))
        yield namespace, Need("", "events", ("list",))  # why pods of a job do not come
        yield namespace, _TOLD


def _served(config: Config, platform: KubernetesPlatform, serving: KserveServing) -> list[str]:
    """The namespaces of the models' InferenceServices; a target `NAMESPACE/NAME` says its own."""
    usual = serving.namespace or platform.namespace
    targets = (model.serving or name for name, model in config.models.items())
    return sorted({target.partition("/")[0] if "/" in target else usual for target in targets})


def _of_serving(serving: KserveServing, changes: bool) -> Iterator[Need]:
    """The models' InferenceServices: read to know what serves, changed only when some rule's verb changes traffic."""
    change = ("create", "delete", "patch") if changes else ()
    yield Need("serving.kserve.io", "inferenceservices", ("get", "list", *change))
    yield Need("", "configmaps", ("get", *(("create", "patch") if changes else ())))
    yield Need("apps", "deployments", ("get",))
    yield Need("serving.knative.dev", "revisions", ("get",))
    if serving.route is not None:
        yield Need("gateway.networking.k8s.io", "httproutes", ("get", *change))
    if changes:
        yield _TOLD


def plural(kind: str) -> str:
    """What a kind is called in paths."""
    lower = kind.lower()
    if kind in PLURALS:
        return PLURALS[kind]
    if lower.endswith(("s", "x", "ch", "sh")):
        return f"{lower}es"
    return f"{lower[:-1]}ies" if lower.endswith("y") else f"{lower}s"


def _joined(needs: Iterable[Need]) -> tuple[Need, ...]:
    """One need per kind and names, with all that is done to it."""
    verbs: dict[tuple[str, str, tuple[str, ...]], set[str]] = {}
    for need in needs:
        verbs.setdefault((need.group, need.resource, need.names), set()).update(need.verbs)
    return tuple(
        Need(group, resource, tuple(sorted(done)), names) for (group, resource, names), done in sorted(verbs.items())
    )
