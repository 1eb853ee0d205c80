"""Talking to a ComfyUI server with the standard library: HTTP, and as much of the websocket
protocol as listening needs.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

Prompt = dict[str, dict]  # API format: node id -> {"class_type", "inputs"}

TEXT_MESSAGE = 3  # of the binary messages: one line of text on a node
PREVIEW_MESSAGES = (1, 4)


def lists() -> dict[str, list]:
    return defaultdict(list)


@dataclass
class Run:
    """What became of one prompt."""

    prompt_id: str | None
    status: str = "refused"  # success, error, interrupted; refused: no part of it was valid
    node_errors: dict[str, dict] = field(default_factory=dict)
    """Why parts were dropped. A prompt with one valid output runs, and counts as a success."""
    cached: list[str] = field(default_factory=list)
    executed: list[str] = field(default_factory=list)
    outputs: dict[str, dict] = field(default_factory=dict)
    progress: dict[str, list[tuple[float, float]]] = field(default_factory=lists)
    """Steps done and steps in all, by node, as they were reported."""
    texts: dict[str, list[str]] = field(default_factory=lists)
    previews: int = 0
    error: str = ""
    ended_at: float = 0.0
    """Server's clock, seconds since the epoch."""

    def reasons(self) -> str:
        """Every sentence with which the server explained itself."""
        refused = [
            f"{node}: {error['message']} {error.get('details', '')}"
            for node, found in self.node_errors.items()
            for error in found["errors"]
        ]
        return "\n".join([*refused, self.error])


class Events:
    """The messages of a server's websocket: JSON ones by name, binary ones by number."""

    def __init__(self, port: int, client_id: str, timeout: float):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self.stream = self.socket.makefile("rb")
        key = base64.b64encode(os.urandom(16)).decode()
        lines = (
            f"GET /ws?clientId={client_id} HTTP/1.1",
            f"Host: 127.0.0.1:{port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}",
            "Sec-WebSocket-Version: 13",
        )
        self.socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        status = self.stream.readline()
        if b" 101 " not in status:
            raise RuntimeError(f"ComfyUI's websocket needs a 101, answered {status!r}.")
        while self.stream.readline().strip():
            pass

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *_) -> None:
        self.stream.close()
        self.socket.close()

    def __iter__(self) -> Iterator[tuple[str | int, Any]]:
        while True:
            binary, payload = self.read_message()
            if binary:
                yield int.from_bytes(payload[:4], "big"), payload[4:]
            else:
                message = json.loads(payload)
                yield message["type"], message["data"]

    def read_message(self) -> tuple[bool, bytes]:
        """One message out of its frames (RFC 6455 §5.2; a server's frames are not masked)."""
        payload, kind = b"", 0
        while True:
            first, length = self.read(2)
            if length >= 126:
                length = int.from_bytes(self.read(2 if length == 126 else 8), "big")
            data = self.read(length)
            opcode, final = first & 0xF, first & 0x80
            if opcode == 8:
                raise RuntimeError("ComfyUI closed its websocket: see the server's log.")
            if opcode > 8:  # a ping or pong; the server doesn't insist on an answer
                continue
            kind, payload = kind or opcode, payload + data
            if final:
                return kind == 2, payload

    def read(self, count: int) -> bytes:
        data = self.stream.read(count)
        if len(data) < count:
            raise RuntimeError("ComfyUI's websocket ended: see the server's log.")
        return data


class Client:
    """The routes of the server at a port of this machine."""

    def __init__(self, port: int):
        self.port = port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def fetch(self, path: str, data: Any = None) -> tuple[int, bytes]:
        """Status and body. GET, or POST of JSON when there is data."""
        body = None if data is None else json.dumps(data).encode()
        request = urllib.request.Request(
            self.url + path, data=body, headers={"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return reply.status, reply.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def json(self, path: str, data: Any = None) -> Any:
        status, body = self.fetch(path, data)
        if status != 200:
            raise RuntimeError(f"{path} needs a 200, answered {status}: {body[:500]!r}")
        return json.loads(body)

    def answers(self) -> bool:
        try:
            return self.fetch("/system_stats")[0] == 200
        except OSError:
            return False

    def download(self, file: dict) -> bytes:
        """A file as outputs name it: {"filename", "subfolder", "type"}."""
        status, body = self.fetch("/view?" + urllib.parse.urlencode(file))
        if status != 200:
            raise RuntimeError(f"/view needs to serve {file}, answered {status}.")
        return body

    def interrupt(self) -> float:
        """Asks the running prompt to stop; returns when it was asked, by this machine's clock."""
        asked = time.time()
        self.fetch("/interrupt", {})
        return asked

    def forget(self) -> None:
        """Empties the cache of results, so that the next run computes everything."""
        self.fetch("/free", {"free_memory": True})

    def run(
        self,
        prompt: Prompt,
        on_event: Callable[[str | int, Any], None] = lambda kind, data: None,
        timeout: float = 300,
    ) -> Run:
        """Submits a prompt and follows it to its end; `on_event` sees every message of it."""
        client_id = uuid.uuid4().hex
        with Events(self.port, client_id, timeout) as events:
            status, body = self.fetch("/prompt", {"prompt": prompt, "client_id": client_id})
            reply = json.loads(body)
            # Without any error this is a list, with errors a dict.
            run = Run(reply.get("prompt_id"), node_errors=dict(reply.get("node_errors") or {}))
            if status != 200:
                run.error = str(reply.get("error"))
                return run
            for kind, data in events:
                if isinstance(data, dict) and data.get("prompt_id", run.prompt_id) != run.prompt_id:
                    continue
                on_event(kind, data)
                if kind == "executing" and data["node"] is None:  # sent after all others
                    break
                note(run, kind, data)
        history = self.json(f"/history/{run.prompt_id}")[run.prompt_id]
        run.outputs = history["outputs"]
        return run


def note(run: Run, kind: str | int, data: Any) -> None:
    """Writes down what one message says about the run."""
    match kind:
        case "execution_cached":
            run.cached = data["nodes"]
        case "executing":
            run.executed.append(data["node"])
        case "progress_state":
            for name, state in data["nodes"].items():
                if state["state"] == "running":
                    run.progress[name].append((state["value"], state["max"]))
        case "execution_success" | "execution_interrupted" | "execution_error":
            run.status = kind.removeprefix("execution_")
            run.error = data.get("exception_message", "")
            run.ended_at = data["timestamp"] / 1000
        case int() if kind == TEXT_MESSAGE:
            (length,) = struct.unpack(">I", data[:4])
            run.texts[data[4 : 4 + length].decode()].append(data[4 + length :].decode())
        case int() if kind in PREVIEW_MESSAGES:
            run.previews += 1


def files(output: dict) -> list[dict]:
    """The files among a node's outputs, whatever the key they are under."""
    return [
        item
        for items in output.values()
        if isinstance(items, list)
        for item in items
        if isinstance(item, dict) and "filename" in item
    ]
