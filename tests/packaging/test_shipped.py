"""Compose files, images, units and pages name settings, flags, metrics and files: all of these exist."""

import json
import re
import shutil
import subprocess

import pytest
import yaml

from conftest import OSSIA, ROOT, metric_names

COMPOSE = sorted((ROOT / "docker").glob("compose*.yaml"))
DOCKERFILES = [ROOT / "Dockerfile", ROOT / "docker/Dockerfile.cuda"]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Chosen where a compose file is run, not read by the program.
INTERPOLATED = {"OSSIA_IMAGE", "OSSIA_MODELS", "OSSIA_ADDRESS", "OSSIA_POSTGRES_PASSWORD"}
# Read by the tests, or by a build for CUDA.
OF_DEVELOPERS = {"OSSIA_BIN", "OSSIA_TEST_TURNS", "OSSIA_CUDA_ARCHS", "OSSIA_CUDA_LIB_DIRS", "OSSIA_FLAG_NAME"}
NAME = re.compile(r"OSSIA_[A-Z_]*[A-Z]")


@pytest.fixture(scope="module", params=COMPOSE, ids=lambda path: path.stem)
def compose(request):
    return yaml.safe_load(request.param.read_text())


def test_compose_files_name_what_exists(compose, variables):
    declared = {kind: set(compose.get(kind, {})) for kind in ("volumes", "secrets")}
    for service in compose["services"].values():
        names = {name for name in service.get("environment", {}) if name.startswith("OSSIA_")}
        assert names <= variables
        assert set(service.get("secrets", [])) <= declared["secrets"]
        for mount in service.get("volumes", []):
            source = re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", mount).split(":")[0]
            is_path = source.startswith(".")
            assert (ROOT / "docker" / source).exists() if is_path else source in declared["volumes"], mount


def test_compose_files_interpolate_what_is_documented(compose):
    interpolated = set(re.findall(r"\$\{(OSSIA_[A-Z_]+)", json.dumps(compose)))
    assert interpolated <= INTERPOLATED | {"OSSIA_MODEL", "OSSIA_OFFLINE"}


def test_the_container_of_ossia_has_no_rights():
    service = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())["services"]["ossia"]
    assert service["read_only"] and service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert all(port.startswith("${OSSIA_ADDRESS:-127.0.0.1:") for port in service["ports"])


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_images_run_as_nobody_and_check_themselves(path, variables, flags):
    text = path.read_text()
    assert re.search(r"^USER 65532:65532$", text, re.MULTILINE)
    command = re.search(r"^HEALTHCHECK .* CMD (\[.*\])$", text, re.MULTILINE).group(1)
    assert json.loads(command) == ["/usr/local/bin/ossia", "health"] and "health" in flags
    assert set(re.findall(r"^ENV (OSSIA_\w+)", text, re.MULTILINE)) <= variables


def test_prometheus_and_its_alarms_are_about_metrics_that_exist(metrics):
    dir = ROOT / "docker/prometheus"
    config = yaml.safe_load((dir / "prometheus.yml").read_text())
    services = yaml.safe_load((ROOT / "docker/compose.monitoring.yaml").read_text())["services"]
    assert "prometheus" in services and config["scrape_configs"][0]["static_configs"][0]["targets"] == ["ossia:8000"]
    num_names = 0
    for file in config["rule_files"]:
        for group in yaml.safe_load((dir / file).read_text())["groups"]:
            for rule in group["rules"]:
                names = metric_names(rule["expr"])
                assert set(names) <= metrics, rule
                num_names += len(names)
    assert num_names >= 5


def test_grafana_finds_its_source_and_its_dashboard():
    dir = ROOT / "docker/grafana/provisioning"
    (source,) = yaml.safe_load((dir / "datasources/prometheus.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((dir / "dashboards/ossia.yaml").read_text())["providers"]
    mounts = yaml.safe_load((ROOT / "docker/compose.monitoring.yaml").read_text())["services"]["grafana"]["volumes"]
    assert any(mount.split(":")[1].startswith(provider["options"]["path"] + "/") for mount in mounts)
    # A dashboard that waits for an input is not provisioned.
    assert "__inputs" not in json.loads((ROOT / "config/grafana.json").read_text())


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_pages_name_settings_and_flags_that_exist(path, variables, flags):
    text = path.read_text()
    known = variables | INTERPOLATED | OF_DEVELOPERS
    assert set(NAME.findall(text)) <= known, set(NAME.findall(text)) - known
    for block in re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            check_line(line, flags)


def check_line(line: str, flags: dict[str, set[str]]) -> None:
    """Holds the flags of a command line of ours to those that the command has."""
    if not (found := re.search(r"(?:^|[ /])ossia ((?:bench serve|key \w+|\w+))\b(.*)", line.split(" #")[0])):
        return
    command = found.group(1) if found.group(1) in flags else found.group(1).split()[0]
    if command in flags:
        given = set(re.findall(r"(?<=\s)--[a-z][a-z0-9-]*", found.group(2)))
        assert given <= flags[command], line


def test_a_flag_that_does_not_exist_is_found(flags):
    check_line("sudo -u ossia ossia key new --name me", flags)
    with pytest.raises(AssertionError):
        check_line("ossia serve --prot 8000", flags)


@pytest.fixture(scope="module")
def unit(tmp_path_factory):
    """The unit with the program that was built, as systemd looks whether it is there."""
    path = tmp_path_factory.mktemp("systemd") / "ossia.service"
    path.write_text((ROOT / "deploy/systemd/ossia.service").read_text().replace("/usr/local/bin/ossia", OSSIA))
    return path


needs_systemd = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")


@needs_systemd
def test_systemd_finds_no_fault_in_the_unit(unit):
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_systemd
def test_the_unit_is_exposed_less_than_3(unit):
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=30", "--no-pager", unit]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
