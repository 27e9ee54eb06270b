"""The registry behind its process, against real MLflow databases."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from daemon.clients.artifacts import artifacts_digest
from daemon.clients.registry import RegistryProcess
from daemon.core.errors import Refused, Unavailable
from tests.contract.desk import eventually

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow's own imports warn
    import mlflow
    import mlflow.sklearn
    from mlflow import MlflowClient
    from sklearn.linear_model import LogisticRegression

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def home(registry_home: Path) -> Path:
    """The folder of the MLflow database and its artifacts."""
    return registry_home


@pytest.fixture
def name(name: str, client: MlflowClient) -> str:
    """A registered model of the test's own."""
    client.create_registered_model(name)
    return name


def register(client: MlflowClient, name: str, **tags: str) -> str:
    """Register a version without artifacts; its number."""
    return str(client.create_model_version(name, source="file:///nowhere", tags=tags or None).version)


def log_model(home: Path, c: float, name: str, kind: str = "skops") -> tuple[str, str]:
    """Train on made-up rows, log with a reference and register; the version and its run."""
    rows = [[number % 7, number % 3] for number in range(60)]
    labels = [number % 2 for number in range(60)]
    experiment = mlflow.get_experiment_by_name("contract")
    place = (home / "artifacts").as_uri()
    mlflow.set_experiment(
        experiment_id=experiment.experiment_id if experiment else mlflow.create_experiment("contract", place)
    )
    with mlflow.start_run() as run:
        reference = home / "reference.parquet"
        reference.write_bytes(b"the reference of %f" % c)
        mlflow.log_artifact(str(reference), "driftd")
        model = LogisticRegression(C=c).fit(rows, labels)
        info = mlflow.sklearn.log_model(
            model,
            name="model",
            input_example=np.array(rows[:1]),
            serialization_format=kind,
            pip_requirements=["scikit-learn"],
        )
    return str(mlflow.register_model(info.model_uri, name).version), run.info.run_id


def test_a_new_database_gets_its_tables_with_the_first_call(registry: RegistryProcess, home: Path) -> None:
    """A registry that does not exist yet is made, and holds nothing."""
    assert registry.models({"churn": 0}) == ()
    assert (home / "mlflow.db").exists()


def test_models_answers_with_aliases_live_versions_and_those_above_a_number(
    registry: RegistryProcess, client: MlflowClient, name: str
) -> None:
    """One look tells all that a poller must know, in ascending order of numbers, not of texts."""
    for _ in range(11):
        register(client, name)
    client.delete_model_version(name, "5")
    client.set_registered_model_alias(name, "champion", "10")
    (model,) = registry.models({name: 8, "missing": 0})
    assert (name, {"champion": "10"}, ["9", "10", "11"]) == (
        model.name,
        model.aliases,
        [v.version for v in model.versions],
    )
    assert {str(number) for number in (1, 2, 3, 4, 6, 7, 8, 9, 10, 11)} == model.live
    assert model.created == model.versions[0].created


def test_an_alias_is_set_moved_and_read_back(registry: RegistryProcess, client: MlflowClient, name: str) -> None:
    """The last writer wins, and reading back tells who that was."""
    register(client, name)
    register(client, name)
    assert registry.alias(name, "champion") == ""
    registry.set_alias(name, "champion", "1")
    registry.set_alias(name, "champion", "2")
    assert registry.alias(name, "champion") == "2"


def test_a_tag_is_set_and_the_newest_version_with_it_is_found(
    registry: RegistryProcess, client: MlflowClient, name: str
) -> None:
    """A repeated call finds what the first one made, whatever signs the value holds."""
    register(client, name, **{"driftd.call": 'it\'s "quoted"'})
    second = register(client, name)
    assert registry.find(name, "driftd.call", "another") is None
    assert registry.find("missing", "driftd.call", "another") is None
    registry.set_tag(name, second, "driftd.call", 'it\'s "quoted"')
    found = registry.find(name, "driftd.call", 'it\'s "quoted"')
    assert found is not None
    assert found.version == second
    assert registry.version(name, second).tags == {"driftd.call": 'it\'s "quoted"'}


@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(lambda registry, name: registry.version(name, "77"), id="version"),
        pytest.param(lambda registry, name: registry.version(f"not-{name}", "1"), id="model"),
        pytest.param(lambda registry, name: registry.set_alias(name, "champion", "77"), id="alias"),
        pytest.param(lambda registry, name: registry.set_tag(name, "77", "a", "b"), id="tag"),
        pytest.param(lambda registry, name: registry.fetch(name, "77", "a", "b"), id="fetch"),
        pytest.param(lambda registry, name: registry.digest(name, "77"), id="digest"),
    ],
)
def test_what_does_not_exist_is_refused(
    registry: RegistryProcess, client: MlflowClient, ask: Callable[[RegistryProcess, str], Any], request: Any
) -> None:
    """Asking again would never help, so it is no passing fault."""
    model = request.node.callspec.id
    client.create_registered_model(f"refused-{model}")
    with pytest.raises(Refused):
        ask(registry, f"refused-{model}")


