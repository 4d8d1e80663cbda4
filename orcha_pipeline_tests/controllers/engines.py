"""Docker engines to test against: the testnet's, and a real one of the test's own in namespaces of its own."""

import asyncio
import io
import os
import shutil
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from orcha_pipeline.controllers.docker import DockerController
from orcha_pipeline.controllers.docker_api import Engine

BROKEN = "1GB"
"""A `STORAGE` with which the node does not stay up."""
IMAGE = "orcha-test:1"
NODE = f"""
if [ "$STORAGE" = {BROKEN} ]; then busybox sleep 0.3; exit 1; fi
trap 'exit 0' TERM
[ -e /kept/first ] || echo "$STORAGE" > /kept/first
while :; do busybox sleep 0.2; done
"""


class AsgiTransport(httpx.BaseTransport):
    """Asks an application in this process."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), trust_env=False) as client:
                return await client.request(
                    request.method, request.url, content=request.read(), headers=dict(request.headers)
                )

        answer = asyncio.run(ask())
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)


class Bench:
    """An engine with one container of a node that reads `STORAGE`."""

    def __init__(self, url: str, name: str, transport: httpx.BaseTransport | None = None) -> None:
        self.url, self.name, self.transport = url, name, transport
        self.engine = Engine("storj-1", url, transport)
        self._made: list[DockerController] = []

    def controller(self) -> DockerController:
        made = DockerController("storj-1", url=self.url, container=self.name, transport=self.transport)
        self._made.append(made)
        return made

    def close(self) -> None:
        for made in self._made:
            made.close()
        self.engine.close()

    def inspect(self, name: str | None = None) -> dict[str, Any]:
        return self.engine.inspect(name or self.name)

    def names(self, beginning: str | None = None) -> list[str]:
        """Of all containers whose name begins so; None: as this one's."""
        listed = self.engine._ask(lambda: self.engine._http.get_json("/containers/json", {"all": 1}))
        found = [name.lstrip("/") for one in listed for name in one["Names"]]
        return sorted(name for name in found if name.startswith(self.name if beginning is None else beginning))


def why_no_dockerd() -> str:
    """Empty where a Docker daemon of the test's own can run."""
    missing = [name for name in ("dockerd", "containerd", "runc", "unshare", "busybox") if shutil.which(name) is None]
    if os.geteuid() != 0:
        return "needs root"
    return f"needs {', '.join(missing)} on PATH" if missing else ""


@contextmanager
def dockerd(folder: Path) -> Iterator[str]:
    """The address of a real engine with nothing in it but `IMAGE`; it and all it made are gone afterwards.

    It has a network and a mount namespace of its own, so that it leaves the machine's network as it is.
    """
    group, address = f"orcha-test-{os.getpid()}", folder / "docker.sock"
    daemon = (
        f"ip link set lo up && mount -t tmpfs none /run && exec dockerd --data-root {folder}/data "
        f"--exec-root {folder}/exec --pidfile {folder}/pid -H unix://{address} --iptables=false --ip6tables=false "
        f"--ip-forward=false --ip-masq=false --userland-proxy=false --cgroup-parent /{group}"
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["unshare", "-n", "-m", "sh", "-c", daemon], stdout=log, stderr=log)
    client = httpx.Client(transport=httpx.HTTPTransport(uds=str(address)), base_url="http://docker", trust_env=False)
    try:
        _wait_until_up(address, process, folder / "log")
        client.post("/images/create", params={"fromSrc": "-", "repo": IMAGE}, content=_image()).raise_for_status()
        yield f"unix://{address}"
        for one in client.get("/containers/json", params={"all": 1}).json():
            client.delete(f"/containers/{one['Id']}", params={"force": 1, "v": 1}).raise_for_status()
    finally:
        client.close()
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for hierarchy in Path("/sys/fs/cgroup").iterdir():
            for left in (hierarchy / group, Path("/sys/fs/cgroup") / group):
                if left.is_dir():
                    left.rmdir()


def _wait_until_up(address: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end and process.poll() is None:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(address)) == 0:
                return
        time.sleep(0.1)
    raise RuntimeError(f"dockerd does not come up: {log.read_text()[-500:]}")


def _image() -> bytes:
    """A file system of busybox alone."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        found = shutil.which("busybox")
        assert found
        archive.add(Path(found).resolve(), "bin/busybox")
        link = tarfile.TarInfo("bin/sh")
        link.type, link.linkname = tarfile.SYMTYPE, "busybox"
        archive.addfile(link)
    return buffer.getvalue()


def run_node(bench: Bench, **changes: Any) -> None:
    """Run the container of a real bench, with volumes of every kind. `changes`: of its creation."""
    body = {
        "Image": IMAGE,
        "Cmd": ["sh", "-c", NODE],
        "Env": ["STORAGE=2TB", "WALLET=0xsecretsecret"],
        "Volumes": {"/kept": {}},
        "HostConfig": {
            "Binds": ["named:/named:ro"],
            "Mounts": [{"Type": "volume", "Target": "/other"}],
            "RestartPolicy": {"Name": "always"},
        },
    }
    bench.engine.create(bench.name, body | changes)
    bench.engine.start(bench.name)
