"""What is booked is what was paid, although Gemini fails in all ways, callers hang up and replicas are killed.

Each request has its own end user, so that the database tells what was booked for it.
"""

import asyncio
import json
import random
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from app.emulator import Emulator, Fault, served
from app.emulator.recordings import prompt_of
from tests import ledger
from tests.callers import add_key, bearer
from tests.fleet import Fleet
from tests.ledger import Watcher
from tests.storages import Overrides

pytestmark = pytest.mark.slow

REQUESTS = 400
SECONDS = 40
"""Time over which the requests are spread."""
KILL_EVERY_SECONDS = 5.0
LEASE_SECONDS = 3
TIME_LIMIT = {"X-Timeout-Seconds": "3"}

PROMPT_TOKENS = 8
"""What the emulator counts for each prompt: a token for four characters, and one more."""
UNIT = 1120 * 120 + 2000 * 12 + 10 * 2
"""Micro-dollars that an image reserves, with 10 tokens of input for 30 characters."""
IMAGE = 1120 * 120 + (120 + 208) * 12 + PROMPT_TOKENS * 2
"""Cost of an image in micro-dollars."""
DRAFTS = IMAGE + 2 * 1120 * 120
"""Cost of an image with two drafts."""
REFUSAL = 208 * 12 + PROMPT_TOKENS * 2

UNKNOWN = None
"""Cost of a call that may have been billed."""


@dataclass(frozen=True)
class Script:
    """How the first calls for a prompt fail, and what each of them costs in micro-dollars."""

    fault: Fault
    cost: int | None
    in_stream: int | None = 0
    """The cost if the image was asked for as a stream, where that differs."""

    def of(self, *, streams: bool) -> int | None:
        return self.in_stream if streams and self.fault.after_chunks else self.cost


STALL = Script(Fault(stall_seconds=30), UNKNOWN)
SCRIPTS = [
    STALL,
    Script(Fault(status=503), 0),
    Script(Fault(status=503, times=9), 0),
    Script(Fault(status=429, message="Resource exhausted."), 0),
    Script(Fault(status=429, message="Please retry in 77s.", headers={"Retry-After": "77"}), 0),
    Script(Fault(status=500, times=2), 0),
    Script(Fault(status=502, html=True), 0),
    Script(Fault(status=408), 0),
    Script(Fault(status=400), 0),
    Script(Fault(status=504), UNKNOWN),
    Script(Fault(status=504, times=9), UNKNOWN),
    Script(Fault(reset="before_headers"), UNKNOWN),
    Script(Fault(reset="before_headers", times=9), UNKNOWN),
    Script(Fault(reset="in_body"), UNKNOWN),
    Script(Fault(reset="in_body", times=9), UNKNOWN),
    Script(Fault(truncate=True), UNKNOWN),
    Script(Fault(html=True), UNKNOWN),
    Script(Fault(status=503, after_chunks=1), 0, UNKNOWN),
    Script(Fault(finish_reason="IMAGE_SAFETY", finish_message="Unable to show the image."), REFUSAL),
    Script(Fault(block_reason="PROHIBITED_CONTENT"), PROMPT_TOKENS * 2),
    Script(Fault(shape="unflagged_drafts"), DRAFTS),
]

KINDS = ["plain", "plain", "keyed", "keyed", "async", "async", "chat", "/v1", "events", "bytes", "hang-up"]

KEYS: dict[str, dict[str, Any]] = {
    "rich": {"budget": "500/month"},
    "poor": {"budget": "5/month"},
    "busy": {"budget": "500/month", "concurrent": 5, "rate": "600/min"},
}


@dataclass
class Order:
    """What a caller wants, and what became of it."""

    number: int
    kind: str
    name: str
    """Of the caller."""
    script: Script | None
    tries: int = 0
    is_over: bool = False
    is_interrupted: bool = False
    """Whether the caller has seen a lost connection, or that the outcome is unknown."""
    costs: list[int] = field(default_factory=list)
    """Micro-dollars that the answers name."""
    answers: list[str] = field(default_factory=list)

    @property
    def prompt(self) -> str:
        return f"Order number {self.number:05} of {REQUESTS:05}."[:30].ljust(30, ".")

    @property
    def count(self) -> int:
        return 2 if self.kind == "/v1" else 1

    @property
    def repeats(self) -> bool:
        return self.kind in ("keyed", "async")

    def costs_of(self, calls: int) -> list[int | None]:
        """Return what each of so many calls has cost."""
        failing = 0 if self.script is None else self.script.fault.times
        failed = [self.script.of(streams=self.kind == "events")] * min(calls, failing) if self.script else []
        return failed + [IMAGE] * (calls - len(failed))


