"""The OpenAPI document is complete, and is correct for generated requests."""

import base64
import json
import sys
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from app.emulator import Emulator, Fault
from tests.conftest import Serve, image_file

IMAGE_ROUTES = ["/generate-image", "/generate-image/with-references", "/generate-image/with-search"]
CHAT_ROUTES = [
    "/chats",
    "/chats/{chat_id}",
    "/chats/{chat_id}/fork",
    "/chats/{chat_id}/turns",
    "/chats/{chat_id}/turns/{number}/image",
    "/chats/{chat_id}/turns/{number}/references/{place}",
]
GENERATION_ROUTES = [
    "/generations",
    "/generations/{generation_id}",
    "/generations/{generation_id}/image",
    "/generations/{generation_id}/events",
]
OPENAI_ROUTES = ["/v1/images/generations", "/v1/images/edits", "/v1/models", "/v1/models/{model_id}"]


_HOOKS = """
import schemathesis

@schemathesis.hook
def before_call(context, case, *args):
    # The smallest allowed time limit is too short on a busy machine.
    if str((case.headers or {}).get("x-timeout-seconds")) == "0.2":
        case.headers["x-timeout-seconds"] = "30"
"""


@pytest.fixture
async def document(client: httpx2.AsyncClient) -> dict[str, Any]:
    found: dict[str, Any] = (await client.get("/openapi.json")).json()
    return found


async def test_every_route_is_documented(document: dict[str, Any]) -> None:
    assert set(document["paths"]) == {
        *IMAGE_ROUTES, *CHAT_ROUTES, *GENERATION_ROUTES, *OPENAI_ROUTES,
        "/models", "/usage", "/healthz", "/readyz", "/metrics",
    }  # fmt: skip


@pytest.mark.parametrize("path", IMAGE_ROUTES)
async def test_image_routes_document_requests_responses_and_problems(document: dict[str, Any], path: str) -> None:
    operation = document["paths"][path]["post"]

    assert {"200", "400", "401", "403", "406", "413", "415", "422", "429", "500", "502", "503", "504"} <= set(
        operation["responses"]
    )
    assert operation["responses"]["200"]["content"]["application/json"]["example"]["image"]["url"]
    assert "image/jpeg" in operation["responses"]["200"]["content"]
    problem = operation["responses"]["422"]["content"]["application/problem+json"]
    assert {"invalid_request", "content_blocked", "recitation", "no_image"} <= set(problem["examples"])
    limits = operation["responses"]["429"]["content"]["application/problem+json"]["examples"]
    assert {"rate_limited", "too_many_at_once", "budget_exhausted"} <= set(limits)
    assert limits["budget_exhausted"]["value"]["remainingUsd"] == 0.084
    assert "not_allowed" in operation["responses"]["403"]["content"]["application/problem+json"]["examples"]
    (body,) = operation["requestBody"]["content"].values()
    schema = document["components"]["schemas"][body["schema"]["$ref"].rpartition("/")[2]]
    assert schema["examples"]
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize(("keys", "security"), [("web:s", [{"HTTPBearer": []}, {"APIKeyHeader": []}]), ((), None)])
async def test_a_key_is_documented_where_it_is_required(serve: Serve, keys: Any, security: Any) -> None:
    async with serve(service_api_keys=keys) as client:
        document = (await client.get("/openapi.json")).json()

    assert document["paths"]["/generate-image"]["post"].get("security") == security
    assert "security" not in document["paths"]["/healthz"]["get"]


async def test_problems_have_a_schema(document: dict[str, Any]) -> None:
    assert {"type", "title", "status", "detail", "code", "requestId", "error"} <= set(
        document["components"]["schemas"]["Problem"]["properties"]
    )
    assert "HTTPValidationError" not in json.dumps(document)


async def test_webhooks_are_documented(document: dict[str, Any]) -> None:
    operation = document["webhooks"]["generation-finished"]["post"]

    assert {one["name"] for one in operation["parameters"]} == {"webhook-id", "webhook-timestamp", "webhook-signature"}
    schema = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    assert set(document["components"]["schemas"][schema]["properties"]) == {"type", "timestamp", "data"}


@pytest.mark.slow
async def test_schemathesis_finds_no_5xx_and_no_undocumented_response(
    serve: Serve, gemini: Emulator, tmp_path: Path
) -> None:
    """
    It sends valid and invalid requests to every route. Each gets the same small image, so that many requests fit into
    the time.
    """
    # Undocumented headers are not violations.
    (tmp_path / "schemathesis.toml").write_text('hooks = "hooks.py"\n[generation]\nallow-extra-parameters = false\n')
    (tmp_path / "hooks.py").write_text(_HOOKS)
    gemini.faults.append(Fault(times=100_000, image_base64=base64.b64encode(image_file("JPEG")).decode()))
    async with serve() as client:
        report = await anyio.run_process(
            [
                str(Path(sys.executable).with_name("schemathesis")), "run", f"{client.base_url}/openapi.json",
                "--checks", "not_a_server_error,status_code_conformance,content_type_conformance,"
                "response_headers_conformance,response_schema_conformance,negative_data_rejection",
                "--max-examples", "20", "--seed", "66", "--phases", "examples,coverage,fuzzing",
                "--request-timeout", "10", "--suppress-health-check", "all", "--no-color",
            ],
            check=False,
            cwd=tmp_path,
        )  # fmt: skip

    assert report.returncode == 0, report.stdout.decode()[-6000:]
