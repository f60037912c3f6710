"""A run's metrics where people look for them: Ray's endpoint, a real Prometheus with every query of the Grafana file, Ray's own page."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import kubernetes_validate
import pytest
import yaml

from polarity.train.ray_metrics import COUNTERS, GAUGES, PREFIX
from tests.cluster.nodes import ROOT, Cluster, free_port, run, started_cluster
from tests.cluster.page import text_of
from tests.tiny import DEFAULT_TASKS, tiny_encoder

MONITORING = ROOT / "cluster" / "monitoring"
DASHBOARD = json.loads((MONITORING / "grafana" / "polarity.json").read_text())
NEVER_HERE = {f"{PREFIX}bad_steps_total"}  # no step of the test is bad, and Ray's counters cannot say 0
ONLY_GPUS = ("ray_node_gpus_utilization", "ray_node_gram_used")
pytestmark = [pytest.mark.cluster, pytest.mark.slow]


@dataclass(frozen=True)
class Watched:
    """A cluster that has trained a run under a Prometheus (where there is one), and when."""

    cluster: Cluster
    prometheus: str | None
    began: float

    @property
    def home(self) -> Path:
        """The cluster's home; Ray's temporary folder is `r` in it."""
        return Path(self.cluster.environment["HOME"])

    @property
    def token(self) -> str:
        return (self.home / ".ray" / "auth_token").read_text()


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Train once for all tests of this file, with exports and scrapes every second instead of every ten."""
    began = time.time()
    with ExitStack() as running:
        running.enter_context(mock.patch.dict(os.environ, RAY_metrics_report_interval_ms="1000"))
        cluster = running.enter_context(started_cluster(2))
        prometheus = running.enter_context(prometheus_of(Path(cluster.environment["HOME"])))
        train(cluster, tmp_path_factory.mktemp("watched"))
        yield Watched(cluster, prometheus, began)


