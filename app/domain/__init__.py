"""Frozen values that every layer uses. Nothing here knows HTTP, Gemini or storage."""
