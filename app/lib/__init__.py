"""Small tools that know nothing of this service."""
