"""Talking to Gemini. Nothing outside this package imports `google.genai` or its transport.

One client per process; the API version pinned; no retrying, continuing or function calling by the SDK; a deadline
of our own around every call. What comes out is a `Generation` with an image in hand, or a `ServiceError`.
"""

from app.gemini.client import GeminiClient

__all__ = ["GeminiClient"]
