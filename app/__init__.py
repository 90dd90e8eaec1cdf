"""An HTTP service in front of Google's Gemini image models."""

__version__ = "0.1.0"
