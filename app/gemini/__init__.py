"""The client of Gemini. No other package imports `google.genai` or its transport.

There is one client per process. It pins the API version and has its own deadline for each call. The SDK's retries,
automatic continuation and function calling are off. Each call returns a `Generation` with an image, or raises a
`ServiceError`.
"""

from app.gemini.client import GeminiClient

__all__ = ["GeminiClient"]
