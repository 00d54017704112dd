"""How a server listens, and what it holds its clients to."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from residency.errors import UserError, listed, nearest

ENGINES = ("own", "vllm")
LOCAL = ("localhost", "127.0.0.1", "[::1]")  # names under which a browser may reach a server that listens at home
SHORTEST_TOKEN = 16  # characters


@dataclass(frozen=True)
class Settings:
    """Sizes in bytes, times in seconds; `engine` is what the models answer by.

    `token` is what a client has to send; a server that listens wider than on this machine needs one. `hosts` are the
    names in the Host header that are answered, besides those of this machine.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    token: str | None = field(default=None, repr=False)
    hosts: tuple[str, ...] = ()
    rows: int = 16  # answers that run side by side, a model
    queue: int = 64  # answers that wait, a model
    connections: int = 512  # that are open at once; a request on one more gets 503
    body_bytes: int = 1 << 20
    body_seconds: float = 30.0  # that a body may take to come
    seconds: float = 300.0  # that an answer may take, waiting included
    drain: float = 30.0  # that running answers get when the server is told to stop
    engine: str = "own"  # one of ENGINES

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise UserError(f"--engine {self.engine}: unknown", listed(ENGINES), nearest(self.engine, ENGINES))
        if self.token is not None and not (self.token.isascii() and self.token.isprintable()):
            raise UserError("the token holds characters that no header can carry", "ASCII letters, digits and signs")
        if self.token is not None and len(self.token) < SHORTEST_TOKEN:
            raise UserError(
                f"the token has {len(self.token)} characters",
                f"at least {SHORTEST_TOKEN}",
                "`openssl rand -hex 32` makes one",
            )
        if not self.home and self.token is None:
            raise UserError(
                f"--host {self.host}: others than this machine could ask, and no token is set",
                "a token, or --host 127.0.0.1",
                "export RESIDENCY_TOKEN=$(openssl rand -hex 32) and add --token-env RESIDENCY_TOKEN",
            )

    @property
    def home(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:  # a name, which may be anybody's
            return False

    @property
    def answered(self) -> list[str]:
        """Host names that are answered: a page on the web that makes its own name mean this machine has another.

        A server for others has names that it can't know; there the token keeps strangers out, and `hosts` may say more.
        """
        if not self.home and not self.hosts:
            return ["*"]
        own = f"[{self.host.strip('[]')}]" if ":" in self.host else self.host
        return sorted({*LOCAL, *self.hosts, own})
