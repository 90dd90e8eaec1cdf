"""`generateImage` of the Vercel AI SDK, with its provider for OpenAI and the one for services like it."""

import base64
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.emulator import Emulator, Fault
from tests.clients.images import opened, sent_images
from tests.clients.node_process import run_node
from tests.clients.outcome import Outcome
from tests.conftest import Serve, noise_jpeg

pytestmark = pytest.mark.clients

PROVIDERS = ["openai", "openai-compatible"]
MODEL = "gemini-3-pro-image"

GenerateImage = Callable[..., Awaitable[Outcome]]


@pytest.fixture
def generate_image(node_clients: Path) -> GenerateImage:
    """Return a function that makes an image with the AI SDK. Its `options` are those of `generateImage`."""

    async def generate(
        client: httpx2.AsyncClient,
        provider: str,
        *,
        model: str = "gpt-image-2",
        images: list[Path] | None = None,
        key: str = "any-key",
        **options: Any,
    ) -> Outcome:
        job = {
            "url": str(client.base_url),
            "key": key,
            "provider": provider,
            "model": model,
            "prompt": "A lighthouse in a storm",
            "images": [str(path) for path in images] if images else None,
            "options": options,
        }
        return await run_node(node_clients / "ai.mjs", job)

    return generate


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("model", ["gpt-image-2", "dall-e-3", MODEL])
async def test_a_prompt_becomes_an_image(
    generate_image: GenerateImage, client: httpx2.AsyncClient, gemini: Emulator, provider: str, model: str
) -> None:
    made = (await generate_image(client, provider, model=model)).succeeded()

    [image] = made["images"]
    assert opened(image["base64"]).format == "JPEG"
    assert image["mediaType"] == "image/jpeg"
    assert made["usage"]["totalTokens"] > 0
    assert gemini.calls[0].model == MODEL


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_n_images_are_n_different_calls_to_gemini(
    generate_image: GenerateImage, client: httpx2.AsyncClient, gemini: Emulator, provider: str
) -> None:
    made = (await generate_image(client, provider, n=3)).succeeded()

    assert len(made["images"]) == 3
    assert made["calls"] == 1
    assert len(gemini.calls) == 3


async def test_the_openai_provider_splits_n_for_ids_that_it_does_not_know(
    generate_image: GenerateImage, client: httpx2.AsyncClient, gemini: Emulator
) -> None:
    made = (await generate_image(client, "openai", model=MODEL, n=3)).succeeded()

    assert len(made["images"]) == 3
    assert made["calls"] == 3
    assert len(gemini.calls) == 3


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_size_is_a_size_of_the_model(
    generate_image: GenerateImage, client: httpx2.AsyncClient, provider: str
) -> None:
    made = (await generate_image(client, provider, size="1536x1024")).succeeded()

    assert opened(made["images"][0]["base64"]).size == (1264, 848)


async def test_options_of_gemini_are_provider_options(
    generate_image: GenerateImage, client: httpx2.AsyncClient, gemini: Emulator
) -> None:
    options = {"images": {"aspect_ratio": "16:9", "image_size": "1K", "google_search": True}}

    made = (await generate_image(client, "openai-compatible", providerOptions=options)).succeeded()

    assert opened(made["images"][0]["base64"]).size == (1376, 768)
    assert gemini.calls[0].body["tools"]


async def test_options_of_openai_are_provider_options(
    generate_image: GenerateImage, client: httpx2.AsyncClient
) -> None:
    """
    The provider adds parameters that the newest OpenAI models have.
    """
    options = {
        "openai": {
            "quality": "low",
            "background": "opaque",
            "outputFormat": "webp",
            "moderation": "low",
            "user": "u1",
            "safetyIdentifier": "s1",
        }
    }

    made = (await generate_image(client, "openai", providerOptions=options)).succeeded()

    [about] = made["providerMetadata"]["openai"]["images"]
    assert opened(made["images"][0]["base64"]).format == "WEBP"
    assert made["images"][0]["mediaType"] == "image/webp"
    assert about["outputFormat"] == "webp"


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("count", [1, 3])
async def test_images_in_the_prompt_are_edited(
    generate_image: GenerateImage,
    client: httpx2.AsyncClient,
    gemini: Emulator,
    pictures: list[Path],
    provider: str,
    count: int,
) -> None:
    made = (await generate_image(client, provider, images=pictures[:count])).succeeded()

    assert opened(made["images"][0]["base64"])
    assert sent_images(gemini.calls[0].body) == [path.read_bytes() for path in pictures[:count]]


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_an_image_of_8_mb_arrives_byte_for_byte(
    generate_image: GenerateImage, client: httpx2.AsyncClient, gemini: Emulator, provider: str
) -> None:
    image = noise_jpeg(8, 8_000_000)
    gemini.faults.append(Fault(image_base64=base64.b64encode(image).decode()))

    made = (await generate_image(client, provider)).succeeded()

    assert base64.b64decode(made["images"][0]["base64"]) == image


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_refusal_is_an_error_with_the_reason_and_is_not_retried(
    generate_image: GenerateImage, client: httpx2.AsyncClient, gemini: Emulator, provider: str
) -> None:
    gemini.faults.append(Fault(finish_reason="IMAGE_SAFETY"))

    error = (await generate_image(client, provider)).failed("APICallError", 400)

    assert "IMAGE_SAFETY" in error["message"]
    assert error["data"]["error"]["code"] == "moderation_blocked"
    assert len(gemini.calls) == 1


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_an_unknown_parameter_is_an_error_that_names_it(
    generate_image: GenerateImage, client: httpx2.AsyncClient, gemini: Emulator, provider: str
) -> None:
    """
    `@ai-sdk/openai` sends only the parameters of its own list.
    """
    options = {"images": {"aspect_ration": "16:9"}, "openai": {"background": "transparent"}}

    error = (await generate_image(client, provider, providerOptions=options)).failed("APICallError", 400)

    assert error["data"]["error"]["param"] == ("background" if provider == "openai" else "aspect_ration")
    assert not gemini.calls


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_wrong_key_is_an_error_with_its_status(
    generate_image: GenerateImage, serve: Serve, provider: str
) -> None:
    async with serve(service_api_keys="web:a-secret-of-16-bytes") as service:
        error = (await generate_image(service, provider, key="wrong")).failed("APICallError", 401)

    assert error["data"]["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_busy_gemini_is_asked_again_after_the_time_that_the_service_names(
    generate_image: GenerateImage, serve: Serve, gemini: Emulator, provider: str
) -> None:
    quota = Fault(status=429, message="You exceeded your current quota", details=[{"retryDelay": "1s"}])
    gemini.faults.append(quota)
    async with serve(upstream_attempts=1) as service:
        outcome = await generate_image(service, provider)

    assert outcome.succeeded()["images"]
    assert len(gemini.calls) == 2


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    "fault", [Fault(status=504), Fault(truncate=True), Fault(reset="in_body")], ids=["504", "truncated", "reset"]
)
async def test_what_may_have_been_paid_is_not_asked_again(
    generate_image: GenerateImage, serve: Serve, gemini: Emulator, provider: str, fault: Fault
) -> None:
    """
    The AI SDK ignores `X-Should-Retry`, so the status alone must stop it.
    """
    gemini.faults.extend([fault] * 9)
    async with serve(upstream_attempts=1) as service:
        error = (await generate_image(service, provider)).failed("APICallError", 424)

    assert error["retryable"] is False
    assert len(gemini.calls) == 1
