"""A model behind an OpenAI-compatible address, asked over HTTP with time limits and a bounded number of tries."""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from residency.errors import UserError
from residency.sections import SynthesiseSection

FIRST_WAIT = 1.0  # seconds before the second try, doubled before each later one
LONGEST_WAIT = 60.0  # seconds
LARGEST_REPLY = 16 << 20  # bytes
PATH = "/chat/completions"


class _Busy(Exception):
    """A failure that may be over soon; `wait` is what the server asks for, in seconds."""

    def __init__(self, why: str, wait: float | None = None) -> None:
        super().__init__(why)
        self.wait = wait


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host, and lose the question."""

    def redirect_request(self, *_: Any) -> None:
        return None


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

    def ask(self, prompts: list[str], heard: Callable[[str, str], None] = lambda prompt, reply: None) -> list[str]:
        """A reply for each prompt, in order; all are asked at once. `heard` has each as it comes, also before an error.

        Raises:
            UserError: the endpoint can't be reached, refuses, stays busy, or replies in another form.
        """
        if not prompts:
            return []
        with ThreadPoolExecutor(len(prompts)) as threads:
            return list(threads.map(lambda prompt: self._reply(prompt, heard), prompts))

    def _reply(self, prompt: str, heard: Callable[[str, str], None]) -> str:
        for tried in range(self.retries + 1):
            try:
                reply = self._content(self._post(prompt))
                heard(prompt, reply)
                return reply
            except _Busy as busy:
                why, wait = str(busy), busy.wait
            if tried < self.retries:
                self.sleep(min(FIRST_WAIT * 2**tried if wait is None else wait, LONGEST_WAIT))
        raise UserError(
            f"{self._name}: no reply after {self.retries + 1} tries ({why})",
            fix="try later, or ask less at once",
        )

    def _post(self, prompt: str) -> bytes:
        request = urllib.request.Request(self._url, self._body(prompt), self._headers(), method="POST")
        try:
            with urllib.request.build_opener(_NoRedirect).open(request, timeout=self.timeout) as reply:
                return bytes(reply.read(LARGEST_REPLY))
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
        return UserError(f"{self._name}: refuses the request ({why})", f"a server and a model that take {PATH}")

    def _content(self, body: bytes) -> str:
        try:
            content = json.loads(body)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError, RecursionError):
            shown = self._shown(body.decode(errors="replace"))
            raise UserError(
                f"{self._name}: replies in another form ({shown})", "JSON with choices[0].message.content, as OpenAI's"
            ) from None
        return content if isinstance(content, str) else ""  # null where the model refuses to answer

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
        return " ".join((text.replace(self.key, "***") if self.key else text).split())[:200]

    def _body(self, prompt: str) -> bytes:
        body: dict[str, Any] = {"model": self.model, "messages": [{"role": "user", "content": prompt}]}
        return json.dumps(body | ({} if self.temperature is None else {"temperature": self.temperature})).encode()

    def _headers(self) -> dict[str, str]:
        plain = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "residency"}
        return plain | ({"Authorization": f"Bearer {self.key}"} if self.key else {})

    @property
    def _url(self) -> str:
        address = self.address.rstrip("/")
        return address if address.endswith(PATH) else address + PATH

    @property
    def _name(self) -> str:
        return f"{self.setting}.endpoint {self.address}"


def key(variable: str, setting: str) -> str:
    """An endpoint's key from the environment; `setting` is what names the variable, for the error.

    Raises:
        UserError: the environment has no key, or one that can't be sent.
    """
    found = os.environ.get(variable, "").strip()
    if not found:
        raise UserError(
            f"{setting}: {variable} is not set in the environment",
            "the endpoint's key",
            f"export {variable}=..., or set {setting}: null for a server that needs none",
        )
    if not (found.isascii() and found.isprintable()):
        raise UserError(f"{setting}: {variable} holds characters that no key has", "ASCII letters and signs")
    return found
