"""Starts everything on one machine, from nothing, and stops exactly what it started."""
