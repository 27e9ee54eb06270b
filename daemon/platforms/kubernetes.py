"""The platform that is a cluster: its objects do the work, programs of templates run beside the daemon."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

from daemon.clients.kubernetes import Cluster
from daemon.clients.kubernetes_objects import Kind
from daemon.core.programs import Template
from daemon.platformparts import KubernetesPlatform
from daemon.platforms.base import JobSpec, JobState, JobStatus, KeptJobs
from daemon.platforms.kubernetes_jobs import KubernetesJobs
from daemon.platforms.kubernetes_nodes import KubernetesNodes
from daemon.platforms.kubernetes_objects import KubernetesObjects
from daemon.points import OnPoint, no_point

__all__ = ["ClusterJobs", "InCluster", "KubernetesJobs", "KubernetesObjects"]


class ClusterJobs:
    """The Jobs protocol where there is a cluster: manifests are its objects, programs run on this machine."""

    def __init__(self, programs: KeptJobs, objects: KubernetesJobs) -> None:
        self._programs = programs
        self._objects = objects

    def submit(self, spec: JobSpec) -> JobStatus:
        """See Jobs."""
        return (self._objects if spec.manifest else self._programs).submit(spec)

    def status(self, job: str) -> JobStatus:
        """See Jobs."""
        program = self._programs.status(job)
        return program if program.state is not JobState.UNKNOWN else self._objects.status(job)

    def cancel(self, job: str, why: str) -> None:
        """See Jobs."""
        is_program = self._programs.status(job).state is not JobState.UNKNOWN
        (self._programs if is_program else self._objects).cancel(job, why)

    def names(self) -> tuple[str, ...]:
        """The jobs that there are."""
        return (*self._programs.names(), *self._objects.names())

    def remove(self, job: str) -> bool:
        """Remove what is left of a job that has ended; whether there was such a one."""
        return self._programs.remove(job) if job in self._programs.names() else self._objects.remove(job)


class InCluster:
    """All of the platform, with its life and how it is doing."""

    def __init__(
        self,
        platform: KubernetesPlatform,
        programs: KeptJobs,
        templates: Mapping[str, Template],
        clock: Callable[[], datetime],
        on_point: OnPoint = no_point,
    ) -> None:
        """Refused when the kubeconfig or the service account cannot be used."""
        self.cluster = Cluster(platform)
        kinds = [kind for template in templates.values() if (kind := job_kind(template)) is not None]
        self._objects = KubernetesJobs(self.cluster, kinds, platform.pending, clock, on_point)
        self.jobs = ClusterJobs(programs, self._objects)
        self.objects = KubernetesObjects(self.cluster, clock)
        self.nodes = KubernetesNodes(self.cluster, clock)

    def heard(self) -> tuple[float, str]:
        """Seconds since all its watches heard from the server, and why one does not; 0 and empty when all is well.

        A kind that the cluster does not know is no trouble: its jobs are refused.
        """
        standings = [watch.standing for watch in self._objects.watches if watch.served]
        broken = [standing for standing in standings if standing.problem]
        if not broken:
            return 0.0, ""
        longest = max(broken, key=lambda standing: standing.seen)
        return longest.seen, longest.problem

    def start(self) -> None:
        """Begin to follow the cluster."""
        self._objects.start()

    def stop(self) -> None:
        """Ask it nothing more; what runs in it goes on."""
        self._objects.stop()
        self.cluster.close()


def job_kind(template: Template) -> Kind | None:
    """The kind of object that does a template's work; None when a program does, or nothing runs."""
    if not template.manifest or template.verb == "apply":
        return None
    return Kind(str(template.manifest["apiVersion"]), str(template.manifest["kind"]))
