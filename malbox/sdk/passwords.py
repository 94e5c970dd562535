"""Passwords under which samples are passed on."""

CUSTOMARY_PASSWORDS = ("infected", "malware", "virus", "password", "infected666", "1234", "123456")
