"""Intake: what was asked, by whom, of what."""
