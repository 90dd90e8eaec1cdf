"""The experiment `openai`: what OpenAI's Images API costs beside the native route of the same process."""

import statistics
from collections import defaultdict
from contextlib import AsyncExitStack
from dataclasses import replace

from benchmarks.contenders import Contender
from benchmarks.experiments import Figures, quartiles, send_all
from benchmarks.measure import MB, Running, running

SIZE = 8 * MB
IN_FLIGHT = 8
"""Images at the same time, in all variants."""
EACH = 6
"""Requests of one image per caller and round; CPU times have a resolution of 10 ms."""
IMAGES = 4


def variants(service: Contender) -> dict[str, Contender]:
    """Return the ways to ask this service for images, by their names in the results."""
    prefix = b'"b64_json":"'
    v1 = replace(service, path="/v1/images/generations")
    return {
        "native": replace(service, body={"responseFormat": "b64"}, image_prefixes=(b'"data":"',)),
        "v1": replace(v1, body={"response_format": "b64_json"}, image_prefixes=(prefix,)),
        f"v1, n: {IMAGES}": replace(v1, body={"n": IMAGES}, image_prefixes=(prefix,) * IMAGES),
    }


async def measure(contenders: list[Contender], rounds: int) -> Figures:
    """Measure CPU and time per request of 8 MB images, with 8 images in flight.

    The ratios are of the figures of one round: `v1_by_native` and `n_by_one` of the CPU per request.
    """
    service = next(one for one in contenders if one.name == "service")
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(running(service))
        asked = {name: (server, variant) for name, variant in variants(service).items()}
        for peer in (one for one in contenders if one.name == "litellm"):
            asked["litellm"] = (await stack.enter_async_context(running(peer)), peer)
        for one, variant in asked.values():
            await _ask(one, variant, requests=2, callers=1)
        for _ in range(rounds):
            cpu = {name: await _round(one, variant, found[name]) for name, (one, variant) in asked.items()}
            found["v1_by_native"]["cpu"].append(cpu["v1"] / cpu["native"])
            found["n_by_one"]["cpu"].append(cpu[f"v1, n: {IMAGES}"] / cpu["v1"])
            if "litellm" in cpu:
                found["v1_by_litellm"]["cpu"].append(cpu["v1"] / cpu["litellm"])
    return {name: {key: quartiles(values) for key, values in figures.items()} for name, figures in found.items()}


async def _round(server: Running, variant: Contender, figures: dict[str, list[float]]) -> float:
    """Add the figures of one round. Return the CPU milliseconds per request."""
    images = int(variant.body.get("n", 1))
    callers, requests = IN_FLIGHT // images, IN_FLIGHT // images * EACH
    before = server.cpu_seconds()
    times = await _ask(server, variant, requests, callers)
    cpu_ms = (server.cpu_seconds() - before) / requests * 1000
    figures["cpu_ms"].append(cpu_ms)
    figures["p50_ms"].append(statistics.median(times) * 1000)
    return cpu_ms


async def _ask(server: Running, variant: Contender, requests: int, callers: int) -> list[float]:
    request = variant.image_request(SIZE)
    return await send_all(
        server.contender.port, request, lambda body: variant.check(body, SIZE), callers, requests // callers
    )
