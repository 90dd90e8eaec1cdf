"""The experiments. In each round the contenders take turns. Each experiment returns figures for results.json."""

import asyncio
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from benchmarks import upstream
from benchmarks.caller import Connection, Request
from benchmarks.contenders import Contender
from benchmarks.measure import MB, HealthProber, Running, running

Figures = dict[str, Any]

UPSTREAM_ALONE = "direct"
"""Key of the upstream's own times in the results."""
PEAK_SIZE = 8 * MB
IN_FLIGHT_SIZE = 1_500_000
IN_FLIGHT_DELAY = 20.0


def quartiles(values: list[float]) -> Figures:
    """Return the median, and the first and third quartile as `low` and `high`."""
    if len(values) < 2:
        return {"median": values[0], "low": values[0], "high": values[0]}
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": statistics.median(values), "low": low, "high": high}


async def send_all(port: int, request: Request, check: Callable[[bytes], None], callers: int, each: int) -> list[float]:
    """Send a request from several callers at once, `each` times per caller. Check the responses; return their seconds.

    A failed request is sent once more, because a contender may have closed the connection. A second failure raises
    AssertionError, and so does the first failure of this service.
    """

    async def caller() -> list[float]:
        connection = await Connection.open(port)
        times = []
        for _ in range(each):
            response = await connection.send(request)
            if response.status != 200 and b"urn:gemini-images" not in response.body:
                print(f"port {port} answered {response.status}, sent again", file=sys.stderr)
                response = await connection.send(request)
            assert response.status == 200, response.body[:300]
            times.append(response.seconds)
            check(response.body)
        connection.close()
        return times

    return [seconds for times in await asyncio.gather(*(caller() for _ in range(callers))) for seconds in times]


