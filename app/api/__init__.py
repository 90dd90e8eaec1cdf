"""The HTTP routes. Requests become a `GenerationRequest`; a `Generation` becomes JSON, bytes or events."""