@contextmanager
def prometheus_of(home: Path) -> Iterator[str | None]:
    """Prometheus with the project's own configuration, less Ray's folder and the interval; None where it is not installed."""
    if not shutil.which("prometheus"):
        yield None
        return
    text = (MONITORING / "prometheus.yml").read_text()
    assert "/tmp/ray/" in text and "10s" in text
    (home / "prometheus.yml").write_text(text.replace("/tmp/ray/", f"{home}/r/").replace("10s", "1s"))
    place = f"127.0.0.1:{free_port()}"
    command = ["prometheus", f"--config.file={home}/prometheus.yml", f"--storage.tsdb.path={home}/data", f"--web.listen-address={place}"]
    with (home / "prometheus.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield f"http://{place}"
    finally:
        server.terminate()
        server.wait(20)


def train(cluster: Cluster, folder: Path) -> None:
    encoder = tiny_encoder(folder / "encoder", "bert", hidden=16, layers=2)
    options = ["--preset", "quickstart", "--encoder", str(encoder), "--data", "sample:600", "--epochs", "8"]
    sets = ["train.resamples=100", "cluster.cpus_per_worker=0.5", "train.log_every=1", "loss.r_drop_alpha=0.4"]
    more = [part for value in sets for part in ("--set", value)]
    status, log = run(cluster.driver(), sys.executable, "jobs/train.py", *options, *more, "--run-dir", str(folder / "first"))
    assert status == 0, log[-4000:]


def get(url: str, token: str | None = None) -> str:
    request = urllib.request.Request(url, headers={} if token is None else {"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return str(answer.read().decode())


def scraped(target: str, seconds: float = 60) -> str:
    """A node's metrics; an agent of Ray that starts again on a busy machine refuses for a while, and Prometheus asks again as well."""
    end = time.monotonic() + seconds
    while True:
        try:
            return get(f"http://{target}/metrics")
        except urllib.error.URLError:
            if time.monotonic() > end:
                raise
            time.sleep(1)


def nodes(watched: Watched) -> list[str]:
    """The addresses that Ray's service discovery names."""
    return [
        str(target) for group in json.loads(get(f"{watched.cluster.jobs}/api/prometheus/sd", watched.token)) for target in group["targets"]
    ]


def ask(watched: Watched, query: str) -> list[dict[str, Any]]:
    """What a graph would show: the query's series from the cluster's start until now."""
    span = {"query": query, "start": watched.began, "end": time.time(), "step": "1s"}
    answer = json.loads(get(f"{watched.prometheus}/api/v1/query_range?{urllib.parse.urlencode(span)}"))
    assert answer["status"] == "success", (query, answer)
    series: list[dict[str, Any]] = answer["data"]["result"]
    return series


def test_counters_are_served_without_a_token_and_tagged(watched: Watched) -> None:
    """Gauges have vanished with the run; counters stay, and their help with them."""
    served = "\n".join(map(scraped, nodes(watched)))
    steps = re.findall(rf"^ray_{PREFIX}steps_total{{(.*)}} (\S+)$", served, re.MULTILINE)
    assert len(steps) == 1
    labels = dict(re.findall(r'(\w+)="([^"]*)"', steps[0][0]))
    assert labels["run"] == "first" and labels["seed"].isdigit() and labels["study"] == labels["arm"] == ""
    assert float(steps[0][1]) > 2
    assert re.search(rf"^# HELP ray_{PREFIX}steps_total {re.escape(COUNTERS['steps_total'])}$", served, re.MULTILINE)


def test_every_metric_of_the_run_is_in_prometheus(watched: Watched) -> None:
    require_prometheus(watched)
    for name in [*GAUGES, *COUNTERS]:
        found = ask(watched, f'ray_{PREFIX}{name}{{run="first"}}')
        assert found or PREFIX + name in NEVER_HERE, name
    classes = {(s["metric"]["task"], s["metric"]["class"]) for s in ask(watched, f"ray_{PREFIX}validation_class_f1")}
    assert classes == {(task, label) for task, labels in DEFAULT_TASKS.items() for label in labels}
    assert {s["metric"]["ray_train_run_name"] for s in ask(watched, "ray_train_worker_group_start_total_time_s")} == {"first/checkpoints"}
    (left,) = ask(watched, f"max by (run) (ray_{PREFIX}epochs_left)")
    values = [float(value) for _, value in left["values"]]
    assert values == sorted(values, reverse=True) and values[-1] == 0 and values[0] > 1
    (rate,) = ask(watched, f"max by (run) (ray_{PREFIX}mfu_ratio)")
    # Above 1 only where the machine was busier while its peak was measured; tests/train/test_ray_metrics.py has the arithmetic.
    assert all(0 < float(value) < 10 for _, value in rate["values"]), rate["values"]


def queries() -> list[str]:
    """Every query of the Grafana file, as Grafana would send it for all runs."""
    found = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
    return [query.replace("$run", ".*").replace("$__rate_interval", "20s") for query in found]


def test_every_query_of_the_grafana_file_has_an_answer(watched: Watched) -> None:
    require_prometheus(watched)
    assert len(queries()) > 25 and not any("$" in query for query in queries())
    silent = [query for query in queries() if not ask(watched, query)]
    assert [query for query in silent if not any(name in query for name in ONLY_GPUS)] == []
    variable = next(v for v in DASHBOARD["templating"]["list"] if v["name"] == "run")
    metric = re.fullmatch(r"label_values\((\w+), run\)", variable["query"]["query"])
    assert metric and {series["metric"]["run"] for series in ask(watched, metric[1])} == {"first"}


def test_from_another_machine_the_head_names_the_same_nodes(watched: Watched) -> None:
    if not shutil.which("promtool"):
        pytest.skip("no promtool here: apt-get install --no-install-recommends prometheus")
    text = (MONITORING / "prometheus-remote.yml").read_text()
    assert "http://CHANGE-ME:8265" in text
    config = watched.home / "prometheus-remote.yml"
    config.write_text(text.replace("http://CHANGE-ME:8265", watched.cluster.jobs))
    config.with_name("ray_token").write_text(watched.token)
    checked = subprocess.run(["promtool", "check", "config", str(config)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    command = ["promtool", "check", "service-discovery", "--timeout=8s", str(config), "ray"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 0, found.stderr
    assert {entry["labels"]["instance"] for entry in json.loads(found.stdout)} == set(nodes(watched))


def test_rays_own_page_lists_the_run(watched: Watched) -> None:
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    headers = {"Authorization": f"Bearer {watched.token}"}
    text = text_of(f"{watched.cluster.jobs}/#/jobs", until="jobs/train.py", headers=headers, browser=browser)
    assert "SUCCEEDED" in text and "Cluster" in text


def test_provisioning_points_at_the_dashboard_and_at_the_documented_prometheus() -> None:
    folder = MONITORING / "grafana" / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources" / "polarity.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((folder / "dashboards" / "polarity.yml").read_text())["providers"]
    text = (MONITORING / "README.md").read_text()
    assert source["url"].removeprefix("http://") in text
    assert provider["options"]["path"] == "${POLARITY_DASHBOARDS}" and "POLARITY_DASHBOARDS=$PWD/cluster/monitoring/grafana " in text
    idents = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(idents)) == len(idents)


def test_the_prometheus_for_kubernetes_is_valid(tmp_path: Path) -> None:
    manifests = list(yaml.safe_load_all((MONITORING / "kubernetes.yaml").read_text()))
    for manifest in manifests:
        kubernetes_validate.validate(manifest, "1.33", strict=True)
    base = yaml.safe_load((ROOT / "cluster" / "kubernetes" / "base" / "kustomization.yaml").read_text())
    assert f"-n {base['namespace']} " in (MONITORING / "kubernetes.yaml").read_text()
    (config,) = [manifest["data"]["prometheus.yml"] for manifest in manifests if manifest["kind"] == "ConfigMap"]
    if shutil.which("promtool"):
        rest = yaml.safe_load(config)
        rest["scrape_configs"][0].pop("kubernetes_sd_configs")  # which Debian's build does not know
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(rest))
        command = ["promtool", "check", "config", "--syntax-only", str(tmp_path / "prometheus.yml")]
        assert subprocess.run(command, check=False).returncode == 0


def require_prometheus(watched: Watched) -> None:
    if watched.prometheus is None:
        pytest.skip("no Prometheus here: apt-get install --no-install-recommends prometheus")
