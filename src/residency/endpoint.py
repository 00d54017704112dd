"""A model behind an OpenAI-compatible address, asked over HTTP with time limits and a bounded number of tries."""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

from residency.errors import UserError
from residency.sections import SynthesiseSection

FIRST_WAIT = 1.0  # seconds before the second try, doubled before each later one
LONGEST_WAIT = 60.0  # seconds
LARGEST_REPLY = 16 << 20  # bytes
LONGEST_REPLY = 2048  # tokens, those of a model that thinks first among them; a small one may never stop by itself
JUDGE_TIMEOUT = 120  # seconds
LONGEST_ANSWER = 900.0  # seconds that an answer may stream for
PATH = "/chat/completions"

T = TypeVar("T")


class _Busy(Exception):
    """A failure that may be over soon; `wait` is what the server asks for, in seconds."""

    def __init__(self, why: str, wait: float | None = None) -> None:
        super().__init__(why)
        self.wait = wait


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host, and lose the question."""

    def redirect_request(self, *_: Any) -> None:
        return None


class _Refused(UserError):
    """The endpoint does not take the request as it is; `why` is what it says of that."""

    def __init__(self, why: str, *message: str) -> None:
        super().__init__(*message)
        self.why = why


@dataclass(frozen=True)
class Reply:
    """A streamed answer: why it ended in the endpoint's word, its tokens where the endpoint says them.

    `first` is the seconds from the request to the first piece of text, `seconds` those to the end. An endpoint that
    does not stream, though asked to, gives all at once: then they are the same.
    """

    text: str
    tokens: int | None
    reason: str
    first: float
    seconds: float
    streamed: bool = True


@dataclass(frozen=True)
class Endpoint:
    """Where a model is asked, and how patiently. `timeout` is in seconds; `setting` names what chose it, in errors."""

    address: str
    model: str
    key: str | None = field(default=None, repr=False)
    key_env: str | None = None
    temperature: float | None = None
    timeout: float = 60
    retries: int = 4
    reply_tokens: int = LONGEST_REPLY
    setting: str = "data.synthesise"
    sleep: Callable[[float], None] = time.sleep

    @classmethod
    def of(cls, section: SynthesiseSection) -> Endpoint:
        """The endpoint of a recipe, with the key from the environment.

        Raises:
            UserError: the environment has no key, or one that can't be sent.
        """
        assert section.endpoint and section.model, "the recipe checks that both are there"
        return cls(
            section.endpoint,
            section.model,
            key(section.key_env, "data.synthesise.key_env") if section.key_env else None,
            section.key_env,
            section.temperature,
            section.timeout,
            section.retries,
        )

    @classmethod
    def judge(
        cls,
        where: str,
        key_env: str | None = None,
        temperature: float | None = 0.0,
        reply_tokens: int = LONGEST_REPLY,
    ) -> Endpoint:
        """The judge that `--judge URL#MODEL` names, with the key that the environment holds under `key_env`.

        Raises:
            UserError: it is no address with a model, or it holds a secret; the environment has no key.
        """
        address, model = addressed(where, "--judge")
        secret = key(key_env, "--key-env") if key_env else None
        return cls(
            address,
            model,
            secret,
            key_env,
            temperature,
            timeout=JUDGE_TIMEOUT,
            reply_tokens=reply_tokens,
            setting="--judge",
        )

    def ask(self, prompts: list[str], heard: Callable[[str, str], None] = lambda prompt, reply: None) -> list[str]:
        """A reply for each prompt, in order; all are asked at once. `heard` has each as it comes, also before an error.

        Raises:
            UserError: the endpoint can't be reached, refuses, stays busy, or replies in another form.
        """
        if not prompts:
            return []
        with ThreadPoolExecutor(len(prompts)) as threads:
            return list(threads.map(lambda prompt: self._reply(prompt, heard), prompts))

    def stream(self, messages: list[dict[str, str]], max_tokens: int) -> Reply:
        """The answer to a conversation, streamed so that its times are real; a broken stream is asked for again.

        Raises:
            UserError: the endpoint can't be reached, refuses, stays busy, breaks each time, or replies in another form.
        """
        body = self._body(messages, max_tokens) | {"stream": True, "stream_options": {"include_usage": True}}
        return self._understood(body, self._streamed)

    def _reply(self, prompt: str, heard: Callable[[str, str], None]) -> str:
        body = self._body([{"role": "user", "content": prompt}], self.reply_tokens)
        reply = self._understood(body, lambda asked: self._without_key(self._content(self._post(asked))))
        heard(prompt, reply)
        return reply

    def _understood(self, body: dict[str, Any], ask: Callable[[dict[str, Any]], T]) -> T:
        """What `ask` gives for the body; what a server does not know of it is left out or renamed once it says so.

        That is `stream_options`, and `max_tokens`, which OpenAI's newer models call `max_completion_tokens`.
        """
        while True:
            try:
                return self._tried(lambda: ask(body))
            except _Refused as refused:
                if "max_completion_tokens" in refused.why and "max_tokens" in body:
                    body["max_completion_tokens"] = body.pop("max_tokens")
                elif "stream_options" in refused.why and "stream_options" in body:
                    del body["stream_options"]
                else:
                    raise

    def _tried(self, ask: Callable[[], T]) -> T:
        """What `ask` gives, tried again while the endpoint is busy or the connection breaks."""
        for tried in range(self.retries + 1):
            try:
                return ask()
            except _Busy as busy:
                why, wait = str(busy), busy.wait
            if tried < self.retries:
                self.sleep(min(FIRST_WAIT * 2**tried if wait is None else wait, LONGEST_WAIT))
        raise UserError(
            f"{self._name}: no reply after {self.retries + 1} tries ({why})",
            fix="try later, or ask less at once",
        )

    def _post(self, body: dict[str, Any]) -> bytes:
        return self._sent(json.dumps(body).encode(), lambda reply: bytes(reply.read(LARGEST_REPLY)))

    def _sent(self, body: bytes, read: Callable[[http.client.HTTPResponse], T]) -> T:
        """What `read` makes of the response to a request; what goes wrong on the way is the user's error, or busy."""
        request = urllib.request.Request(self._url, body, self._headers(), method="POST")
        try:
            with urllib.request.build_opener(_NoRedirect).open(request, timeout=self.timeout) as reply:
                return read(reply)
        except urllib.error.HTTPError as error:
            with error:
                raise self._refused(error) from None
        except (TimeoutError, ConnectionResetError, http.client.HTTPException) as error:
            raise _Busy(self._broken(error)) from None
        except OSError as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, (TimeoutError, ConnectionResetError)):
                raise _Busy(self._broken(reason)) from None
            raise UserError(
                f"{self._name}: can't be reached ({reason})", "a server that listens there", "check address and network"
            ) from None

    def _streamed(self, body: dict[str, Any]) -> Reply:
        started = time.perf_counter()
        return self._sent(json.dumps(body).encode(), lambda response: self._heard(response, started))

    def _heard(self, response: http.client.HTTPResponse, started: float) -> Reply:
        """The answer in a stream of server-sent events, or in one piece where the server does not stream."""
        if "json" in (response.headers.get("Content-Type") or ""):
            return self._whole(bytes(response.read(LARGEST_REPLY)), started)
        text: list[str] = []
        tokens, reason, first, ended = None, "", None, False
        for data in self._events(response, started):
            ended = data == b"[DONE]"
            if ended:
                break
            event = self._event(data)
            delta, why = _first_choice(event)
            piece, thought = (delta.get(name) or "" for name in ("content", "reasoning_content"))
            if first is None and (piece or thought):
                first = time.perf_counter() - started
            text.append(str(piece))
            reason, tokens = why or reason, _tokens(event, tokens)
        if not (ended or reason):
            raise _Busy("the stream broke in the middle of an answer")
        seconds = time.perf_counter() - started
        return Reply(self._without_key("".join(text)), tokens, reason, seconds if first is None else first, seconds)

    def _events(self, response: http.client.HTTPResponse, started: float) -> Iterator[bytes]:
        """The data of each event; other lines of a stream are comments, names and numbers."""
        size = 0
        while line := response.readline(LARGEST_REPLY):
            size += len(line)
            if size > LARGEST_REPLY or time.perf_counter() - started > LONGEST_ANSWER:
                raise UserError(
                    f"{self._name}: an answer that does not end ({size:,} bytes so far)", "one within the limit"
                )
            if line.startswith(b"data:"):
                yield line[len(b"data:") :].strip()

    def _event(self, data: bytes) -> dict[str, Any]:
        try:
            event = json.loads(data)
        except (ValueError, RecursionError):
            event = None
        if not isinstance(event, dict):
            raise self._other_form(data, "events with choices[0].delta.content, as OpenAI's")
        if event.get("error"):
            raise _Busy(f"an error in the stream: {self._shown(str(event['error']))}")
        return event

    def _whole(self, body: bytes, started: float) -> Reply:
        text = self._without_key(self._content(body))
        event = json.loads(body)
        seconds = time.perf_counter() - started
        return Reply(text, _tokens(event, None), _first_choice(event)[1], seconds, seconds, streamed=False)

    def _broken(self, error: Exception) -> str:
        late = isinstance(error, TimeoutError)
        return f"nothing within {self.timeout:g} seconds" if late else f"the connection broke: {type(error).__name__}"

    def _refused(self, error: urllib.error.HTTPError) -> Exception:
        why = f"HTTP {error.code}: {self._message(error)}"
        if error.code == 429 or error.code >= 500:
            wait = (error.headers.get("Retry-After") or "").strip()
            return _Busy(why, float(wait) if wait.isdecimal() else None)
        if error.code in (401, 403):
            return UserError(f"{self._name}: refuses the key ({why})", fix=f"check {self.key_env or 'key_env'}")
        if error.code == 404 or error.code < 400:
            expected = f"the base address of an OpenAI-compatible API, to which {PATH} is added, and a model it has"
            return UserError(f"{self._name}: not found there ({why})", expected)
        return _Refused(why, f"{self._name}: refuses the request ({why})", f"a server and a model that take {PATH}")

    def _content(self, body: bytes) -> str:
        try:
            content = json.loads(body)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError, RecursionError):
            raise self._other_form(body, "JSON with choices[0].message.content, as OpenAI's") from None
        return content if isinstance(content, str) else ""  # null where the model refuses to answer

    def _other_form(self, body: bytes, expected: str) -> UserError:
        return UserError(
            f"{self._name}: replies in another form ({self._shown(body.decode(errors='replace'))})", expected
        )

    def _message(self, error: urllib.error.HTTPError) -> str:
        try:
            body = error.read(LARGEST_REPLY).decode(errors="replace")
        except (OSError, http.client.HTTPException):
            return str(error.reason)
        try:
            return self._shown(str(json.loads(body)["error"]["message"]))
        except (ValueError, LookupError, TypeError, RecursionError):
            return self._shown(body) or str(error.reason)

    def _shown(self, text: str) -> str:
        """A server's words, shortened, and without the key, which some repeat."""
        return " ".join(self._without_key(text).split())[:200]

    def _without_key(self, text: str) -> str:
        return text.replace(self.key, "***") if self.key else text

    def _body(self, messages: list[dict[str, str]], max_tokens: int) -> dict[str, Any]:
        body = {"model": self.model, "messages": messages, "max_tokens": max_tokens}
        return body | ({} if self.temperature is None else {"temperature": self.temperature})

    def _headers(self) -> dict[str, str]:
        plain = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "residency"}
        return plain | ({"Authorization": f"Bearer {self.key}"} if self.key else {})

    @property
    def _url(self) -> str:
        address = self.address.rstrip("/")
        return address if address.endswith(PATH) else address + PATH

    @property
    def _name(self) -> str:
        """How an error names it: by the recipe's key, or by the option of the command line that it came from."""
        option = self.setting.startswith("--")
        return f"{self.setting} {self.address}#{self.model}" if option else f"{self.setting}.endpoint {self.address}"


