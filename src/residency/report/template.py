"""The templates of the pages, and how they write numbers."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined, Template, select_autoescape

PERSONAL = {
    "email": "e-mail addresses",
    "phone": "phone numbers",
    "url": "web addresses that name somebody",
    "national_id": "national identity numbers",
    "credit_card": "card numbers",
    "iban": "bank accounts (IBAN)",
    "ip_address": "IP addresses",
    "birth_date": "dates of birth",
    "name": "people's names",
}


def template(name: str) -> Template:
    """A template of this folder: what it is given is escaped, and what it asks for in vain is an error."""
    environment = Environment(
        loader=PackageLoader("residency.report", "."),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"thousands": lambda n: f"{n:,.0f}", "percent": lambda s: f"{100 * s:.0f}%", "clock": _clock}
    environment.filters["personal"] = lambda kind: PERSONAL.get(kind, kind.replace("_", " "))
    return environment.get_template(name)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
