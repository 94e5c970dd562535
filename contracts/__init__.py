"""The only shared language: every message between services, as frozen pydantic models. Imports no service."""
