"""What is measured. Each experiment takes the contenders in turn, several rounds of it, and returns plain figures."""

import asyncio
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

from benchmarks import upstream
from benchmarks.caller import Connection, Request
from benchmarks.contenders import Contender
from benchmarks.measure import MB, Prober, Running, running

Figures = dict[str, Any]

DIRECT = "direct"
PEAK_SIZE = 8 * MB
IN_FLIGHT_SIZE = 1_500_000
IN_FLIGHT_DELAY = 20.0


def spread(values: list[float]) -> Figures:
    """Median, and the quarters around it."""
    if len(values) < 2:
        return {"median": values[0], "low": values[0], "high": values[0]}
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": statistics.median(values), "low": low, "high": high}


async def _asked(port: int, request: Request, check: Callable[[bytes], None], callers: int, each: int) -> list[float]:
    """`callers` at once, each asking `each` times in a row; the seconds that the answers took, all of them checked.

    A caller who gets something else asks once more, as a peer's connection may have been closed under it; twice is too
    often, and for this service once.
    """

    async def caller() -> list[float]:
        connection = await Connection.open(port)
        taken = []
        for _ in range(each):
            answer = await connection.ask(request)
            if answer.status != 200 and b"urn:gemini-images" not in answer.body:
                print(f"port {port} answered {answer.status}, asked again", file=sys.stderr)
                answer = await connection.ask(request)
            assert answer.status == 200, answer.body[:300]
            taken.append(answer.seconds)
            check(answer.body)
        connection.close()
        return taken

    return [seconds for one in await asyncio.gather(*(caller() for _ in range(callers))) for seconds in one]


