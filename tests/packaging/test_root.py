"""On a root file system that knows nothing of Ossia: the deployment as docs/operations.md says it, and the image.

They need root, debootstrap, buildah and an archive of `cargo xtask dist`, so CI does not run them:

    debootstrap bookworm DIR
    cargo xtask dist
    .venv/bin/python -m pytest -s tests/packaging/test_root.py --clean-root DIR
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import pytest

from conftest import ROOT

LOOPBACK_UP = ROOT / "tests/clients/loopback_up.py"
# Neither curl nor wget is on a clean root.
ASK = r"""
body='{"messages":[{"role":"user","content":"What is 17 + 25?"}]}'
ask() {
  exec 3<>/dev/tcp/127.0.0.1/8000
  printf 'POST /v1/chat/completions HTTP/1.0\r\n%scontent-type: application/json\r\n' "$1" >&3
  printf 'content-length: %s\r\n\r\n%s' "${#body}" "$body" >&3
  head -1 <&3
}
"""


@pytest.fixture(scope="module")
def clean_root(request, tmp_path_factory):
    """A copy of the root given, with nothing of this project in it."""
    given = request.config.getoption("--clean-root")
    if not given:
        pytest.skip("no --clean-root")
    root = tmp_path_factory.mktemp("clean") / "root"
    subprocess.run(["cp", "-a", "--reflink=auto", given, root], check=True)
    return root


@pytest.fixture(scope="module")
def archive():
    (archive,) = (ROOT / "dist").glob("ossia-*.tar.gz")
    return archive


def run(root: pathlib.Path, script: str, *, mounts: str = "", env: dict[str, str] | None = None) -> str:
    """Runs a script of the host beside a root, in namespaces of their own that have only loopback; gives what it prints."""
    script = f'set -e; mount --bind "{root}" "{root}"; mount -t proc proc "{root}/proc"; {mounts}\n{script}'
    line = ["unshare", "--net", "--mount", "--pid", "--fork", sys.executable, str(LOOPBACK_UP), "sh", "-c", script]
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    done = subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600,
                          env={"PATH": path, "HOME": "/root", **(env or {})})
    assert done.returncode == 0, done.stdout
    return done.stdout


def blocks(title: str) -> list[str]:
    """The commands of a section of docs/operations.md."""
    section = (ROOT / "docs/operations.md").read_text().split(f"## {title}\n")[1].split("\n## ")[0]
    return re.findall(r"^```\n(.*?)^```", section, re.MULTILINE | re.DOTALL)


def started_by_hand(commands: str) -> str:
    """No systemd runs in a chroot: what its unit says is started as it says."""
    unit = (ROOT / "deploy/systemd/ossia.service").read_text()
    field = lambda name: re.search(rf"^{name}=(.*)$", unit, re.MULTILINE).group(1)
    start = f"runuser -u {field('User')} -- env {field('Environment')} {field('ExecStart')} 2>/tmp/log &"
    assert "systemctl enable --now ossia\n" in commands
    return commands.replace("systemctl enable --now ossia\n", f"{start}\nuntil ossia health --live; do sleep 0.1; done\n"
                            "until ossia health; do sleep 0.1; done\n")


def test_an_operator_gets_there_by_the_page_alone(clean_root, archive):
    shutil.copy(archive, clean_root / "root")
    install, settings, _model, start, *_ = blocks("Two minutes to a running service")
    script = "\n".join([
        "set -eu", "cd /root", install.replace("keys.toml", "keys.toml | tee /tmp/key", 1), settings,
        started_by_hand(start), ASK,
        "ask \"authorization: Bearer $(cat /tmp/key)\"$'\\r\\n'; ask ''", "cat /etc/debian_version",
        "systemd-analyze verify --man=no /etc/systemd/system/ossia.service",
        "systemd-analyze security --offline=true --threshold=30 --no-pager /etc/systemd/system/ossia.service | tail -1",
    ])
    began = time.monotonic()
    (clean_root / "root/deploy.sh").write_text(script)
    printed = run(clean_root, f'chroot "{clean_root}" /bin/bash /root/deploy.sh')
    print(f"\n{printed}\nfrom the archive to two answers and a verified unit: {time.monotonic() - began:.1f} s")
    assert "HTTP/1.0 200 OK" in printed and "HTTP/1.0 401" in printed
    assert "FAILED" not in printed


@pytest.fixture(scope="module")
def image(clean_root, archive):
    """The image's root, built from the archive's directory with the clean root as both bases."""
    if not shutil.which("buildah"):
        pytest.skip("buildah is not installed")
    env = {**os.environ, "STORAGE_DRIVER": "vfs", "BUILDAH_ISOLATION": "chroot"}

    def buildah(*args: str) -> str:
        return subprocess.run(["buildah", *args], check=True, capture_output=True, text=True, cwd=ROOT, env=env).stdout

    base = buildah("from", "scratch").strip()
    tar = clean_root.with_suffix(".tar")
    subprocess.run(["tar", "-C", clean_root, "-cf", tar, "."], check=True)
    buildah("add", base, str(tar), "/")
    buildah("commit", base, "localhost/ossia-test-base")
    arguments = {"PREBUILT": f"dist/{archive.name.removesuffix('.tar.gz')}", "BUILD_BASE": "localhost/ossia-test-base",
                 "BASE": "localhost/ossia-test-base"}
    flags = [part for name, value in arguments.items() for part in ("--build-arg", f"{name}={value}")]
    buildah("bud", "--format", "docker", "-t", "localhost/ossia-test", *flags, ".")
    container = buildah("from", "localhost/ossia-test").strip()
    config = json.loads(buildah("inspect", "--type", "image", "localhost/ossia-test"))["Docker"]["config"]
    yield pathlib.Path(buildah("mount", container).strip()), config
    buildah("rm", container, base)
    buildah("rmi", "localhost/ossia-test", "localhost/ossia-test-base")


def test_the_image_has_the_program_and_little_else(image):
    root, config = image
    files = [path.relative_to(root) for path in root.rglob("*") if path.is_file()]
    print("\n" + "\n".join(f"{(root / path).stat().st_size:>12} {path}" for path in sorted(files)))
    assert not [path for path in files if path.name in {"sh", "bash", "dash", "apt", "dpkg", "curl"}]
    assert config["User"] == "65532:65532"
    (ossia,) = config["Entrypoint"]
    assert config["Healthcheck"]["Test"] == ["CMD", ossia, "health"]


def test_the_image_serves_without_writing_to_its_root(image):
    root, config = image
    (root / "proc").mkdir(exist_ok=True)
    mounts = f'''
        for dir in tmp var/lib/ossia var/cache/ossia; do mount -t tmpfs -o mode=1777 tmpfs "{root}/$dir"; done
        mount -o remount,bind,ro "{root}"
    '''
    # There is no shell in it: the host's waits, and asks by the image's own health check.
    ossia = f'chroot --userspec {config["User"]} "{root}" {config["Entrypoint"][0]}'
    script = f"""
        {ossia} serve &
        until {ossia} health; do sleep 0.2; done
        if touch "{root}/usr/x"; then exit 1; fi
        kill -TERM $!; wait $!
    """
    env = dict(entry.split("=", 1) for entry in config["Env"]) | {"OSSIA_INSECURE": "true"}
    printed = run(root, script, mounts=mounts, env=env)
    assert "/ready answers 200 OK" in printed and "Read-only file system" in printed and "stopped" in printed, printed
