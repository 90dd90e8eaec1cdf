"""The HTTP connection to Gemini. Image data is extracted before the JSON parser and does not pass through it."""
