"""Whether a link is what it says it is."""

import re

from malbox.sdk.findings import host_of

_SHOWN = re.compile(
    r"\s*(?:(https?://)|www\.)?((?:[a-z0-9-]{1,63}\.){1,6}[a-z]{2,24})(?:[/:?#]\S*)?\s*\Z", re.IGNORECASE
)


def deceives(shown: str, target: str) -> bool:
    """Whether the text that is shown names one host, and the link leads to another that is no part of it."""
    match = _SHOWN.match(shown[:300])
    _, host = host_of(target)
    if match is None or not host or not target.lower().startswith(("http:", "https:")):
        return False
    said = match[2].lower().removeprefix("www.")
    host = host.removeprefix("www.")
    return not (said == host or host.endswith("." + said) or said.endswith("." + host))
