"""nginx with the configurations of the guides."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from support.paths import ROOT
from support.waiting import wait_until

__all__ = ["guide_block", "nginx_before", "nginx_program", "running_nginx"]

GUIDE = ROOT / "docs/guides/deployment.md"
# What every distribution's nginx.conf includes.
_TYPES = "types { text/html html; text/css css; text/javascript js; }"


def nginx_program() -> str | None:
    """Return the path of nginx; Debian installs it where only root looks."""
    return shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def guide_block(language: str) -> str:
    """Return the first block of ``language`` in the deployment guide."""
    text = GUIDE.read_text("utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)[0]


@contextlib.contextmanager
def nginx_before(
    program: str,
    folder: Path,
    port: int,
    upstreams: Sequence[str],
    *,
    certificate: Path | None = None,
    **changes: str,
) -> Iterator[None]:
    """Run nginx on ``port`` before the two addresses ``upstreams``.

    The server of the guide that redirects to HTTPS is left out.

    Args:
        program: the path of nginx.
        folder: for its files.
        port: on which it listens.
        upstreams: the addresses of the two servers.
        certificate: the file of a certificate and its key; without it nginx speaks plain
            HTTP.
        changes: other values of the guide's directives.
    """
    site = guide_block("nginx")
    for number, actual in enumerate(upstreams, 1):
        documented = f"unix:/run/mysite-{number}/web.sock"
        assert documented in site
        site = site.replace(documented, actual)
    for before, after in changes.items():
        assert before in site
        site = re.sub(rf"{before} \S+;", f"{before} {after};", site)
    site = re.sub(r"server \{\n    listen 80;.*?\n\}\n", "", site, flags=re.DOTALL)
    tls = re.compile(r"ssl_certificate(_key)? \S+;")
    if certificate is None:
        site = tls.sub("", site).replace("listen 443 ssl;", "listen 80;")
    else:
        site = tls.sub(rf"ssl_certificate\1 {certificate};", site)
        site = site.replace("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;")
    with running_nginx(program, folder, port, site):
        yield


@contextlib.contextmanager
def running_nginx(program: str, folder: Path, port: int, site: str) -> Iterator[None]:
    """Run nginx with the configuration ``site`` of a guide, on ``port`` instead of 80."""
    site = site.replace("listen 80;", f"listen 127.0.0.1:{port};")
    temporary = "\n".join(
        f"{kind}_temp_path {folder}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    # Only root may choose the user of the workers, and only root needs to.
    user = "user root;" if os.geteuid() == 0 else ""
    whole = folder / "nginx.conf"
    whole.write_text(
        f"{user} daemon off; pid {folder}/pid; error_log stderr;\n"
        f"worker_rlimit_nofile 8192;\nevents {{ worker_connections 4096; }}\n"
        f"http {{ access_log off; {_TYPES}\n{temporary}\n{site}\n}}\n"
    )
    with (folder / "errors").open("wb") as errors:
        process = subprocess.Popen(
            [program, "-p", str(folder), "-c", str(whole), "-e", "stderr"],
            stderr=errors,
        )
    try:
        wait_until(lambda: _listens(process, port, folder), what="nginx listening")
        yield
    finally:
        process.send_signal(signal.SIGQUIT)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()


def _listens(process: subprocess.Popen[bytes], port: int, folder: Path) -> bool:
    if process.poll() is not None:
        raise AssertionError(f"nginx ended: {(folder / 'errors').read_text()}")
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
