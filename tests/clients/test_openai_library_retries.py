"""OpenAI's libraries time out and try again. That makes one image."""

import asyncio
import base64
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from app.emulator import Emulator, Fault
from tests.conftest import image_file

pytestmark = pytest.mark.clients


@pytest.fixture
async def impatient(client: httpx2.AsyncClient) -> Any:
    """OpenAI's client, which waits one second for each of three tries."""
    async with openai.AsyncOpenAI(
        base_url=f"{str(client.base_url).rstrip('/')}/v1", api_key="any", timeout=1, max_retries=2
    ) as made:
        yield made


async def test_a_client_that_times_out_gets_the_image_by_its_retries(impatient: Any, gemini: Emulator) -> None:
    picture = image_file("JPEG")
    gemini.faults.append(Fault(delay_seconds=1.8, image_base64=base64.b64encode(picture).decode()))

    answer = await impatient.images.generate(prompt="A lighthouse, drawn slowly")

    assert base64.b64decode(answer.data[0].b64_json) == picture
    assert len(gemini.calls) == 1


async def test_an_edit_that_times_out_gets_the_image_by_its_retries(
    impatient: Any, gemini: Emulator, pictures: list[Path]
) -> None:
    """
    The library sends the form with a new boundary each time.
    """
    gemini.faults.append(Fault(delay_seconds=1.8))

    answer = await impatient.images.edit(prompt="Make it blue, slowly", image=[file.read_bytes() for file in pictures])

    assert base64.b64decode(answer.data[0].b64_json)
    assert len(gemini.calls) == 1


async def test_a_client_that_gives_up_finds_the_image_with_its_key(impatient: Any, gemini: Emulator) -> None:
    gemini.faults.append(Fault(delay_seconds=2))
    headers = {"Idempotency-Key": "order-of-the-library"}
    with pytest.raises(openai.APITimeoutError):
        await impatient.with_options(max_retries=0).images.generate(prompt="A lighthouse", extra_headers=headers)
    await asyncio.sleep(1.5)

    answer = await impatient.images.generate(prompt="A lighthouse", extra_headers=headers)

    assert base64.b64decode(answer.data[0].b64_json)
    assert len(gemini.calls) == 1
