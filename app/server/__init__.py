"""Running the service: uvicorn with limits, shutdown, start checks, doctor."""
