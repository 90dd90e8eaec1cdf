"""The HTTP connection to Gemini, and how images bypass JSON."""