@pytest.mark.parametrize("kind", ["skops", "cloudpickle"])
def test_a_model_logged_twice_has_one_digest_and_another_model_has_another(
    registry: RegistryProcess, home: Path, name: str, kind: str, tmp_path: Path
) -> None:
    """What MLflow writes about the run does not count; what the model computes does. The training side gets the same."""
    first, _ = log_model(home, 1.0, name, kind)
    second, _ = log_model(home, 1.0, name, kind)
    third, _ = log_model(home, 0.01, name, kind)
    digests = [registry.digest(name, version) for version in (first, second, third)]
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]
    local = mlflow.artifacts.download_artifacts(f"models:/{name}/{first}", dst_path=str(tmp_path))
    assert artifacts_digest(Path(local)) == digests[0]


def test_an_artifact_is_fetched_from_the_run_or_from_the_model(
    registry: RegistryProcess, home: Path, client: MlflowClient, name: str, tmp_path: Path
) -> None:
    """The reference lies with the run, the model's own files with the model; both come whole, and what is nowhere is refused."""
    version, _ = log_model(home, 1.0, name)
    path = registry.fetch(name, version, "driftd/reference.parquet", str(tmp_path / "new"))
    assert str(tmp_path / "new" / "reference.parquet") == path
    assert Path(path).read_bytes() == b"the reference of 1.000000"
    assert Path(registry.fetch(name, version, "MLmodel", str(tmp_path))).exists()
    with pytest.raises(Refused, match="has no artifact"):
        registry.fetch(name, version, "driftd/nothing.parquet", str(tmp_path))
    assert {"new", "MLmodel"} == {item.name for item in tmp_path.iterdir()}


def test_the_reference_of_a_deleted_run_is_refused_not_awaited(
    registry: RegistryProcess, home: Path, client: MlflowClient, name: str, tmp_path: Path
) -> None:
    """A reference that went away with its run never comes back by waiting."""
    version, run = log_model(home, 1.0, name)
    client.delete_run(run)
    from_run = client.get_run(run).info.artifact_uri.removeprefix("file://")
    subprocess.run(["rm", "-r", from_run], check=True)
    with pytest.raises(Refused):
        registry.fetch(name, version, "driftd/reference.parquet", str(tmp_path))


def test_many_threads_ask_at_once(registry: RegistryProcess, client: MlflowClient, name: str) -> None:
    """Each gets the answer to its own question."""
    for _ in range(4):
        register(client, name)
    answers: dict[int, str] = {}

    def ask(number: int) -> None:
        answers[number] = registry.version(name, str(number % 4 + 1)).version

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {number: str(number % 4 + 1) for number in range(24)} == answers


def test_a_process_killed_in_the_middle_of_a_call_is_unavailable_and_comes_back(
    registry: RegistryProcess, client: MlflowClient, name: str
) -> None:
    """SIGKILL fails the calls that wait, at once, and the next ones get a new process."""
    register(client, name)
    pid = eventually(lambda: registry.pid)
    os.kill(pid, signal.SIGSTOP)  # it cannot answer: the call is in the middle for certain
    failures: list[Unavailable] = []

    def ask() -> None:
        try:
            registry.version(name, "1")
        except Unavailable as error:
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    child = registry._child
    assert child is not None
    eventually(lambda: len(child._pending) == 3)
    os.kill(pid, signal.SIGKILL)
    for thread in threads:
        thread.join()
    assert len(failures) == 3
    assert eventually(lambda: answered(registry, name)) == "1"
    assert registry.pid != pid


def answered(registry: RegistryProcess, name: str) -> str:
    """The version's number, or nothing while the registry is unavailable."""
    try:
        return registry.version(name, "1").version
    except Unavailable:
        return ""


def test_a_process_that_hangs_is_ended_and_replaced(home: Path, client: MlflowClient, name: str) -> None:
    """No answer in time is Unavailable, and the one that hangs is killed, not left behind."""
    register(client, name)
    hanging = RegistryProcess(f"sqlite:///{home}/mlflow.db", str(home / "artifacts"), timeout=5)
    try:
        hanging.alias(name, "champion")
        pid = hanging.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(Unavailable, match="no answer in time"):
            hanging.alias(name, "champion")
        assert not Path(f"/proc/{pid}").exists()
        with pytest.raises(Unavailable, match="starts again"):
            hanging.alias(name, "champion")
        assert eventually(lambda: answered(hanging, name)) == "1"
    finally:
        hanging.stop()


