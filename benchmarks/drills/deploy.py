"""The drill of a deploy: all processes are replaced while clients listen.

It knows how it is done and what must come out of it.
"""

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

from .reconnecting_clients import Returners
from .harness import ROOT, SiteProcess, log_file
from .sequence import Figures

from support.brokers import Server  # isort: skip (tests is on the path)

__all__ = ["deploy"]

SITE = "benchmarks.drills.topics_site:application"


class Balancer:
    """Sends clients to processes that say they are ready, as a load balancer does.

    It asks each of them every quarter of a second.
    """

    def __init__(self, ports: list[int]) -> None:
        self._ports = ports
        self._ready: set[int] = set()
        self._task: asyncio.Task[None] | None = None
        self._chance = random.Random(7)

    def start(self) -> None:
        """Ask from now on."""
        self._task = asyncio.create_task(self._ask_all())

    def close(self) -> None:
        """Ask no more."""
        if self._task is not None:
            self._task.cancel()

    def port(self) -> int:
        """Where the next client goes; anywhere while nobody is ready."""
        return self._chance.choice(sorted(self._ready) or self._ports)

    async def sees(self, port: int) -> None:
        """Wait until it sends clients there."""
        async with asyncio.timeout(60):
            while port not in self._ready:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def _ask_all(self) -> None:
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
    """Both processes replaced under 1,000 clients; they come back spread, all recovers."""
    number, window, rate = (200, 5.0, 20) if quick else (1000, 20.0, 30)
    topics = [f"room:{index}" for index in range(10)]
    with Server() as server:
        config = {"hosts": [server.url], "prefix": "drill"}
        sites = [SiteProcess(config, SITE, DRILL_DRAIN=str(window)) for _ in range(2)]
        balancer = Balancer([site.port for site in sites])
        crowd = Returners(balancer.port)
        publisher = None
        try:
            await asyncio.gather(*(site.start() for site in sites))
            balancer.start()
            publisher = await _publisher(sites[0], topics, rate)
            await crowd.open(topics, number)
            for site in sites:
                took = await _replace(site, balancer)
                print(f"    a process drained and ended in {took:.1f} s", flush=True)
            await _all_back(crowd)
            output, _ = await asyncio.wait_for(publisher.communicate(b"\n"), 60)
            published = json.loads(output)
            await crowd.hear_out(published)
            return _verdict(crowd, sum(published.values()))
        finally:
            crowd.close()
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


async def _replace(site: SiteProcess, balancer: Balancer) -> float:
    """Stop a process as a deploy does, and start its successor; how long it took."""
    assert site.process is not None
    begun = time.monotonic()
    site.process.send_signal(signal.SIGTERM)
    await asyncio.wait_for(site.process.wait(), 60)
    took = time.monotonic() - begun
    await site.start()
    await balancer.sees(site.port)
    return took


async def _all_back(crowd: Returners) -> None:
    """Wait until those who were sent away last are back as well."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(30):
            while len(crowd.returns) < sum(crowd.closes.values()):  # noqa: ASYNC110
                await asyncio.sleep(0.05)


def _verdict(crowd: Returners, sent: int) -> bool:
    figures = Figures.of([client.tally for client in crowd.clients], sent)
    away: Any = sorted(crowd.away) or [0.0]
    print(f"    {figures}")
    print(
        f"    {len(crowd.returns)} returns, at most {crowd.busiest:.1%} of them in a "
        f"tenth of a second; away {statistics.median(away):.2f} s (median), "
        f"{away[-1]:.2f} s (longest); {crowd.unrecovered} not recovered"
    )
    print(
        f"    closed with {dict(crowd.closes)}, attempts in vain {dict(crowd.refused)}"
    )
    returned = len(crowd.returns) >= len(crowd.clients)
    spread = crowd.busiest <= 0.2
    return figures.clean and not crowd.unrecovered and returned and spread
