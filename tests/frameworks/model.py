"""A model that does as it is told, behind the HTTP API that the frameworks speak.

It runs the command that stands between backticks in the user's last message, by calling the first tool it is offered,
and answers with what the tool returned. Both APIs are served: chat completions and responses. A test that needs more than
one call gives answers of its own.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Json = dict[str, Any]


def _text(content: Any) -> str:
    """Returns a message's text; APIs send it as one string or as parts."""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content or [])


def _arguments(schema: Json, command: str) -> str:
    """Returns the call's arguments: of a tool that takes a command, or a request with a command in it."""
    taken = {"command": command}
    return json.dumps(taken if "command" in schema["properties"] else {"request": taken})


def _command(prompt: str) -> str:
    found = re.search("`([^`]+)`", prompt)
    assert found, f"no command in {prompt!r}"
    return found[1]


def chat(request: Json) -> tuple[Json, str | None]:
    """Answers a chat completion; returns also what a tool returned."""
    last = request["messages"][-1]
    output = _text(last["content"]) if last["role"] == "tool" else None
    if output is None:
        tool = request["tools"][0]["function"]
        arguments = _arguments(tool["parameters"], _command(_text(last["content"])))
        call = {
            "id": f"call-{len(request['messages'])}",
            "type": "function",
            "function": {"name": tool["name"], "arguments": arguments},
        }
        message: Json = {"role": "assistant", "content": None, "tool_calls": [call]}
    else:
        message = {"role": "assistant", "content": f"It said: {output}"}
    choice = {
        "index": 0,
        "message": message,
        "finish_reason": "tool_calls" if output is None else "stop",
    }
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    answer = {"id": "chat-1", "object": "chat.completion", "created": 0, "model": request["model"]}
    return {**answer, "choices": [choice], "usage": usage}, output


def responses(request: Json) -> tuple[Json, str | None]:
    """Answers a request of the responses API; returns also what a tool returned."""
    asked = request["input"]
    items = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
    last = items[-1]
    item: Json
    output = None
    if last.get("type") == "function_call_output":
        output = _text(last["output"])
    if last.get("type") == "computer_call_output":
        assert last["output"]["image_url"].startswith("data:image/png;base64,")
        output = "a picture"
    tool = request["tools"][0]
    if output is None and tool["type"] == "computer":
        item = {
            "type": "computer_call",
            "id": "cu_1",
            "call_id": "call-1",
            "actions": [{"type": "click", "button": "left", "x": 9, "y": 9}],
            "pending_safety_checks": [],
            "status": "completed",
        }
    elif output is None:
        item = {
            "type": "function_call",
            "id": f"fc_{len(items)}",
            "call_id": f"call-{len(items)}",
            "name": tool["name"],
            "arguments": _arguments(tool["parameters"], _command(_text(last["content"]))),
            "status": "completed",
        }
    else:
        item = message(f"It said: {output}")
    return response(item), output


def message(text: str) -> Json:
    """Returns what the model says, as an item of an answer of the responses API."""
    part = {"type": "output_text", "text": text, "annotations": []}
    return {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "completed",
        "content": [part],
    }


def response(*items: Json, name: str = "resp_1") -> Json:
    """Returns an answer of the responses API with some items."""
    usage = {
        "input_tokens": 1,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 1,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 2,
    }
    answer = {
        "id": name,
        "object": "response",
        "created_at": 0,
        "status": "completed",
        "model": "scripted",
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
    }
    return {**answer, "output": list(items), "usage": usage}


class Busy(Exception):
    """The service cannot answer now; the client is to ask again."""


#: Takes a request; returns its answer, and what a tool has returned if one has.
Answer = Callable[[Json], tuple[Json, str | None]]


@dataclass
class Model:
    """A server on a free port of the loopback, and what tools returned to it."""

    outputs: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    answers: dict[str, Answer] = field(
        default_factory=lambda: {"/v1/chat/completions": chat, "/v1/responses": responses}
    )

    def __enter__(self) -> Model:
        model = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                try:
                    reply, output = model.answers[self.path](request)
                except Busy:
                    # The pause before the client asks again, which is to be none in a test.
                    self.send_response(503)
                    self.send_header("retry-after-ms", "1")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                except (AssertionError, KeyError, IndexError, TypeError) as failure:
                    model.failures.append(f"{self.path}: {failure!r}: {request}")
                    self.send_error(400)
                    return
                if output is not None:
                    model.outputs.append(output)
                body = json.dumps(reply).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Keeps silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        """The base URL that clients take."""
        return f"http://127.0.0.1:{self._server.server_port}/v1"
