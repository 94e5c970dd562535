"""Choices of the scheduler as pure functions of data."""