class Crowd:
    """Sends the orders to any replica."""

    def __init__(self, client: httpx2.AsyncClient, fleet: Fleet, secrets: dict[str, str]) -> None:
        self._client = client
        self._fleet = fleet
        self._secrets = secrets

    async def order(self, one: Order) -> None:
        """Send an order. If it has a key, repeat it until it is over."""
        await asyncio.sleep(SECONDS * one.number / REQUESTS)
        while not one.is_over:
            one.tries += 1
            patience = self._fleet.chance.uniform(0.1, 1.0) if one.kind == "hang-up" else 60
            try:
                async with asyncio.timeout(patience):
                    await self._attempt(one)
            except httpx2.ConnectError:  # the replica is not there: a load balancer asks the other one
                one.tries -= 1
                await asyncio.sleep(0.1)
                continue
            except (httpx2.TransportError, TimeoutError, AttributeError):
                # AttributeError is what anyio raises for a connection that is reset as soon as it is made.
                one.answers.append("lost")
                one.is_interrupted = True
                await asyncio.sleep(0.3)
            one.is_over = one.is_over or not one.repeats or one.tries > 99
            if not one.is_over:
                await asyncio.sleep(0.3)

    async def _attempt(self, one: Order) -> None:
        headers = bearer(self._secrets[one.name]) | {"X-End-User": str(one.number)}
        body: dict[str, Any] = {"prompt": one.prompt, "imageSize": "1K"}
        path = "/generate-image"
        match one.kind:
            case "keyed":
                headers["Idempotency-Key"] = f"order-{one.number}"
            case "async":
                headers |= {"Idempotency-Key": f"order-{one.number}", "Prefer": "respond-async"}
            case "chat":
                path = "/chats"
            case "/v1":
                path, body = "/v1/images/generations", {"prompt": one.prompt, "n": 2, "size": "1024x1024"}
            case "bytes":
                headers["Accept"] = "image/*"
            case "events":
                headers["Accept"] = "text/event-stream"
            case "time limit":
                headers |= TIME_LIMIT
        response = await self._client.post(self._fleet.url() + path, json=body, headers=headers)
        if response.status_code == 202:
            return await self._poll(one, urlsplit(response.headers["location"]).path, headers)
        self._note(one, response)

    async def _poll(self, one: Order, path: str, headers: dict[str, str]) -> None:
        known = {name: headers[name] for name in ("Authorization", "X-End-User")}
        while True:
            response = await self._client.get(self._fleet.url() + path, headers=known | {"Prefer": "wait=5"})
            if response.status_code == 503:
                await asyncio.sleep(0.3)
                continue
            document = response.json()
            if document["status"] in ("queued", "running"):
                continue
            one.is_over = True
            one.is_interrupted |= document["status"] == "interrupted"
            one.answers.append(document["status"])
            return _note_cost(one, document.get("result") or document.get("problem") or {})

    def _note(self, one: Order, response: httpx2.Response) -> None:
        kind = response.headers["content-type"].partition(";")[0]
        if kind.startswith("image/"):
            document = {"usage": json.loads(response.headers["x-usage"])}
        elif kind == "text/event-stream":
            events = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
            document = next((found for found in map(json.loads, events) if "usage" in found or "code" in found), {})
            one.is_interrupted |= not document
        else:
            document = response.json()
        error = document.get("error")
        code = document.get("code") or (error["code"] if isinstance(error, dict) else "image")
        one.answers.append(code)
        one.is_interrupted |= code == "outcome_unknown"
        busy = code in ("too_many_at_once", "overloaded", "rate_limited", "storage_unavailable", "in_progress")
        one.is_over = not (busy and one.repeats)
        _note_cost(one, document)


def _note_cost(one: Order, document: dict[str, Any]) -> None:
    used = document.get("usage") or {}
    dollars = used.get("estimatedCostUsd", used.get("estimated_cost_usd"))
    if dollars is not None:
        one.costs.append(round(dollars * 1_000_000))


