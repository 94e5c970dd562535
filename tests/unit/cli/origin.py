"""A small HTTP origin on the loopback interface that answers as a test says: the far end of the command line's wire."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

TASK_ID = "tsk_" + "a" * 32
RESULT_ID = "res_" + "b" * 32


@dataclass
class Request:
    """What arrived."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes


@dataclass
class Answer:
    """What goes back. Chunks are sent as they come, and the connection closed after them."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)


Respond = Callable[[Request], Answer]


def as_json(content: Any, status: int = 200, **headers: str) -> Answer:
    """A JSON answer."""
    return Answer(status, {"Content-Type": "application/json", **headers}, [json.dumps(content).encode()])


def problem(status: int, code: str, detail: str, **more: Any) -> Answer:
    """A problem document."""
    return as_json({"status": status, "code": code, "detail": detail, **more}, status)


def stream_of(*events: tuple[str, Any]) -> Answer:
    """Server-sent events, after which the stream ends."""
    chunks = [b": listening\n\n"]
    chunks += [f"event: {name}\ndata: {json.dumps(content)}\n\n".encode() for name, content in events]
    return Answer(200, {"Content-Type": "text/event-stream"}, chunks)


class Origin:
    """Answers each (method, path) with the answers given for it in turn; the last one is repeated."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[Request] = []
        self._answers: dict[tuple[str, str], list[Answer | Respond]] = {}

    def answer(self, method: str, path: str, *answers: Answer | Respond) -> None:
        """What a request to `/api/v1<path>` gets."""
        self._answers[method, f"/api/v1{path}"] = list(answers)

    def asked(self, method: str, path: str) -> list[Request]:
        """The requests that came for it."""
        return [each for each in self.requests if (each.method, each.path) == (method, f"/api/v1{path}")]

    def respond(self, request: Request) -> Answer:
        """The answer that is next."""
        self.requests.append(request)
        answers = self._answers.get((request.method, request.path))
        if not answers:
            return problem(404, "not_found", "no such route in this test")
        following = answers.pop(0) if len(answers) > 1 else answers[0]
        return following if isinstance(following, Answer) else following(request)


@contextlib.contextmanager
def listening() -> Iterator[Origin]:
    """The origin answers until the block ends."""
    origin = Origin()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._handle()

        def do_POST(self) -> None:
            self._handle()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Nothing is logged."""

        def _handle(self) -> None:
            place = urlsplit(self.path)
            request = Request(
                self.command,
                place.path,
                parse_qs(place.query),
                {name.lower(): value for name, value in self.headers.items()},
                self._body(),
            )
            answer = origin.respond(request)
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            for chunk in answer.chunks:
                self.wfile.write(chunk)
            self.close_connection = True

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    origin.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield origin
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)


def task(state: str, **more: Any) -> dict[str, Any]:
    """A task's JSON as the scheduler shows it."""
    return {
        "task_id": TASK_ID,
        "submission_id": "sub_" + "c" * 32,
        "owner": "admin",
        "sample": {"sha256": "d" * 64, "size_bytes": 3, "name": "a.sh"},
        "state": state,
        "state_since": "2026-01-31T12:00:00+00:00",
        "why": "",
        "attempts": 1,
        "attempts_max": 3,
        "machine_id": "linux-1",
        "machine": "none",
        "report_ready_at": None,
        "ended_by": None,
        "outcome_reason": "",
        "stages": [],
        "errors": [],
        "history": [],
        **more,
    }