def _first_choice(event: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The piece of text in an event, and why the answer ends where it does; both may be empty."""
    choices = event.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    delta, reason = choice.get("delta"), choice.get("finish_reason")
    return (delta if isinstance(delta, dict) else {}), str(reason or "")


def _tokens(event: dict[str, Any], before: int | None) -> int | None:
    """How many tokens the endpoint says that it has written; what was known `before` where an event does not say."""
    usage = event.get("usage")
    count = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return count if isinstance(count, int) else before


def addressed(where: str, option: str) -> tuple[str, str]:
    """Address and name of the model that `URL#MODEL` names; `option` is what it was given to, for the error.

    Raises:
        UserError: it is no such address, or may hold a secret, which the message does not repeat.
    """
    address, _, model = where.partition("#")
    try:
        parts = urlsplit(address)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        fits = fits and bool(model.strip()) and "@" not in parts.netloc and not parts.query
    except ValueError:  # a port that is no number
        fits = False
    if not fits:
        shown = address.rpartition("@")[2].partition("?")[0]
        raise UserError(
            f"{option} {shown}: no address of a model",
            "URL#MODEL, such as https://host/v1#name, with no user name, password or query in it",
        )
    return address, model.strip()


def key(variable: str, setting: str) -> str:
    """An endpoint's key from the environment; `setting` is what names the variable, for the error.

    Raises:
        UserError: the environment has no key, or one that can't be sent.
    """
    found = os.environ.get(variable, "").strip()
    if not found:
        without = f"leave out {setting}" if setting.startswith("--") else f"set {setting}: null"
        raise UserError(
            f"{setting}: {variable} is not set in the environment",
            "the endpoint's key",
            f"export {variable}=..., or {without} for a server that needs none",
        )
    if not (found.isascii() and found.isprintable()):
        raise UserError(f"{setting}: {variable} holds characters that no key has", "ASCII letters and signs")
    return found
