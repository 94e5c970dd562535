"""Recipes for guest images: what builds, checks and verifies them. Only `files/` travels into a guest."""
