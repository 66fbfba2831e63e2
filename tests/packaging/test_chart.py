"""The Helm chart: what it renders is what Kubernetes takes, and what it may not render it refuses.

Helm is in no registry that CI reaches: `render.go` runs Go's templates with the same functions. The schemas are those of
Kubernetes itself, as kubernetes-validate carries them; KEDA's are not among them.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess

import jsonschema
import kubernetes_validate
import pytest
import yaml

from conftest import ROOT, metric_names

CHART = ROOT / "deploy/helm/ossia"
GO_LIBRARIES = pathlib.Path("/usr/share/gocode")
VERSIONS = ["1.30", "1.34"]
KEYS = {"apiKeys": {"existingSecret": "keys"}}
SHARED = {**KEYS, "store": {"existingSecret": "store"}}
CASES = {
    "open": {"insecure": True},
    "keys": {"apiKeys": {"create": True, "keys": "[[keys]]\nname = 'me'\n"}},
    "models": {**KEYS, "model": "/models/gpt-oss-20b", "models": {"create": True, "storageClassName": "nfs"}},
    "download": {**KEYS, "model": "openai/gpt-oss-20b", "offline": False, "models": {"existingClaim": "models"}},
    "state": {**KEYS, "store": {"claim": {"create": True}}},
    "tls": {**KEYS, "tls": {"existingSecret": "tls"}, "config": "[limits]\nmax_queue_len = 64\n"},
    "hpa": {**SHARED, "replicas": 3, "autoscaling": {"hpa": {"enabled": True}}},
    "keda": {**SHARED, "autoscaling": {"keda": {"enabled": True}}},
    "placed": {**KEYS, "nodeSelector": {"a": "b"}, "tolerations": [{"operator": "Exists"}],
               "podAnnotations": {"a": "b"}, "podLabels": {"c": "d"}, "imagePullSecrets": [{"name": "s"}],
               "service": {"annotations": {"a": "b"}},
               "networkPolicy": {"ingress": [{"podSelector": {}}], "egress": [{"ports": [{"port": 5432}]}]}},
}

pytestmark = pytest.mark.skipif(
    not shutil.which("go") or not (GO_LIBRARIES / "src/github.com/Masterminds/sprig").exists(),
    reason="Go and sprig are not installed: `cargo xtask setup` does it")


@pytest.fixture(scope="module")
def renderer(tmp_path_factory):
    """Renders with values; gives the exit code, the documents and what was said."""
    program = tmp_path_factory.mktemp("render") / "render"
    env = {**os.environ, "GO111MODULE": "off", "GOPATH": str(GO_LIBRARIES), "GOFLAGS": "",
           "GOCACHE": str(program.with_name("cache"))}
    source = pathlib.Path(__file__).with_name("render.go")
    subprocess.run(["go", "build", "-o", program, source], check=True, env=env)

    def render(values: dict) -> tuple[int, list[dict], str]:
        done = subprocess.run([program, CHART], input=json.dumps(values), capture_output=True, text=True)
        return done.returncode, [document for document in yaml.safe_load_all(done.stdout) if document], done.stderr

    return render


@pytest.fixture(scope="module", params=CASES)
def documents(renderer, request):
    jsonschema.validate(CASES[request.param], json.loads((CHART / "values.schema.json").read_text()))
    code, documents, said = renderer(CASES[request.param])
    assert code == 0, said
    return {document["kind"]: document for document in documents}


def test_kubernetes_takes_what_is_rendered(documents):
    for document in documents.values():
        if document["apiVersion"].startswith("keda.sh/"):
            continue
        for version in VERSIONS:
            kubernetes_validate.validate(document, version, strict=True)


def test_pods_have_no_rights_and_write_nowhere_but_in_their_volumes(documents):
    spec = documents["Deployment"]["spec"]["template"]["spec"]
    pod, (container,) = spec["securityContext"], spec["containers"]
    assert pod["runAsNonRoot"] and pod["runAsUser"] > 0 and pod["seccompProfile"]["type"] == "RuntimeDefault"
    assert not spec["automountServiceAccountToken"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    mounts, volumes = container["volumeMounts"], {volume["name"] for volume in spec["volumes"]}
    assert {mount["name"] for mount in mounts} == volumes
    assert {"/tmp", "/var/lib/ossia"} <= {mount["mountPath"] for mount in mounts}


def test_nothing_goes_out_unless_it_is_listed(documents, request):
    policy = documents["NetworkPolicy"]["spec"]
    assert "Egress" in policy["policyTypes"]
    listed = CASES[request.node.callspec.params["documents"]].get("networkPolicy", {}).get("egress", [])
    assert policy["egress"] == listed
    labels = documents["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for selector in (policy["podSelector"], documents["PodDisruptionBudget"]["spec"]["selector"]):
        assert selector["matchLabels"].items() <= labels.items()
    assert documents["Service"]["spec"]["selector"].items() <= labels.items()


def test_the_program_knows_every_variable_and_answers_every_probe(documents, variables, server):
    (container,) = documents["Deployment"]["spec"]["template"]["spec"]["containers"]
    for entry in container["env"]:
        assert entry["name"] in variables | {"HF_HOME"}, entry
    ports = {port["name"] for port in container["ports"]}
    for name in ("livenessProbe", "readinessProbe"):
        probe = container[name]["httpGet"]
        assert probe["port"] in ports and server.get(probe["path"]) is not None
    assert documents["Service"]["spec"]["ports"][0]["targetPort"] in ports


def test_what_scales_counts_requests_that_wait(documents, metrics):
    target = documents["Deployment"]["metadata"]["name"]
    if scaler := documents.get("HorizontalPodAutoscaler"):
        (metric,) = scaler["spec"]["metrics"]
        assert metric["pods"]["metric"]["name"].replace("vllm_", "vllm:", 1) in metrics
    elif scaler := documents.get("ScaledObject"):
        (trigger,) = scaler["spec"]["triggers"]
        names = metric_names(trigger["metadata"]["query"])
        assert names and set(names) <= metrics
    else:
        assert documents["Deployment"]["spec"]["replicas"] == 1
        return
    assert scaler["spec"]["scaleTargetRef"]["name"] == target
    assert "replicas" not in documents["Deployment"]["spec"]


@pytest.mark.parametrize("values, reason", [
    ({}, "who may ask?"),
    ({"apiKeys": {"create": True}}, "apiKeys.create needs apiKeys.keys"),
    ({**KEYS, "replicas": 2}, "set store.existingSecret"),
    ({**KEYS, "autoscaling": {"keda": {"enabled": True}}}, "set store.existingSecret"),
    ({**SHARED, "autoscaling": {"keda": {"enabled": True}, "hpa": {"enabled": True}}}, "not both"),
    ({**KEYS, "model": "/models/x"}, "models.existingClaim or models.create"),
])
def test_what_cannot_work_is_refused(renderer, values, reason):
    code, _, said = renderer(values)
    assert code != 0 and reason in said, said


def test_the_schema_has_every_value_and_no_other():
    def names(value, prefix=""):
        if not isinstance(value, dict) or not value:
            return {prefix}
        return {name for key, inner in value.items() for name in names(inner, f"{prefix}.{key}")}

    def allowed(schema, prefix=""):
        if "properties" not in schema:
            return {prefix}
        return {name for key, inner in schema["properties"].items() for name in allowed(inner, f"{prefix}.{key}")}

    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    jsonschema.validate(values, schema)
    inner = {f".resources.{rest}" for rest in ("requests.cpu", "requests.memory", "limits.memory")}
    assert names(values) - inner | {".resources", ".global"} == allowed(schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"replica": 2}, schema)


def test_templates_use_no_value_that_does_not_exist():
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    for path in (CHART / "templates").iterdir():
        for name in re.findall(r"\.Values\.([A-Za-z.]+)", path.read_text()):
            value = values
            for part in name.split("."):
                assert part in value, f"{path.name}: {name}"
                value = value[part]