class Bench:
    """Runs the experiments with the contenders that could be installed, and one upstream for all."""

    def __init__(self, contenders: list[Contender], upstream_port: int, rounds: int) -> None:
        self.contenders = contenders
        self.upstream_port = upstream_port
        self.rounds = rounds

    async def _request_images(self, contender: Contender, size: int, callers: int, each: int) -> list[float]:
        request, check = contender.image_request(size), lambda body: contender.check(body, size)
        return await send_all(contender.port, request, check, callers, each)

    async def latency(self, sizes: list[int]) -> Figures:
        """Measure with one caller the milliseconds that a contender adds to the upstream's own time."""
        found: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        async with AsyncExitStack() as stack:
            for contender in self.contenders:
                await stack.enter_async_context(running(contender))
                await self._request_images(contender, sizes[0], 1, 3)
            for size in sizes:
                each = 15 if size < 5 * MB else 5
                for _ in range(self.rounds):
                    direct = Request("POST", "/v1beta/models/x:generateContent", body=b"%d bytes after 0 s" % size)
                    check = partial(_check_upstream, size=size)
                    times = await send_all(self.upstream_port, direct, check, 1, each)
                    base = statistics.median(times) * 1000
                    found[size][UPSTREAM_ALONE].append(base)
                    for contender in self.contenders:
                        times = await self._request_images(contender, size, 1, each)
                        found[size][contender.name].append(statistics.median(times) * 1000 - base)
        return {str(size): {name: quartiles(values) for name, values in by.items()} for size, by in found.items()}

    async def load(self, sizes: list[int], callers: int) -> Figures:
        """Measure with several callers CPU, throughput, and response times of the health route."""
        found: dict[int, dict[str, dict[str, list[float]]]] = defaultdict(
            lambda: defaultdict(lambda: defaultdict(list))
        )
        async with AsyncExitStack() as stack:
            servers = [await stack.enter_async_context(running(contender)) for contender in self.contenders]
            for server in servers:
                await self._request_images(server.contender, sizes[0], callers, 2)
            for size in sizes:
                each = 4 if size < 5 * MB else 3 if size < 15 * MB else 2
                for _ in range(self.rounds):
                    for server in servers:
                        figures = found[size][server.contender.name]
                        cpu, began = server.cpu_seconds(), time.perf_counter()
                        times = await self._request_images(server.contender, size, callers, each)
                        figures["per_second"].append(len(times) / (time.perf_counter() - began))
                        figures["cpu_ms"].append((server.cpu_seconds() - cpu) / len(times) * 1000)
                        figures["p50_ms"].append(statistics.median(times) * 1000)
                        async with HealthProber(server.contender) as prober:
                            await self._request_images(server.contender, size, callers, max(1, each // 2))
                        figures["stall_ms"].append(prober.longest_ms)
                        figures["health_p99_ms"].append(prober.p99_ms)
        return {
            str(size): {
                name: {key: quartiles(values) for key, values in figures.items()} for name, figures in by.items()
            }
            for size, by in found.items()
        }

    async def memory(self, callers: list[int], wait_seconds: float) -> Figures:
        """Measure peak memory per caller above an idle new process, and memory after `wait_seconds`."""
        found: Figures = defaultdict(dict)
        for count in callers:
            async with AsyncExitStack() as stack:
                servers = [await stack.enter_async_context(running(contender)) for contender in self.contenders]
                idle: dict[str, float] = {}
                for server in servers:
                    name = server.contender.name
                    await self._request_images(
                        server.contender, 10_000, 1, 2
                    )  # loads modules that are imported at first use
                    idle[name] = server.rss_mb()
                    server.reset_peak()
                    await self._request_images(server.contender, PEAK_SIZE, count, 2)
                    peak_mb = (server.peak_mb() - idle[name]) / count
                    of_base64 = peak_mb * MB / len(upstream.encoded_image(PEAK_SIZE))
                    found[str(count)][name] = {"idle_mb": idle[name], "peak_mb_each": peak_mb, "of_base64": of_base64}
                await asyncio.sleep(wait_seconds)
                for server in servers:
                    found[str(count)][server.contender.name]["left_mb"] = server.rss_mb() - idle[server.contender.name]
        return dict(found)

    async def growth(self, sizes: list[int], callers: list[int]) -> Figures:
        """Measure time and memory by image size (with 8 callers) and by number of callers (with 8 MB images)."""
        found: Figures = {"size": defaultdict(dict), "callers": defaultdict(dict)}
        points = [("size", size, size, 8) for size in sizes] + [("callers", n, PEAK_SIZE, n) for n in callers]
        for axis, value, size, count in points:
            for contender in self.contenders:
                async with running(contender) as server:
                    await self._request_images(contender, 10_000, 1, 2)
                    idle = server.rss_mb()
                    server.reset_peak()
                    times = await self._request_images(contender, size, count, 2)
                    figures = {"peak_mb": server.peak_mb() - idle, "p50_ms": statistics.median(times) * 1000}
                    found[axis][str(value)][contender.name] = figures
        return found

    async def in_flight(self, callers: int, timeout_seconds: float) -> Figures:
        """Request an image that takes 20 s from all callers at once. Count responses within the timeout."""
        found: Figures = {}
        for contender in self.contenders:
            async with running(contender) as server:
                await self._request_images(contender, IN_FLIGHT_SIZE, 1, 1)
                await _query_upstream(self.upstream_port, "/most-in-flight")
                idle = server.rss_mb()
                server.reset_peak()
                began = time.perf_counter()
                async with HealthProber(contender) as prober:
                    answered, refused = await _concurrent_requests(contender, callers, timeout_seconds)
                found[contender.name] = {
                    "callers": callers,
                    "answered": answered,
                    "refused": refused,
                    "seconds": time.perf_counter() - began,
                    "most_in_flight": int(await _query_upstream(self.upstream_port, "/most-in-flight")),
                    "health_p99_ms": prober.p99_ms,
                    "stall_ms": prober.longest_ms,
                    "peak_mb_each": (server.peak_mb() - idle) / callers,
                }
        return found

    async def uploads(self, counts: list[int]) -> Figures:
        """Measure CPU per reference image, and response times of the health route."""
        found: dict[int, dict[str, dict[str, list[float]]]] = defaultdict(
            lambda: defaultdict(lambda: defaultdict(list))
        )
        async with AsyncExitStack() as stack:
            servers = [await stack.enter_async_context(running(contender)) for contender in self.contenders]
            for count in counts:
                for _ in range(self.rounds):
                    for server in servers:
                        if count > 1 and server.contender.name == "litellm":
                            continue  # it accepts several files, but its request times out
                        await self._upload(server, count, found[count][server.contender.name])
        return {
            str(count): {
                name: {key: quartiles(values) for key, values in figures.items()} for name, figures in by.items()
            }
            for count, by in found.items()
        }

    async def _upload(self, server: Running, count: int, figures: dict[str, list[float]]) -> None:
        contender, size, each = server.contender, 10_000, 4 if count == 1 else 1
        request, check = contender.upload_request(count, size), lambda body: contender.check(body, size)
        await self._request_images(contender, size, 1, 3)
        cpu = server.cpu_seconds()
        await self._request_images(contender, size, 1, 3)
        cpu_without_references = (server.cpu_seconds() - cpu) / 3
        await _query_upstream(self.upstream_port, "/references")
        cpu = server.cpu_seconds()
        times = await send_all(contender.port, request, check, 1, each)
        figures["cpu_ms"].append(((server.cpu_seconds() - cpu) / each - cpu_without_references) / count * 1000)
        figures["ms"].append(statistics.median(times) * 1000)
        async with HealthProber(contender) as prober:
            await send_all(contender.port, request, check, 1, each)
        figures["stall_ms"].append(prober.longest_ms)
        arrived = int(await _query_upstream(self.upstream_port, "/references"))
        assert arrived == 2 * each * count, f"{contender.name}: {arrived} complete references arrived"

    async def start(self) -> Figures:
        """Measure the seconds from the start of the process to its first healthy response, and idle memory."""
        found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for _ in range(self.rounds):
            for contender in self.contenders:
                async with running(contender) as server:
                    found[contender.name]["seconds"].append(server.start_seconds)
                    found[contender.name]["idle_mb"].append(server.rss_mb())
        return {name: {key: quartiles(values) for key, values in figures.items()} for name, figures in found.items()}


def _check_upstream(body: bytes, size: int) -> None:
    assert body == upstream.response_body(size)


async def _query_upstream(port: int, path: str) -> bytes:
    connection = await Connection.open(port)
    response = await connection.send(Request("GET", path))
    connection.close()
    return response.body


async def _concurrent_requests(contender: Contender, callers: int, timeout_seconds: float) -> tuple[int, int]:
    """Return how many callers got an image, and how many got an error."""
    request = contender.image_request(IN_FLIGHT_SIZE, IN_FLIGHT_DELAY)

    async def caller() -> bool:
        connection = await Connection.open(contender.port)
        try:
            response = await connection.send(request)
            if response.status == 200:
                contender.check(response.body, IN_FLIGHT_SIZE)
            return response.status == 200
        except (OSError, EOFError):
            return False
        finally:
            connection.close()

    tasks = [asyncio.create_task(caller()) for _ in range(callers)]
    done, pending = await asyncio.wait(tasks, timeout=timeout_seconds)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    answered = sum(task.result() for task in done)
    return answered, len(done) - answered