class Bench:
    """The contenders that could be installed, and the upstream they all talk to."""

    def __init__(self, contenders: list[Contender], upstream_port: int, rounds: int) -> None:
        self.contenders = contenders
        self.upstream_port = upstream_port
        self.rounds = rounds

    async def _asking(self, contender: Contender, size: int, callers: int, each: int) -> list[float]:
        request, check = contender.asking(size), lambda body: contender.check(body, size)
        return await _asked(contender.port, request, check, callers, each)

    async def latency(self, sizes: list[int]) -> Figures:
        """One caller after another: milliseconds added to what the upstream itself takes."""
        found: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        async with AsyncExitStack() as stack:
            for contender in self.contenders:
                await stack.enter_async_context(running(contender))
                await self._asking(contender, sizes[0], 1, 3)
            for size in sizes:
                each = 15 if size < 5 * MB else 5
                for _ in range(self.rounds):
                    direct = Request("POST", "/v1beta/models/x:generateContent", body=b"%d bytes after 0 s" % size)
                    took = await _asked(self.upstream_port, direct, lambda body, s=size: _same(body, s), 1, each)  # type: ignore[misc]
                    base = statistics.median(took) * 1000
                    found[size][DIRECT].append(base)
                    for contender in self.contenders:
                        took = await self._asking(contender, size, 1, each)
                        found[size][contender.name].append(statistics.median(took) * 1000 - base)
        return {str(size): {name: spread(values) for name, values in by.items()} for size, by in found.items()}

    async def load(self, sizes: list[int], callers: int) -> Figures:
        """Several callers at once: CPU, throughput, and how long others wait meanwhile."""
        found: dict[int, dict[str, dict[str, list[float]]]] = defaultdict(
            lambda: defaultdict(lambda: defaultdict(list))
        )
        async with AsyncExitStack() as stack:
            under_way = [await stack.enter_async_context(running(contender)) for contender in self.contenders]
            for one in under_way:
                await self._asking(one.contender, sizes[0], callers, 2)
            for size in sizes:
                each = 4 if size < 5 * MB else 3 if size < 15 * MB else 2
                for _ in range(self.rounds):
                    for one in under_way:
                        figures = found[size][one.contender.name]
                        cpu, began = one.cpu_seconds(), time.perf_counter()
                        took = await self._asking(one.contender, size, callers, each)
                        figures["per_second"].append(len(took) / (time.perf_counter() - began))
                        figures["cpu_ms"].append((one.cpu_seconds() - cpu) / len(took) * 1000)
                        figures["p50_ms"].append(statistics.median(took) * 1000)
                        async with Prober(one.contender) as prober:
                            await self._asking(one.contender, size, callers, max(1, each // 2))
                        figures["stall_ms"].append(prober.longest_ms)
                        figures["health_p99_ms"].append(prober.p99_ms)
        return {
            str(size): {name: {key: spread(values) for key, values in figures.items()} for name, figures in by.items()}
            for size, by in found.items()
        }

    async def memory(self, callers: list[int], wait_seconds: float) -> Figures:
        """The peak above a fresh idle process, for each of the callers that ask at the same moment, and what stays."""
        found: Figures = defaultdict(dict)
        for count in callers:
            async with AsyncExitStack() as stack:
                under_way = [await stack.enter_async_context(running(contender)) for contender in self.contenders]
                idle: dict[str, float] = {}
                for one in under_way:
                    name = one.contender.name
                    await self._asking(one.contender, 10_000, 1, 2)  # what is loaded on first use is there
                    idle[name] = one.rss_mb()
                    one.forget_peak()
                    await self._asking(one.contender, PEAK_SIZE, count, 2)
                    peak = (one.peak_mb() - idle[name]) / count
                    of_base64 = peak * MB / len(upstream.encoded_image(PEAK_SIZE))
                    found[str(count)][name] = {"idle_mb": idle[name], "peak_mb_each": peak, "of_base64": of_base64}
                await asyncio.sleep(wait_seconds)
                for one in under_way:
                    found[str(count)][one.contender.name]["left_mb"] = one.rss_mb() - idle[one.contender.name]
        return dict(found)

    async def growth(self, sizes: list[int], callers: list[int]) -> Figures:
        """Time and memory against the size of images, for 8 callers, and against the number of callers, at 8 MB."""
        found: Figures = {"size": defaultdict(dict), "callers": defaultdict(dict)}
        points = [("size", size, size, 8) for size in sizes] + [("callers", n, PEAK_SIZE, n) for n in callers]
        for axis, place, size, count in points:
            for contender in self.contenders:
                async with running(contender) as one:
                    await self._asking(contender, 10_000, 1, 2)
                    idle = one.rss_mb()
                    one.forget_peak()
                    took = await self._asking(contender, size, count, 2)
                    figures = {"peak_mb": one.peak_mb() - idle, "p50_ms": statistics.median(took) * 1000}
                    found[axis][str(place)][contender.name] = figures
        return found

    async def in_flight(self, callers: int, patience: float) -> Figures:
        """Everybody asks at once for an image that takes 20 seconds; how many are answered while patience lasts."""
        found: Figures = {}
        for contender in self.contenders:
            async with running(contender) as one:
                await self._asking(contender, IN_FLIGHT_SIZE, 1, 1)
                await _control(self.upstream_port, "/most-in-flight")
                idle = one.rss_mb()
                one.forget_peak()
                began = time.perf_counter()
                async with Prober(contender) as prober:
                    answered, refused = await _crowd(contender, callers, patience)
                found[contender.name] = {
                    "callers": callers,
                    "answered": answered,
                    "refused": refused,
                    "seconds": time.perf_counter() - began,
                    "most_in_flight": int(await _control(self.upstream_port, "/most-in-flight")),
                    "health_p99_ms": prober.p99_ms,
                    "stall_ms": prober.longest_ms,
                    "peak_mb_each": (one.peak_mb() - idle) / callers,
                }
        return found

    async def uploads(self, counts: list[int]) -> Figures:
        """Reference images sent along: CPU for each, and how long others wait meanwhile."""
        found: dict[int, dict[str, dict[str, list[float]]]] = defaultdict(
            lambda: defaultdict(lambda: defaultdict(list))
        )
        async with AsyncExitStack() as stack:
            under_way = [await stack.enter_async_context(running(contender)) for contender in self.contenders]
            for count in counts:
                for _ in range(self.rounds):
                    for one in under_way:
                        if count > 1 and one.contender.name == "litellm":
                            continue  # takes several, but reads them as a whole and runs out of patience
                        await self._upload(one, count, found[count][one.contender.name])
        return {
            str(count): {name: {key: spread(values) for key, values in figures.items()} for name, figures in by.items()}
            for count, by in found.items()
        }

    async def _upload(self, one: Running, count: int, figures: dict[str, list[float]]) -> None:
        contender, size, each = one.contender, 10_000, 4 if count == 1 else 1
        request, check = contender.uploading(count, size), lambda body: contender.check(body, size)
        await self._asking(contender, size, 1, 3)
        cpu = one.cpu_seconds()
        await self._asking(contender, size, 1, 3)
        asking = (one.cpu_seconds() - cpu) / 3  # the same request without references
        await _control(self.upstream_port, "/references")
        cpu = one.cpu_seconds()
        took = await _asked(contender.port, request, check, 1, each)
        figures["cpu_ms"].append(((one.cpu_seconds() - cpu) / each - asking) / count * 1000)
        figures["ms"].append(statistics.median(took) * 1000)
        async with Prober(contender) as prober:
            await _asked(contender.port, request, check, 1, each)
        figures["stall_ms"].append(prober.longest_ms)
        arrived = int(await _control(self.upstream_port, "/references"))
        assert arrived == 2 * each * count, f"{contender.name}: {arrived} references arrived whole"

    async def start(self) -> Figures:
        """From the start of the process to its first answer, and what it occupies then."""
        found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for _ in range(self.rounds):
            for contender in self.contenders:
                async with running(contender) as one:
                    found[contender.name]["seconds"].append(one.seconds_to_answer)
                    found[contender.name]["idle_mb"].append(one.rss_mb())
        return {name: {key: spread(values) for key, values in figures.items()} for name, figures in found.items()}


def _same(body: bytes, size: int) -> None:
    assert body == upstream.answer(size)


async def _control(port: int, path: str) -> bytes:
    connection = await Connection.open(port)
    answer = await connection.ask(Request("GET", path))
    connection.close()
    return answer.body


async def _crowd(contender: Contender, callers: int, patience: float) -> tuple[int, int]:
    """How many of the callers got their image, and how many something else."""
    request = contender.asking(IN_FLIGHT_SIZE, IN_FLIGHT_DELAY)

    async def caller() -> bool:
        connection = await Connection.open(contender.port)
        try:
            answer = await connection.ask(request)
            if answer.status == 200:
                contender.check(answer.body, IN_FLIGHT_SIZE)
            return answer.status == 200
        except (OSError, EOFError):
            return False
        finally:
            connection.close()

    tasks = [asyncio.create_task(caller()) for _ in range(callers)]
    done, late = await asyncio.wait(tasks, timeout=patience)
    for task in late:
        task.cancel()
    await asyncio.gather(*late, return_exceptions=True)
    answered = sum(task.result() for task in done)
    return answered, len(done) - answered