def _orders(chance: random.Random) -> list[Order]:
    scripts = [chance.choice(SCRIPTS) for _ in range(REQUESTS)]
    for place, script in enumerate(chance.sample(SCRIPTS, len(SCRIPTS))):
        scripts[3 * place] = script  # each of them at least once
    orders = []
    for number in range(REQUESTS):
        kind, name = chance.choice(KINDS), chance.choice([*KEYS])
        met = scripts[number] if number % 3 == 0 else None
        if met is STALL:
            kind = "time limit"
        orders.append(Order(number, kind, name, met))
    return orders


async def test_what_is_booked_is_what_was_paid(storage: Overrides) -> None:
    """
    400 requests of three callers, of which a third meets a failure of Gemini, while replicas are killed. Budgets hold,
    but for drafts. If the caller has an answer, exactly its calls are booked: their cost, or the reservation if that is
    unknown. If the connection was lost, no more than the reservations.
    """
    chance = random.Random(20261128)
    orders = _orders(chance)
    emulator = Emulator(keep_calls=100_000, delay_seconds=0.3)
    emulator.faults.extend(_with_prompt(one) for one in orders if one.script)
    secrets = {name: await add_key(storage, name, track_users=True, **limits) for name, limits in KEYS.items()}
    settings = {
        "chat_lease_seconds": LEASE_SECONDS,
        "max_in_flight": 40,
        "circuit_breaker_failures": 0,
        "retry_budget": 10,
        "retry_initial_backoff_seconds": 0.05,
    }

    async with (
        served(emulator) as gemini_url,
        httpx2.AsyncClient(timeout=60, trust_env=False, limits=httpx2.Limits(max_connections=None)) as client,
        Fleet(gemini_url, storage, chance, settings) as fleet,
        Watcher(storage) as watcher,
    ):
        crowd = Crowd(client, fleet, secrets)
        fleet.kill_every(KILL_EVERY_SECONDS)
        async with asyncio.timeout(SECONDS + 200):
            await asyncio.gather(*map(crowd.order, orders))
        await fleet.stop_killing()
        await asyncio.sleep(2 * LEASE_SECONDS)
        rows = await ledger.sums(storage)
        booked = {name: await ledger.spent_by_end_user(storage, name) for name in KEYS}

    calls = Counter(prompt_of(call.body) for call in emulator.calls)
    wrong, overshoot = [], Counter[str]()
    for one in orders:
        costs, spent = one.costs_of(calls[one.prompt]), booked[one.name].get(str(one.number), 0)
        overshoot[one.name] += sum(max(0, cost - UNIT) for cost in costs if cost is not None)
        if not one.is_interrupted:
            is_right = spent == sum(UNIT if cost is UNKNOWN else cost for cost in costs)
        else:
            least = sum(UNIT if cost is UNKNOWN else min(cost, UNIT) for cost in costs)
            most = sum(UNIT if cost is UNKNOWN else max(cost, UNIT) for cost in costs) + UNIT * one.count * one.tries
            is_right = least <= spent <= most
        known = sum(cost or 0 for cost in costs)
        if not is_right or (one.costs and not one.is_interrupted and sum(one.costs) != known):
            wrong.append((one, calls[one.prompt], spent))
    _report(orders, fleet, watcher, overshoot)
    assert fleet.kills >= 3  # a slow machine takes seconds to start a service
    assert wrong == []
    for name, limits in KEYS.items():
        owner = ledger.owner(name)
        assert rows[owner] == (sum(booked[name].values()), 0, 0)
        most = round(float(limits["budget"].partition("/")[0]) * 1_000_000)
        assert watcher.most[owner] <= most + overshoot[name]
    assert watcher.most_places[ledger.owner("busy")] == 5
    assert "budget_exhausted" in {answer for one in orders if one.name == "poor" for answer in one.answers}


def _report(orders: list[Order], fleet: Fleet, watcher: Watcher, overshoot: Counter[str]) -> None:
    print(
        f"\n{len(orders)} orders, {fleet.kills} kills, {sum(one.is_interrupted for one in orders)} interrupted, "
        f"{sum(one.tries for one in orders)} requests, {watcher.looks} looks, most {dict(watcher.most)}, "
        f"drafts over the reservation {dict(overshoot)}; answers: {Counter(a for one in orders for a in one.answers)}"
    )


def _with_prompt(one: Order) -> Fault:
    assert one.script is not None
    return replace(one.script.fault, prompt=one.prompt)
