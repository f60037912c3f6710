"""The manifests are valid: core kinds against Kubernetes' schemas, RayJobs against KubeRay's, the launcher file against Ray's."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonpatch
import jsonschema
import kubernetes_validate
import pytest
import yaml

from polarity import __version__

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = ROOT / "cluster" / "kubernetes"
OVERLAYS = ["base", "overlays/one-node", "overlays/gpu", "overlays/spot"]
Manifest = dict[str, Any]


def built(folder: Path) -> list[Manifest]:
    """What `kubectl kustomize` makes of a folder, for the features used here: resources and JSON patches with a full target."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert set(kustomization) <= {"apiVersion", "kind", "namespace", "resources", "patches"}, "a feature that this test does not know"
    found: list[Manifest] = []
    for name in kustomization["resources"]:
        path = folder / name
        # Through JSON: YAML anchors would make one shared object of two lists, and a patch of one would change both.
        found += built(path) if path.is_dir() else [json.loads(json.dumps(yaml.safe_load(path.read_text())))]
    for patch in kustomization.get("patches", []):
        target = patch["target"]
        hit = [m for m in found if m["kind"] == target["kind"] and m["metadata"]["name"] == target["name"]]
        assert len(hit) == 1, f"{folder.name}: the patch's target {target} is there {len(hit)} times"
        changed = jsonpatch.apply_patch(hit[0], yaml.safe_load(patch["patch"]))
        found[found.index(hit[0])] = changed
    return found


def kuberay_schema() -> Manifest:
    """KubeRay's RayJob schema, of the version and under the licence that kuberay/README.md names."""
    schema: Manifest = closed(json.loads((Path(__file__).parent / "kuberay" / "rayjob.v1.json").read_text()))
    return schema


def closed(schema: Any) -> Any:
    """The schema with unknown fields as errors, where it does not say that they are kept."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: closed(value) for key, value in schema.items()}
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        result.setdefault("additionalProperties", False)
    return result


def pods(manifest: Manifest) -> Iterator[tuple[str, Manifest]]:
    """The pod templates of a RayJob, by where they stand."""
    cluster = manifest["spec"]["rayClusterSpec"]
    yield "head", cluster["headGroupSpec"]["template"]
    for group in cluster["workerGroupSpecs"]:
        yield group["groupName"], group["template"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_core_kinds_are_valid_kubernetes(overlay: str) -> None:
    for manifest in built(KUBERNETES / overlay):
        if manifest["apiVersion"].startswith("ray.io"):
            for name, pod in pods(manifest):
                whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": pod["spec"]}
                kubernetes_validate.validate(whole, "1.33", strict=True)
        else:
            kubernetes_validate.validate(manifest, "1.33", strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_jobs_fit_kuberays_schema(overlay: str) -> None:
    schema = kuberay_schema()
    jobs = [m for m in built(KUBERNETES / overlay) if m["kind"] == "RayJob"]
    assert len(jobs) == 1
    for job in jobs:
        spec = {"properties": {"spec": schema["properties"]["spec"]}, "type": "object"}
        jsonschema.validate({"spec": job["spec"]}, spec)


def test_the_closed_schema_refuses_a_misspelled_field() -> None:
    """Else the test above could not fail."""
    job = next(m for m in built(KUBERNETES / "base") if m["kind"] == "RayJob")
    job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["minReplica"] = 1
    with pytest.raises(jsonschema.ValidationError, match="minReplica"):
        jsonschema.validate(job["spec"], kuberay_schema()["properties"]["spec"])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_versions_and_commands_are_this_projects(overlay: str) -> None:
    """The image's tag, Ray's version, and an entrypoint that our own command line takes."""
    import ray

    from polarity.resolve import resolve

    job = next(m for m in built(KUBERNETES / overlay) if m["kind"] == "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == ray.__version__
    images = {container["image"] for _, pod in pods(job) for container in pod["spec"]["containers"]}
    assert images == {f"polarity:{__version__}"}
    assert cluster["authOptions"]["mode"] == "token"
    words = job["spec"]["entrypoint"].split()
    assert words[:2] == ["python", "/app/jobs/train.py"]
    sets = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    workers = int(words[words.index("--workers") + 1])
    config = resolve(words[words.index("--preset") + 1], sets=[*sets, f"cluster.workers={workers}"]).config
    group = cluster["workerGroupSpecs"][0]
    assert (config.cluster.max_workers or workers) <= max(group["maxReplicas"], group["replicas"])
    for name, pod in pods(job):  # the last checkpoint is written before Kubernetes kills the pod
        assert config.cluster.grace_s < pod["spec"].get("terminationGracePeriodSeconds", 30), name
    wants_gpu = config.cluster.gpu == "always"
    assert wants_gpu == ("nvidia.com/gpu" in str(group["template"]["spec"]["containers"][0]["resources"]))


def test_no_secret_is_in_the_manifests() -> None:
    for overlay in OVERLAYS:
        for manifest in built(KUBERNETES / overlay):
            assert manifest["kind"] != "Secret"
            if manifest["kind"] != "RayJob":
                continue
            for _, pod in pods(manifest):
                for variable in pod["spec"]["containers"][0].get("env", []):
                    assert "value" not in variable, f"{variable['name']} stands in plain text"


def test_the_launcher_file_passes_rays_own_schema() -> None:
    import ray.autoscaler

    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    launcher = yaml.safe_load((ROOT / "cluster" / "cloud.yaml").read_text())
    jsonschema.validate(launcher, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**launcher, "no_such_key": 1}, schema)


def test_tokens_reach_every_node_and_the_operator_reaches_the_dashboard() -> None:
    launcher = yaml.safe_load((ROOT / "cluster" / "cloud.yaml").read_text())
    assert "~/.ray/auth_token" in launcher["file_mounts"]
    assert "ENV RAY_AUTH_MODE=token" in (ROOT / "cluster" / "Dockerfile").read_text()
    policies = [m for m in built(KUBERNETES / "base") if m["kind"] == "NetworkPolicy"]
    rules = [rule for policy in policies for rule in policy["spec"]["ingress"]]
    operators = [r for r in rules if "kuberay-operator" in json.dumps(r.get("from", []))]
    assert [port["port"] for rule in operators for port in rule["ports"]] == [8265]
