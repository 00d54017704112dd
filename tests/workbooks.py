"""Excel workbooks, written by hand so that no library is needed for the tests."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import escape

_OPEN = "http://schemas.openxmlformats.org"
_SHEETS = f'xmlns="{_OPEN}/spreadsheetml/2006/main" xmlns:r="{_OPEN}/officeDocument/2006/relationships"'
_WORKBOOK = f"{_OPEN}/officeDocument/2006/relationships"
_PARTS = f"{_OPEN}/package/2006/relationships"


def workbook(sheets: dict[str, Sequence[Sequence[Any]]]) -> bytes:
    """An Excel workbook of text and numbers."""
    numbered = list(enumerate(sheets, start=1))
    book = "".join(f'<sheet name="{name}" sheetId="{n}" r:id="rId{n}"/>' for n, name in numbered)
    links = "".join(
        f'<Relationship Id="rId{n}" Type="{_WORKBOOK}/worksheet" Target="worksheets/sheet{n}.xml"/>'
        for n, _ in numbered
    )
    files = {
        "[Content_Types].xml": f'<Types xmlns="{_OPEN}/package/2006/content-types">'
        '<Default Extension="xml" ContentType="application/xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{_PARTS}"><Relationship Id="rId1" Type="{_WORKBOOK}/officeDocument" '
        'Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f"<workbook {_SHEETS}><sheets>{book}</sheets></workbook>",
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{_PARTS}">{links}</Relationships>',
    }
    for (n, _), rows in zip(numbered, sheets.values(), strict=True):
        lines = "".join(f"<row>{''.join(map(_cell, row))}</row>" for row in rows)
        files[f"xl/worksheets/sheet{n}.xml"] = f"<worksheet {_SHEETS}><sheetData>{lines}</sheetData></worksheet>"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, text in files.items():
            packed.writestr(name, text)
    return buffer.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return "<c/>"
    if isinstance(value, str):
        return f'<c t="inlineStr"><is><t xml:space="preserve">{escape(value)}</t></is></c>'
    return f"<c><v>{value}</v></c>"
