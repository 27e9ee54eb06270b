"""The event types about a cluster's GPU nodes; the catalogue in events.py has them with all others."""

from __future__ import annotations

from daemon.core.fields import EventType, Field, flag, moment, text, whole

_NODE: tuple[Field, ...] = (
    text("node", "name of the node", required=True),
    text("source", "name of the source in config.yaml", required=True),
    text("product", "GPU product by the node's label, e.g. `NVIDIA-A100-SXM4-80GB`"),
    whole("memory_mb", "memory of one GPU by the node's label, in MiB"),
)

NODE_TYPES = (
    EventType("gpu.capacity_changed", "A node offers another number of GPUs than it did, and not just for a moment.", (
        *_NODE,
        text("resource", "what is counted, e.g. `nvidia.com/gpu`", required=True),
        whole("allocatable", "how many pods can be given now", required=True),
        whole("previous", "how many they could be given before", required=True),
        whole("change", "the difference: negative when some were lost", required=True),
        whole("capacity", "how many the node says it has; allocatable ones that are missing here are broken", required=True),
        flag("usable", "the node takes work: it is ready, not cordoned, and nothing else is in the way"),
        moment("since", "when it became so", required=True),
    )),
    EventType("node.lost", "A GPU node takes no more work, and not just for a moment.", (
        *_NODE,
        text("reason", "`unreachable`, `not ready`, `condition` (a vendor's health check), `cordoned`, `tainted` or `deleted`", required=True),
        text("why", "the same in a sentence", required=True),
        text("condition", "the condition's or taint's name, where one is the reason"),
        whole("gpus", "GPUs that it offered before", required=True),
        moment("since", "when it became so", required=True),
    )),
    EventType("node.ready", "A GPU node takes work: it is new, or it is back.", (
        *_NODE,
        whole("gpus", "GPUs that it offers", required=True),
        flag("new", "it was not known before"),
        text("was", "why it took no work before; empty when it is new", required=True),
        moment("since", "when it became so", required=True),
    )),
)  # fmt: skip
