"""Choices of the plugins service, as pure functions of data."""
