"""Dates of birth, in six languages; other dates are no personal data."""

from __future__ import annotations

from residency.data.privacy.finder import shaped

_MONTH = (
    r"(?:jan(?:uary?|vier)?|ene(?:ro)?|gen(?:naio)?|feb(?:ruary?|rero|braio)?|fév(?:rier)?|mar(?:ch|s|zo)?|märz|maart|"
    r"a[pvb]r(?:ile?)?|ma[iy]o?|maggio|mei|june?|juni?o?|juin|giugno|jul[iy]?o?|juillet|luglio|aug(?:ust)?|août|"
    r"ago(?:sto)?|se[pt]t?(?:i?embre|ember)?|o[ckt]t(?:obe?re?|ubre)?|nov(?:i?embre|ember)?|"
    r"d[eéi][cz](?:i?embre|ember)?)\b\.?"
)
_DAY = rf"(?:\d{{1,2}}(?:st|nd|rd|th|er|\.|º)?[ -](?:of |de )?{_MONTH}|{_MONTH} \d{{1,2}}(?:st|nd|rd|th)?\b)"
_NUMERIC = r"\d{1,2}(?P<by>[./ -])\d{1,2}(?P=by)(?:\d{4}|\d{2})\b|\d{4}(?P<iso>[./-])\d{1,2}(?P=iso)\d{1,2}\b"
# A day without its year only after "on": "born 2 may be" is none.
_DATE = rf"{_DAY},?[ -](?:de )?\d{{4}}\b|(?:(?<=\b(?:on|is|am|le|el|il|op) )|(?<=\bthe )){_DAY}|{_NUMERIC}"
# "Born in hospital on 3 May" is a birth date, "babies born before 3 May" is none.
_BORN = r"\bborn(?: (?!before|after|since|between|until|from)[^\W\d]{1,20},?){0,5}?"
_WORD = (
    rf"{_BORN}|\bbirth[ -]?da(?:te|y)|\bdate of birth|\bd\.? ?o\.? ?b\b|\bgeboren|\bgeb\.|\bn[ée]e? le|\bnacid[oa]"
    r"|\bnato il"
)
_LINK = r"(?: ?\([^()\d]{1,20}\))?\W{0,3}(?:(?:is|was|on|the|am|op|el|le|il|:)\W{1,2}){0,3}"

BIRTH_DATE = shaped(
    "birth_date",
    r"(?i:\b(?:born|birth[ -]?da|date of birth|d\.? ?o\.? ?b\b|geboren|geb\.|n[ée]e? le|nacid|nato il))[^\n]{0,150}?\d",
    rf"(?i)(?:{_WORD}){_LINK}(?P<value>{_DATE})",
)
