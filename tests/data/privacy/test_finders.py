from __future__ import annotations

import polars as pl
import pytest

from residency.data.privacy import KINDS, redacted
from residency.data.privacy.finders import FINDERS
from residency.data.privacy.redact import FOLD


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("Write to a.b+c@mail.example, please.", "Write to [EMAIL], please."),
        ("nurse_1@clinic.co.example", "[EMAIL]"),
        ("mailto:jürgen@bücher.example", "mailto:[EMAIL]"),
        ("a@b.example and A@B.example and c@d.example", "[EMAIL_1] and [EMAIL_1] and [EMAIL_2]"),
        ("a @ b, 5@10 and me@home", "a @ b, 5@10 and me@home"),
    ],
)
def test_e_mail_addresses(text: str, after: str) -> None:
    assert redacted(text) == after


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("https://jane:pw@host.example/x", "[URL]"),
        ("https://x.example/?user=jane&y=1", "[URL]"),
        ("https://x.example/user/jane.", "[URL]."),
        ("see www.x.example/~jane/home", "see [URL]"),
        ("linkedin.com/in/jane-doe", "[URL]"),
        ("wa.me/919876543210", "[URL]"),
        ("https://x.example/user/settings", "https://x.example/user/settings"),
        ("https://x.example/health/fever?page=2", "https://x.example/health/fever?page=2"),
        ("and/or w/o 1/2", "and/or w/o 1/2"),
    ],
)
def test_web_addresses_that_name_somebody(text: str, after: str) -> None:
    assert redacted(text) == after


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("IP 192.168.10.25 and 2001:db8::8a2e:370:7334", "IP [IP_ADDRESS_1] and [IP_ADDRESS_2]"),
        ("192.168.10.256", "192.168.10.256"),
        ("version 10.2.3.40", "version 10.2.3.40"),
        ("section 1.2.3.4", "section 1.2.3.4"),
        ("it was 10:30:45", "it was 10:30:45"),
        ("C++ std::vector::size", "C++ std::vector::size"),
    ],
)
def test_ip_addresses(text: str, after: str) -> None:
    assert redacted(text) == after


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("DE89 3704 0044 0532 0130 00 and so on", "[IBAN] and so on"),
        ("GB82 WEST 1234 5698 7654 32; gb82west12345698765432", "[IBAN]; [IBAN]"),
        ("NO93 8601 1117 947 then paid", "[IBAN] then paid"),
        ("AT61 1904 3002 3457 3201 this week", "[IBAN] this week"),
        ("DE89 3704 0044 0532 0130 01", "DE89 3704 0044 0532 0130 01"),
    ],
)
def test_bank_accounts(text: str, after: str) -> None:
    assert redacted(text) == after


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("4111 1111 1111 1111", "[CREDIT_CARD]"),
        ("378282246310005, 5555-5555-5555-4444", "[CREDIT_CARD_1], [CREDIT_CARD_2]"),
        ("4111 1111 1111 1112", "4111 1111 1111 1112"),
        ("12345678901234567890", "12345678901234567890"),
    ],
)
def test_cards(text: str, after: str) -> None:
    assert redacted(text) == after


FOUND = (
    "a@b.example, www.x.example/~jane, wa.me/919876543210, https://jane:pw@host.example/x, x.example/?tel=1",
    "192.168.10.25 2001:db8::8a2e:370:7334 version 10.2.3.40",
    "born on 3 May 1961; D.O.B. 1961-05-03; née le 3 mai 1961",
    "GB82 WEST 1234 5698 7654 32 and 4111\u20111111\u20111111\u20111111 and 378282246310005",
    "123-45-6789; AB 12 34 56 C; NHS 943 476 5919; SSN 123456789; Steuer-ID 86095742719; BSN 111222333",
    "2 55 08 14 168 025 38; 12.345.678-Z; X1234567L; RSSMRA85T10A562S; 2341 2341 2346; Aadhaar 234123412346",
    "(020)\u00a07946\u20130182; MD 20892-3655; 12345-678-90; 1,234,567; 5 000 - 10 000; 05-01-23; PMID 1",
    "ISBN 0306406152",
)


@pytest.mark.parametrize("place", range(len(FINDERS)))
def test_a_hint_holds_where_its_finder_finds_something(place: int) -> None:
    finder = FINDERS[place]
    found = [text for text in FOUND if list(finder.spans(text.translate(FOLD)))]
    assert found
    assert pl.Series(found).str.contains(finder.hint).all()


def test_hints_leave_ordinary_texts_alone() -> None:
    text = "Take 500 mg twice a day for 10 days; my pressure was 120/80 at 10:30, and/or rest. I was born early."
    assert not any(pl.Series([text]).str.contains(finder.hint)[0] for finder in FINDERS if finder.kind)


def test_each_kind_has_a_placeholder_of_its_own() -> None:
    assert (
        *("url", "email", "ip_address", "birth_date", "iban", "credit_card", "national_id", "phone"),
        "name",
    ) == KINDS
