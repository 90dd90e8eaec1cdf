"""`EventSource` as browsers have it, with the signed link to a generation's events."""

from pathlib import Path

import pytest

from app.emulator import Emulator, Fault
from tests.clients.node_process import run_node
from tests.conftest import Serve
from tests.test_generations import ordered

pytestmark = pytest.mark.clients


async def test_event_source_watches_a_generation_to_its_end(node_clients: Path, serve: Serve, gemini: Emulator) -> None:
    """
    It sends no key. After the end it reconnects once, gets a 204, and stops.
    """
    gemini.faults.append(Fault(delay_seconds=1))
    async with serve(service_api_keys="web:secret") as client:
        client.headers["X-API-Key"] = "secret"
        generation = await ordered(client)

        watched = (await run_node(node_clients / "events.mjs", {"url": generation["links"]["events"]})).succeeded()

    assert [(event["id"], event["name"]) for event in watched["events"]] == [
        ("1", "queued"),
        ("2", "running"),
        ("3", "succeeded"),
    ]
    assert watched["events"][-1]["document"]["result"]["image"]["url"]
    assert watched["code"] == 204
