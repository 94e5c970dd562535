"""The API over HTTP. Every failure becomes an error with a remedy; what a restart interrupts is tried again."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any, cast

import httpx

from cli import output
from cli.connection import Connection
from cli.errors import CliError, Refused, Unreachable

API_PREFIX = "/api/v1"
TIMEOUT = httpx.Timeout(30, connect=5)
TRIES = 12  # about 40 seconds: what a service takes to start again, several times over
RETRY_MAX_S = 5.0
GATEWAY_STATUS = frozenset({502, 504})
TRANSIENT_STATUS = GATEWAY_STATUS | {503}
ALLOWED_MAX = 20
ERROR_BODY_MAX_BYTES = 64 * 1024


class Client:
    """One origin, one token. Methods raise Unreachable and Refused."""

    def __init__(self, connection: Connection) -> None:
        self.url = connection.url
        self._http = httpx.Client(
            base_url=connection.url + API_PREFIX,
            headers={"Authorization": f"Bearer {connection.token}"},
            timeout=TIMEOUT,
            trust_env=not connection.is_local,
        )

    def close(self) -> None:
        """The connections are closed."""
        self._http.close()

    def get(self, path: str, **params: Any) -> Any:
        """The JSON at the path."""
        given = {name: value for name, value in params.items() if value is not None}
        return self._json("GET", path, params=given)

    def post(self, path: str, **options: Any) -> Any:
        """The JSON answer to a request that may be repeated without harm."""
        return self._json("POST", path, **options)

    @contextlib.contextmanager
    def stream(
        self,
        path: str,
        *,
        params: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        idle_s: float = 60,
    ) -> Iterator[httpx.Response]:
        """A response that is read as it comes; silence of `idle_s` seconds ends it."""
        timeout = httpx.Timeout(TIMEOUT.connect, read=idle_s)
        with self._faults(), self._http.stream("GET", path, params=params, headers=headers, timeout=timeout) as answer:
            if answer.is_error:
                _read_bounded(answer)
                raise refusal(answer)
            yield answer

    def _json(self, method: str, path: str, **options: Any) -> Any:
        answer = self._answer(method, path, **options)
        if answer.is_error:
            raise refusal(answer)
        if answer.status_code == httpx.codes.NO_CONTENT or not answer.content:
            return {}
        try:
            return answer.json()
        except ValueError as error:
            raise Unreachable(f"{self.url} answers, but not as Malbox does.", remedy="Check MALBOX_URL.") from error

    def _answer(self, method: str, path: str, **options: Any) -> httpx.Response:
        """A service that restarts answers 502 or 503 for a moment: wait, a few times."""
        for attempt in range(TRIES):
            with self._faults():
                answer = self._http.request(method, path, **options)
            if answer.status_code not in TRANSIENT_STATUS or attempt == TRIES - 1:
                break
            if attempt == 0:
                output.say("Malbox is not ready to answer that; trying again.")
            time.sleep(_retry_after_s(answer, attempt))
            rewind(options.get("files"))
        return answer

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except httpx.TimeoutException as error:
            raise Unreachable(
                f"Malbox at {self.url} did not answer in time.", remedy="Look at `malbox status`."
            ) from error
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise Unreachable(
                f"Malbox does not answer at {self.url} ({error}).",
                remedy="Look at `malbox status`; start it with `malbox up`.",
            ) from error


def refusal(answer: httpx.Response) -> CliError:
    """The error that a response is, in the words of its problem document."""
    problem = _problem(answer)
    status, code = answer.status_code, str(problem.get("code", ""))
    detail = str(problem.get("detail") or problem.get("title") or f"HTTP status {status}")
    if status == httpx.codes.UNAUTHORIZED:
        remedy = "Set MALBOX_TOKEN, or run where the state directory with the token is (MALBOX_STATE)."
        return Refused("The token was not accepted.", remedy=remedy, code=code, status=status)
    if status in GATEWAY_STATUS:
        return Unreachable(f"A service of Malbox is not there (HTTP {status}).", remedy="Look at `malbox status`.")
    allowed = [str(each) for each in problem.get("allowed") or []]
    remedy = ""
    if allowed:
        more = f" and {len(allowed) - ALLOWED_MAX} more" if len(allowed) > ALLOWED_MAX else ""
        remedy = f"Valid here: {', '.join(allowed[:ALLOWED_MAX])}{more}"
    pointer = str(problem.get("pointer", ""))
    return Refused(detail + (f" [{pointer}]" if pointer else ""), remedy=remedy, code=code, status=status)


def rewind(files: Any) -> None:
    """Files that were being sent are sent from their beginning again."""
    for entry in (files or {}).values():
        entry[1].seek(0)


def _problem(answer: httpx.Response) -> dict[str, Any]:
    try:
        content = answer.json()
    except ValueError:
        return {}
    return cast("dict[str, Any]", content) if isinstance(content, dict) else {}


def _read_bounded(answer: httpx.Response) -> None:
    """An error's body is small; one that is not is cut, and then is no problem document."""
    body = b""
    for chunk in answer.iter_bytes():
        body += chunk
        if len(body) > ERROR_BODY_MAX_BYTES:
            break
    answer._content = body  # noqa: SLF001 - httpx has no public way to end a streamed read early


def _retry_after_s(answer: httpx.Response, attempt: int) -> float:
    asked = answer.headers.get("retry-after", "")
    wanted = float(asked) if asked.isascii() and asked.isdigit() else 0.25 * 2.0**attempt
    return min(wanted, RETRY_MAX_S)
