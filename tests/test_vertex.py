"""Vertex AI instead of the Gemini Developer API, configured by the SDK's variable names."""

import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from app.emulator import Emulator, served
from tests.conftest import Serve


@pytest.fixture
def vertex(gemini_url: str) -> dict[str, Any]:
    return {"google_genai_use_vertexai": True, "google_vertex_base_url": gemini_url}


@pytest.fixture
async def service_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[None]:
    """Application default credentials: a service account whose tokens come from a local server."""

    async def token(_: Request) -> JSONResponse:
        return JSONResponse(
            {"access_token": "token-of-the-service-account", "expires_in": 3600, "token_type": "Bearer"}
        )

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    async with served(Starlette(routes=[Route("/token", token, methods=["POST"])])) as url:
        file = tmp_path / "credentials.json"
        account = {
            "type": "service_account",
            "client_email": "a@b.example",
            "private_key": pem,
            "token_uri": f"{url}/token",
        }
        file.write_text(json.dumps(account))
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
        yield


@pytest.mark.usefixtures("service_account")
async def test_a_project_is_called_with_google_s_default_credentials(
    serve: Serve, gemini: Emulator, vertex: dict[str, Any]
) -> None:
    async with serve(**vertex, google_cloud_project="emulated", google_cloud_location="europe-west1") as client:
        response = await client.post("/generate-image", json={"prompt": "x"})

    assert response.status_code == 200, response.text
    call = gemini.calls[0]
    project = "/v1beta1/projects/emulated/locations/europe-west1/publishers/google"
    assert call.path == f"{project}/models/gemini-3-pro-image:generateContent"
    assert call.headers["authorization"] == "Bearer token-of-the-service-account"


async def test_vertex_without_google_credentials_is_a_problem(
    serve: Serve, gemini: Emulator, vertex: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """
    A project name is not enough.
    """
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "missing.json"))
    async with serve(**vertex, google_cloud_project="emulated") as client:
        response = await client.post("/generate-image", json={"prompt": "x"})

    assert (response.status_code, response.json()["code"]) == (502, "upstream_rejected_credentials")
    assert not gemini.calls


async def test_express_mode_calls_vertex_with_a_key(serve: Serve, gemini: Emulator, vertex: dict[str, Any]) -> None:
    async with serve(**vertex) as client:
        response = await client.post("/generate-image", json={"prompt": "x"})

    assert response.status_code == 200, response.text
    call = gemini.calls[0]
    assert call.path == "/v1beta1/publishers/google/models/gemini-3-pro-image:generateContent"
    assert "x-goog-api-key" in call.headers


async def test_vertex_accepts_further_aspect_ratios(serve: Serve, gemini: Emulator, vertex: dict[str, Any]) -> None:
    body = {"prompt": "x", "model": "gemini-nano-banana-2.1", "aspectRatio": "9:21"}
    async with serve() as client:
        developer = await client.post("/generate-image", json=body)
    async with serve(**vertex) as client:
        await client.post("/generate-image", json=body)

    assert developer.status_code == 422
    assert gemini.calls[0].body["generationConfig"]["imageConfig"]["aspectRatio"] == "9:21"
