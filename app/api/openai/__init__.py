"""OpenAI's Images API: `/v1/images/…` and `/v1/models`. docs/openai.md describes it."""
