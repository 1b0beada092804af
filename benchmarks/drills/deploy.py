"""The drill of a deploy: all processes are replaced while clients receive messages."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import statistics
import sys
import time
from typing import Any

from .harness import ROOT, SiteProcess, log_file
from .reconnecting_clients import ReconnectingClients
from .sequence import Summary

from support.brokers import Server  # isort: skip (tests is on the path)

__all__ = ["deploy"]

SITE = "benchmarks.drills.topics_site:application"


class LoadBalancer:
    """Route clients to ready processes; probe each process every quarter of a second."""

    def __init__(self, ports: list[int]) -> None:
        self._ports = ports
        self._ready: set[int] = set()
        self._task: asyncio.Task[None] | None = None
        self._rng = random.Random(7)

    def start(self) -> None:
        """Start probing."""
        self._task = asyncio.create_task(self._probe_all())

    def close(self) -> None:
        """Stop probing."""
        if self._task is not None:
            self._task.cancel()

    def port(self) -> int:
        """Return the port for the next client; any port while no process is ready."""
        return self._rng.choice(sorted(self._ready) or self._ports)

    async def wait_until_ready(self, port: int) -> None:
        """Wait until clients are routed to ``port``."""
        async with asyncio.timeout(60):
            while port not in self._ready:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def _probe_all(self) -> None:
        while True:
            for port in self._ports:
                if await self._is_ready(port):
                    self._ready.add(port)
                else:
                    self._ready.discard(port)
            await asyncio.sleep(0.25)

    async def _is_ready(self, port: int) -> bool:
        try:
            async with asyncio.timeout(3):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
                line = await reader.readline()
                writer.close()
                return b" 200 " in line
        except (OSError, TimeoutError):
            return False


async def deploy(quick: bool) -> bool:
    """Both processes are replaced under 1,000 clients, which reconnect and recover."""
    number, window, rate = (200, 5.0, 20) if quick else (1000, 20.0, 30)
    topics = [f"room:{index}" for index in range(10)]
    with Server() as server:
        config = {"hosts": [server.url], "prefix": "drill"}
        sites = [SiteProcess(config, SITE, DRILL_DRAIN=str(window)) for _ in range(2)]
        balancer = LoadBalancer([site.port for site in sites])
        clients = ReconnectingClients(balancer.port)
        publisher = None
        try:
            await asyncio.gather(*(site.start() for site in sites))
            balancer.start()
            publisher = await _publisher(sites[0], topics, rate)
            await clients.open(topics, number)
            for site in sites:
                took = await _replace(site, balancer)
                print(f"    a process drained and ended in {took:.1f} s", flush=True)
            await _all_back(clients)
            output, _ = await asyncio.wait_for(publisher.communicate(b"\n"), 60)
            published = json.loads(output)
            await clients.wait_for_last(published)
            return _verdict(clients, sum(published.values()))
        finally:
            clients.close()
            balancer.close()
            if publisher is not None and publisher.returncode is None:
                publisher.kill()
            for site in sites:
                await site.end()


async def _publisher(
    site: SiteProcess, topics: list[str], rate: float
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.drills.publisher"),
        json.dumps({"topics": topics, "rate": rate}),
        cwd=ROOT,
        env=site.env,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=log_file(),
        start_new_session=True,
    )


async def _replace(site: SiteProcess, balancer: LoadBalancer) -> float:
    """Stop a process and start its successor; return the seconds of the stop."""
    assert site.process is not None
    begun = time.monotonic()
    site.process.send_signal(signal.SIGTERM)
    await asyncio.wait_for(site.process.wait(), 60)
    took = time.monotonic() - begun
    await site.start()
    await balancer.wait_until_ready(site.port)
    return took


async def _all_back(clients: ReconnectingClients) -> None:
    """Wait until all disconnected clients have reconnected."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(30):
            while len(clients.returns) < sum(clients.closes.values()):  # noqa: ASYNC110
                await asyncio.sleep(0.05)


def _verdict(clients: ReconnectingClients, sent: int) -> bool:
    summary = Summary.of([client.check for client in clients.clients], sent)
    away: Any = sorted(clients.away) or [0.0]
    print(f"    {summary}")
    print(
        f"    {len(clients.returns)} returns, at most {clients.busiest:.1%} of them in a "
        f"tenth of a second; away {statistics.median(away):.2f} s (median), "
        f"{away[-1]:.2f} s (longest); {clients.unrecovered} not recovered"
    )
    print(
        f"    closed with {dict(clients.closes)}, failed attempts {dict(clients.refused)}"
    )
    returned = len(clients.returns) >= len(clients.clients)
    spread = clients.busiest <= 0.2
    return summary.clean and not clients.unrecovered and returned and spread
