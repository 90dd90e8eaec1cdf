"""The HTTP edge: what comes in over HTTP becomes a `GenerationRequest`, a `Generation` becomes JSON or bytes."""
