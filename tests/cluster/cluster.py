"""A Kubernetes cluster of real programs on loopback that needs no root: etcd, API server, controller manager.

It has no nodes and no kubelet: controllers make pods of jobs and deployments, nobody runs them (playing.py says of a pod
what a kubelet would). All traffic is TLS on ports of its own, which it keeps over restarts; RBAC is on. It lives in a
folder of its own, which is the caller's to remove.
"""

from __future__ import annotations

import base64
import json
import secrets
import ssl
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import httpx

from tests.cluster import binaries
from tests.cluster.admin import Admin
from tests.cluster.certificates import Authority, signing_key
from tests.cluster.process import HOST, Part, free_ports

if TYPE_CHECKING:
    from kubernetes import client

START_S = 240.0
"""A start takes seconds; a machine that does much else needs longer."""
REQUEST_S = 60.0
ISSUER = "https://kubernetes.default.svc"


class Cluster:
    """One cluster. A context manager: it serves when entry returns, and none of its programs is left at the end.

    `address`     https://127.0.0.1:PORT of the API server; `ca` the certificate (a file) that vouches for it
    `kubeconfig`  the administrator's, a file of mode 0600; `token` is in it
    `etcd`, `api_server`, `controllers`   its programs: kill, freeze and thaw them as you like
    `watch_s`     how long the API server lets a watch live at least (it ends each between once and twice that)
    """

    def __init__(self, folder: Path, watch_s: int = 1800) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.token = secrets.token_urlsafe(24)
        self.authority = Authority(folder / "pki")
        self.ca = self.authority.cert
        self._etcd_port, peer_port, self._port = free_ports(3)
        self.address = f"https://{HOST}:{self._port}"
        self.kubeconfig = self._kubeconfig("admin", self.token)
        self.etcd = self._etcd(peer_port)
        self.api_server = self._api_server(watch_s)
        self.controllers = self._controllers()
        self._clients: list[client.ApiClient] = []

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # -- life

    def start(self) -> None:
        """Starts what does not run; when this returns the API server is ready and the controllers work. NoCluster."""
        self.etcd.start()
        self.start_api_server()
        self.controllers.start()
        with self.http() as http:
            account = "/api/v1/namespaces/default/serviceaccounts/default"
            self.controllers.wait(lambda: _answers(http, account), START_S)

    def start_api_server(self) -> None:
        """Starts the API server when it does not run (after a `kill`); it is ready when this returns. NoCluster."""
        self.api_server.start()
        with self.http() as http:
            self.api_server.wait(lambda: _answers(http, "/readyz"), START_S)

    def stop(self) -> None:
        """Ends its programs, clients first."""
        for one in self._clients:
            one.close()
        self._clients.clear()
        for part in (self.controllers, self.api_server, self.etcd):
            part.stop()

    # -- how to talk to it

    def http(self, token: str = "") -> httpx.Client:
        """A bare HTTP client with the administrator's token, or another's; the caller closes it."""
        headers = {"Authorization": f"Bearer {token or self.token}"}
        trusted = ssl.create_default_context(cafile=str(self.ca))
        return httpx.Client(base_url=self.address, verify=trusted, headers=headers, timeout=REQUEST_S, trust_env=False)

    def api_client(self, kubeconfig: Path | None = None) -> client.ApiClient:
        """A client of the `kubernetes` library, the administrator's or of another kubeconfig; closed with the cluster."""
        from kubernetes import config  # noqa: PLC0415 - every run of pytest imports this module, few need the library

        made = config.new_client_from_config(str(kubeconfig or self.kubeconfig))
        self._clients.append(made)
        return made

    def kubeconfig_of(self, namespace: str, account: str) -> Path:
        """A kubeconfig (mode 0600) of a service account that exists, with a token of an hour from the API server."""
        with Admin(self.http()) as admin:
            path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
            told = admin.create(path, {"spec": {"expirationSeconds": 3600}})
        return self._kubeconfig(f"{namespace}.{account}", told["status"]["token"], namespace)

    def _kubeconfig(self, user: str, token: str, namespace: str = "default") -> Path:
        authority = base64.b64encode(self.ca.read_bytes()).decode()
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [
                {"name": "test", "cluster": {"server": self.address, "certificate-authority-data": authority}}
            ],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": user, "namespace": namespace}}],
        }
        path = self.folder / f"{user}.kubeconfig"
        path.touch(mode=0o600)
        path.write_text(json.dumps(document, indent=2))
        return path

    # -- its programs

    def _etcd(self, peer_port: int) -> Part:
        serving, mine = self.authority.signed("etcd"), f"https://{HOST}:{self._etcd_port}"
        peer = f"http://{HOST}:{peer_port}"
        return Part(
            [
                str(binaries.find("etcd")),
                f"--data-dir={self.folder / 'etcd'}",
                f"--listen-client-urls={mine}",
                f"--advertise-client-urls={mine}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=default={peer}",
                f"--cert-file={serving.cert}",
                f"--key-file={serving.key}",
                f"--trusted-ca-file={self.ca}",
                "--client-cert-auth",
                "--unsafe-no-fsync",  # its data need not outlive the machine
                "--log-level=warn",
            ],
            self.folder,
        )

    def _api_server(self, watch_s: int) -> Part:
        serving = self.authority.signed("kube-apiserver", (HOST, "localhost", "kubernetes.default.svc", "10.96.0.1"))
        key = signing_key(self.folder / "pki" / "service-accounts.key")
        tokens = self.folder / "pki" / "tokens.csv"
        tokens.touch(mode=0o600)
        tokens.write_text(f"{self.token},admin,admin,system:masters\n")
        return Part(
            [
                str(binaries.find("kube-apiserver")),
                f"--etcd-servers=https://{HOST}:{self._etcd_port}",
                f"--etcd-cafile={self.ca}",
                f"--etcd-certfile={serving.cert}",
                f"--etcd-keyfile={serving.key}",
                f"--bind-address={HOST}",
                f"--advertise-address={HOST}",
                "--endpoint-reconciler-type=none",  # it refuses to advertise a loopback address, and nobody needs it
                f"--secure-port={self._port}",
                f"--tls-cert-file={serving.cert}",
                f"--tls-private-key-file={serving.key}",
                f"--client-ca-file={self.ca}",
                f"--token-auth-file={tokens}",
                f"--service-account-issuer={ISSUER}",
                f"--service-account-key-file={key}",
                f"--service-account-signing-key-file={key}",
                "--service-cluster-ip-range=10.96.0.0/16",
                "--authorization-mode=Node,RBAC",
                "--allow-privileged=true",
                f"--min-request-timeout={watch_s}",
            ],
            self.folder,
        )

    def _controllers(self) -> Part:
        return Part(
            [
                str(binaries.find("kube-controller-manager")),
                f"--kubeconfig={self.kubeconfig}",
                f"--service-account-private-key-file={self.folder / 'pki' / 'service-accounts.key'}",
                f"--root-ca-file={self.ca}",
                "--use-service-account-credentials=true",
                "--leader-elect=false",
                "--secure-port=0",
                # A thousand runs at once are not to wait for their pods.
                "--kube-api-qps=500",
                "--kube-api-burst=1000",
                # Nodes here have no kubelet that renews their lease: who wants one to be lost says so of it.
                "--node-monitor-grace-period=12h",
            ],
            self.folder,
        )


def _answers(http: httpx.Client, path: str) -> bool:
    try:
        return http.get(path, timeout=5.0).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
