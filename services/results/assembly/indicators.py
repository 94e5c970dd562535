"""What to look for elsewhere, each thing once, with where it was seen."""

import re
from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from typing import Literal
from urllib.parse import urlsplit

from services.results.domain.bounds import INDICATORS_MAX, cut
from services.results.domain.case import evidence
from services.results.domain.inputs import CHANGED, Findings, Identity, SeenIndicator, is_remote
from services.results.domain.report import Indicator, Sample
from services.results.domain.result import Result
from services.results.policy.verdict import Observed

Kind = Literal["md5", "sha1", "sha256", "ipv4", "ipv6", "domain", "url", "path", "email", "registry", "mutex", "wallet"]

_URL = re.compile(r"\b(?:https?|ftps?|tftp|ldaps?|wss?)://[^\s\"'<>|;`\\]{3,2000}", re.IGNORECASE)
_DOMAIN = re.compile(r"^(?=.{4,253}$)(?:[a-z0-9_](?:[a-z0-9_-]{0,62})\.)+[a-z][a-z0-9-]{1,62}$")
_SAID_KINDS: dict[str, tuple[Kind, re.Pattern[str]]] = {
    "md5": ("md5", re.compile(r"[0-9a-f]{32}")),
    "sha1": ("sha1", re.compile(r"[0-9a-f]{40}")),
    "sha256": ("sha256", re.compile(r"[0-9a-f]{64}")),
    "domain": ("domain", _DOMAIN),
    "url": ("url", re.compile(r"[A-Za-z][A-Za-z0-9+.-]{1,30}:\S{2,2100}")),
    "email": ("email", re.compile(r"[^\s@]{1,64}@[^\s@]{3,255}")),
    "path": ("path", re.compile(r"[^\n\r]{1,4096}")),
    "registry": ("registry", re.compile(r"[^\n\r]{1,1024}")),
    "mutex": ("mutex", re.compile(r"[^\n\r]{1,260}")),
    "wallet": ("wallet", re.compile(r"[A-Za-z0-9:]{20,120}")),
}
"""What a static plugin may call an indicator, and what such a value looks like. Addresses are parsed."""

_NOT_FILES = ("/proc/", "/dev/", "/sys/", "pipe:", "socket:")


def indicators(
    sample: Sample,
    identity: tuple[Identity, Result] | None,
    observed: Observed | None,
    results: tuple[Result, ...],
    findings: list[tuple[Findings, Result]],
) -> tuple[tuple[Indicator, ...], int]:
    """The indicators, and how many more there were."""
    found = [*_of_sample(sample, identity), *_of_dropped(results)]
    if observed is not None:
        found += [*_of_network(observed), *_of_command_lines(observed), *_of_files(observed)]
    found += _of_bytes(findings)  # last: what was done says more than what stands somewhere
    return cut(list(_unique(found)), INDICATORS_MAX)


def _unique(found: Iterable[Indicator]) -> Iterator[Indicator]:
    seen: set[tuple[str, str]] = set()
    for indicator in found:
        if (indicator.kind, indicator.value) not in seen:
            seen.add((indicator.kind, indicator.value))
            yield indicator


def _of_sample(sample: Sample, identity: tuple[Identity, Result] | None) -> Iterator[Indicator]:
    yield Indicator(kind="sha256", value=sample.sha256, role="sample", source=None)
    if identity is None:
        return
    facts, result = identity
    if facts.sha1:
        yield Indicator(kind="sha1", value=facts.sha1, role="sample", source=evidence(result, "/sha1"))
    if facts.md5:
        yield Indicator(kind="md5", value=facts.md5, role="sample", source=evidence(result, "/md5"))


def _of_dropped(results: tuple[Result, ...]) -> Iterator[Indicator]:
    for result in results:
        if result.kind == "file" and result.path and not result.is_truncated:
            yield Indicator(kind="sha256", value=result.sha256, role="dropped file", source=evidence(result, ""))


def _of_network(observed: Observed) -> Iterator[Indicator]:
    for index, attempt in enumerate(observed.behaviour.network):
        source = observed.evidence(f"/network/{index}")
        if is_remote(attempt) and attempt.address and not attempt.query:
            yield Indicator(kind=_version(attempt.address), value=attempt.address, role="contacted", source=source)
        name = (attempt.query or "").rstrip(".").lower()
        if _DOMAIN.match(name):
            yield Indicator(kind="domain", value=name, role="asked for", source=source)


def _of_command_lines(observed: Observed) -> Iterator[Indicator]:
    for index, process in enumerate(observed.behaviour.processes):
        for place, argument in enumerate(process.argv):
            source = observed.evidence(f"/processes/{index}/argv/{place}")
            for url in _URL.findall(argument):
                yield Indicator(kind="url", value=url, role="command line", source=source)
                if (host := _host(url)) is not None:
                    yield Indicator(kind=host[0], value=host[1], role="command line", source=source)


def _of_files(observed: Observed) -> Iterator[Indicator]:
    for index, file in enumerate(observed.behaviour.files):
        if CHANGED.isdisjoint(file.actions) or file.path.startswith(_NOT_FILES):
            continue
        role = "tried to write" if file.errors else "written"
        yield Indicator(kind="path", value=file.path, role=role, source=observed.evidence(f"/files/{index}"))


def _of_bytes(findings: list[tuple[Findings, Result]]) -> Iterator[Indicator]:
    for said, result in findings:
        for index, one in enumerate(said.indicators):
            kind = _said_kind(one)
            if kind is not None:
                yield Indicator(
                    kind=kind,
                    value=one.value,
                    role="in the bytes",
                    source=evidence(result, f"/indicators/{index}"),
                    context=one.context or None,
                )


def _said_kind(said: SeenIndicator) -> Kind | None:
    """The kind, where the value is one of that kind."""
    if said.kind in ("ipv4", "ipv6"):
        try:
            return _version(said.value)
        except ValueError:
            return None
    kind, pattern = _SAID_KINDS.get(said.kind, (None, None))
    return kind if pattern is not None and pattern.fullmatch(said.value) else None


def _host(url: str) -> tuple[Kind, str] | None:
    try:
        name = (urlsplit(url).hostname or "").rstrip(".").lower()
    except ValueError:
        return None
    try:
        return _version(name), name
    except ValueError:
        return ("domain", name) if _DOMAIN.match(name) else None


def _version(address: str) -> Literal["ipv4", "ipv6"]:
    """Raises ValueError for what is no address."""
    return "ipv4" if ip_address(address).version == 4 else "ipv6"  # noqa: PLR2004 - the version is the name
