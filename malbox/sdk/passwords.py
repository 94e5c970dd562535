"""Passwords under which samples are passed on: whoever opens an archive tries them after those that somebody named."""

CUSTOMARY_PASSWORDS = ("infected", "malware", "virus", "password", "infected666", "1234", "123456")


def passwords_to_try(*named: str) -> tuple[str, ...]:
    """Those that were named, in their order, then the customary ones; each once, and none that is empty."""
    return tuple(dict.fromkeys(one for one in (*named, *CUSTOMARY_PASSWORDS) if one))
