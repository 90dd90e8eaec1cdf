"""What is booked for a caller is what its answers have named, to the micro-dollar."""

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from app.emulator import Emulator, Fault
from tests.callers import add_key, bearer, until
from tests.conftest import Serve, image_file
from tests.test_event_stream import read

ASK = {"prompt": "A lighthouse", "imageSize": "1K"}
JPEG = {"images": ("cat.png", image_file(), "image/png")}
DRAFTS = Fault(shape="unflagged_drafts")
REFUSAL = Fault(finish_reason="IMAGE_SAFETY", finish_message="Unable to show the image.")


def micro_usd(document: dict[str, Any]) -> int:
    """Return the cost that an answer names."""
    usage = document["usage"]
    dollars: float = usage.get("estimatedCostUsd", usage.get("estimated_cost_usd"))
    return round(dollars * 1_000_000)


class Customer:
    """Sends requests on all routes, and adds up what the answers say that they cost."""

    def __init__(self, client: httpx2.AsyncClient, gemini: Emulator, secret: str) -> None:
        self._client = client
        self._gemini = gemini
        self._auth = bearer(secret)
        self.spent = 0
        self.images = 0

    async def buy_everything(self) -> None:
        await self._post("/generate-image", json=ASK)
        await self._post("/generate-image", json=ASK | {"imageSize": "4K"})
        await self._post("/generate-image", fault=DRAFTS, json=ASK | {"includeDrafts": True})
        await self._post("/generate-image", fault=REFUSAL, images=0, json=ASK)
        await self._post("/generate-image/with-search", json=ASK)
        await self._post("/generate-image/with-references", data=ASK, files=JPEG)
        await self._post("/v1/images/generations", images=2, json={"prompt": "A lighthouse", "n": 2})
        await self._post("/v1/images/generations", fault=REFUSAL, json={"prompt": "A lighthouse", "n": 2})
        await self._post(
            "/v1/images/edits", fault=DRAFTS, data={"prompt": "A lighthouse"}, files={"image": JPEG["images"]}
        )
        chat = await self._post("/chats", json=ASK)
        await self._post(f"/chats/{chat['chatId']}/turns", json=ASK)
        await self._post(f"/chats/{chat['chatId']}/turns", fault=DRAFTS, json=ASK)
        await self._repeat()
        await self._buy_bytes()
        await self._buy_events()
        await self._buy_later()

    async def _post(self, path: str, images: int = 1, fault: Fault | None = None, **request: Any) -> Any:
        self._gemini.faults.extend([fault] if fault else [])
        response = await self._client.post(path, headers=self._auth, **request)
        assert response.status_code in (200, 201) if images else 422, response.text
        self._note(response.json(), images)
        return response.json()

    async def _repeat(self) -> None:
        headers = self._auth | {"Idempotency-Key": uuid4().hex}
        first = await self._client.post("/generate-image", json=ASK, headers=headers)
        replay = await self._client.post("/generate-image", json=ASK, headers=headers)
        assert replay.headers["idempotent-replayed"] == "true"
        assert first.json() == replay.json()
        self._note(first.json())

    async def _buy_bytes(self) -> None:
        response = await self._client.post("/generate-image", json=ASK, headers=self._auth | {"Accept": "image/*"})
        self._note({"usage": json.loads(response.headers["x-usage"])})

    async def _buy_events(self) -> None:
        headers = self._auth | {"Accept": "text/event-stream"}
        async with self._client.stream("POST", "/generate-image", json=ASK, headers=headers) as response:
            [image] = [document async for name, document in read(response) if name == "image"]
        self._note(image)

    async def _buy_later(self) -> None:
        for body in (ASK, ASK | {"googleSearch": True}):
            headers = self._auth | {"Prefer": "respond-async"}
            queued = await self._client.post("/generate-image", json=body, headers=headers)
            path = queued.headers["location"]
            document = (await self._client.get(path, headers=self._auth | {"Prefer": "wait=30"})).json()
            assert document["status"] == "succeeded"
            self._note(document["result"])

    def _note(self, document: dict[str, Any], images: int = 1) -> None:
        self.spent += micro_usd(document)
        self.images += images


@pytest.mark.parametrize("limits", [{"budget": "50/month"}, {"concurrent": 9}, {}], ids=["budget", "places", "none"])
async def test_what_is_booked_is_what_the_answers_say(
    serve_alone: Serve, gemini: Emulator, tmp_path: Path, limits: dict[str, Any]
) -> None:
    """
    On all routes, with drafts, several search queries, refusals and partial results. A replay costs nothing.
    """
    secret = await add_key({"data_dir": tmp_path}, **limits)
    used: Any = {}

    async with serve_alone() as client:
        customer = Customer(client, gemini, secret)
        await customer.buy_everything()

        async def is_quiet() -> bool:
            used.update((await client.get("/usage", headers=bearer(secret))).json())
            return bool(used["reservedUsd"] == 0 and used["images"] >= customer.images)

        await until(is_quiet)

    assert used["images"] == customer.images
    assert round(used["spentUsd"] * 1_000_000) == customer.spent
    assert used["spentUsd"] == customer.spent / 1_000_000