def test_a_locked_database_is_unavailable_and_works_when_it_is_free(
    home: Path, client: MlflowClient, name: str
) -> None:
    """Somebody holds the write lock longer than we wait: try again later, nothing is broken."""
    register(client, name)
    impatient = RegistryProcess(f"sqlite:///{home}/mlflow.db", str(home / "artifacts"), timeout=2)
    lock = sqlite3.connect(home / "mlflow.db", isolation_level=None)
    try:
        impatient.alias(name, "champion")
        lock.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Unavailable):
            impatient.set_alias(name, "champion", "1")
        lock.execute("ROLLBACK")
        eventually(lambda: answered(impatient, name))
        impatient.set_alias(name, "champion", "1")
        assert impatient.alias(name, "champion") == "1"
    finally:
        lock.close()
        impatient.stop()


def test_a_registry_that_cannot_be_opened_says_why(tmp_path: Path) -> None:
    """The last words of the process are in the error."""
    (tmp_path / "mlflow.db").write_bytes(b"this is no database, whatever its name may say" * 100)
    broken = RegistryProcess(f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path), timeout=20)
    try:
        with pytest.raises(Unavailable, match="file is not a database"):
            broken.models({"churn": 0})
    finally:
        broken.stop()


def test_a_server_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    """Nobody listens on the port: try again later."""
    absent = RegistryProcess("http://127.0.0.1:9", str(tmp_path), timeout=20)
    try:
        with pytest.raises(Unavailable):
            absent.models({"churn": 0})
    finally:
        absent.stop()


def test_the_process_does_not_outlive_whoever_started_it(home: Path) -> None:
    """A daemon that is killed leaves no registry process behind."""
    program = (
        "import sys, time; from daemon.clients.registry import RegistryProcess\n"
        f"registry = RegistryProcess('sqlite:///{home}/mlflow.db', '{home}/artifacts')\n"
        "registry.alias('a', 'b'); print(registry.pid, flush=True); time.sleep(60)"
    )
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=root) as starter:
        assert starter.stdout is not None
        child = int(starter.stdout.readline())
        assert Path(f"/proc/{child}").exists()
        starter.kill()
    eventually(lambda: not running(child))


def running(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_stopped_registry_stays_stopped(home: Path) -> None:
    """After `stop` no call starts a process again."""
    stopped = RegistryProcess(f"sqlite:///{home}/mlflow.db", str(home))
    stopped.start()
    pid = stopped.pid
    assert pid is not None
    stopped.stop()
    with pytest.raises(Unavailable, match="stopped"):
        stopped.alias("a", "b")
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.slow
@pytest.mark.timeout(300)  # an MLflow server takes long to start, twice
def test_a_registry_server_is_spoken_to_over_http(tmp_path: Path) -> None:
    """The same answers and errors as from a database; a server that goes away is unavailable, and works again after."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db", "--artifacts-destination", str(tmp_path / "artifacts"),
    ]  # fmt: skip
    uri = f"http://127.0.0.1:{port}"
    remote = RegistryProcess(uri, "", timeout=30)
    try:
        with serving(command, tmp_path):
            eventually(lambda: reachable(remote), 100)
            client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            client.create_registered_model("churn")
            number = str(client.create_model_version("churn", "s3://models/churn", tags={"driftd.call": "c1"}).version)
            remote.set_alias("churn", "champion", number)
            (model,) = remote.models({"churn": 0, "missing": 0})
            assert (model.aliases, [item.status for item in model.versions]) == ({"champion": number}, ["READY"])
            found = remote.find("churn", "driftd.call", "c1")
            assert found is not None
            assert found.version == number
            with pytest.raises(Refused):
                remote.version("churn", "7")
            run = client.create_run("0")
            (tmp_path / "reference.parquet").write_bytes(b"rows")
            client.log_artifact(run.info.run_id, str(tmp_path / "reference.parquet"), "driftd")
            second = client.create_model_version("churn", "s3://models/churn", run.info.run_id)
            fetched = remote.fetch("churn", str(second.version), "driftd/reference.parquet", str(tmp_path / "here"))
            assert Path(fetched).read_bytes() == b"rows"
        with pytest.raises(Unavailable):
            remote.alias("churn", "champion")
        with serving(command, tmp_path):
            eventually(lambda: reachable(remote), 100)
            assert remote.alias("churn", "champion") == number
    finally:
        remote.stop()


@contextlib.contextmanager
def serving(command: list[str], folder: Path) -> Iterator[None]:
    """An MLflow server, ended with all the processes it started."""
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        yield
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def reachable(registry: RegistryProcess) -> bool:
    """Whether the registry answers."""
    try:
        registry.alias("nothing", "champion")
    except Unavailable:
        return False
    return True
