"""Webhooks: the service posts the document of a finished generation to an address that the caller has named."""
