"""Generates the reference documents from the code: `make docs`, or `python -m deploy.docs`. A test holds each to it."""
