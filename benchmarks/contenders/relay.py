"""The lower bound: a relay that forwards bytes and parses neither the request nor the response."""

import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

UPSTREAM = f"{os.environ['GOOGLE_GEMINI_BASE_URL']}/v1beta/models/gemini-3-pro-image:generateContent"


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[dict[str, Any]]:
    async with httpx2.AsyncClient(timeout=300, limits=httpx2.Limits(max_connections=None), trust_env=False) as client:
        yield {"client": client}


app = FastAPI(lifespan=lifespan)


@app.get("/healthz")
async def healthz() -> dict[str, str]:
    return {"status": "ok"}


@app.post("/generate-image")
@app.post("/generate-image/with-references")
async def relay(request: Request) -> StreamingResponse:
    client: httpx2.AsyncClient = request.state.client
    headers = {"Content-Type": request.headers["Content-Type"], "Accept-Encoding": "identity"}
    if "Content-Length" in request.headers:
        headers["Content-Length"] = request.headers["Content-Length"]
    outgoing = client.build_request("POST", UPSTREAM, content=request.stream(), headers=headers)
    response = await client.send(outgoing, stream=True)

    async def body() -> AsyncIterator[bytes]:
        try:
            async for chunk in response.aiter_raw():
                yield chunk
        finally:
            await response.aclose()

    length = {"Content-Length": response.headers["Content-Length"]}
    return StreamingResponse(body(), response.status_code, length, response.headers["Content-Type"])
