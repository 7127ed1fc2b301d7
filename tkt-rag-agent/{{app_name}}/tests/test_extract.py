"""Every format becomes text and marks; every bad file becomes one sentence."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from datetime import datetime
from pathlib import Path
from textwrap import dedent
from typing import Any

import docx
import openpyxl
import pptx
import pytest
from docx.opc.constants import RELATIONSHIP_TYPE
from docx.opc.packuri import PackURI
from docx.opc.part import Part
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls
from pptx.util import Cm

from agent import extract as module
from agent.extract import FORMATS, Extracted, Mark, Unreadable, extract

PARAGRAPH = (
    "The Supplier shall provide the Services with reasonable skill and care and in\n"
    "accordance with good industry practice, and shall remedy at its own cost every\n"
    "failure that the Customer reports."
)
FLOWING = PARAGRAPH.replace("\n", " ")


def saved(document: Any) -> bytes:
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()


def make_pdf(*pages: str, encrypt: str = "") -> bytes:
    """A PDF with 11 pt lines 14 pt apart; `# ` starts an 18 pt line, `_ ` a line in the footer."""

    def shown(page: str) -> bytes:
        y, drawn = 776, []
        for line in dedent(page).strip("\n").split("\n"):
            y -= 14
            text = line.removeprefix("# ").removeprefix("_ ")
            for sign in "\\()":
                text = text.replace(sign, "\\" + sign)
            at, size = 30 if line.startswith("_ ") else y, 18 if line.startswith("# ") else 11
            drawn.append(f"BT /F1 {size} Tf 72 {at} Td ({text}) Tj ET")
        return "\n".join(drawn).encode("cp1252")

    count = len(pages)
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(count))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {count} >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    for n, page in enumerate(pages):
        resources = f"/Contents {5 + 2 * n} 0 R /Resources << /Font << /F1 3 0 R >> >>"
        frame = "/Type /Page /Parent 2 0 R /MediaBox [0 0 595 842]"
        stream = shown(page)
        objects.append(f"<< {frame} {resources} >>".encode())
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream))
    body, offsets = b"%PDF-1.4\n", []
    for n, content in enumerate(objects, 1):
        offsets.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (n, content)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    size = len(objects) + 1
    trailer = f"trailer\n<< /Size {size} /Root 1 0 R {encrypt} >>\nstartxref\n{len(body)}\n%%EOF\n"
    return body + b"xref\n0 %d\n0000000000 65535 f \n" % size + table + trailer.encode()


def make_docx() -> Any:
    document = docx.Document()
    document.add_heading("Lease", 0)
    document.add_paragraph("The tenant pays the rent.")
    document.add_heading("1. Deposit", 1)
    table = document.add_table(2, 2)
    for cell, text in zip(table._cells, ("Month", "Rent", "May", "900 EUR"), strict=True):
        cell.text = text
    table.cell(1, 1).add_table(1, 2).cell(0, 0).text = "indexed"
    document.add_paragraph("It is paid back.")
    return document


def make_xlsx() -> Any:
    book = openpyxl.Workbook()
    book.active.title = "Fees"
    for row in (["Fees 2026"], ["Service", "Price"], ["Setup", 100], [], ["Support", "=B3*2"]):
        book.active.append(row)
    return book


def zipped(office: bytes, **parts: bytes) -> bytes:
    """An Office file with some of its parts replaced, or added."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(office)) as old, zipfile.ZipFile(file, "w", 8) as new:
        for name in old.namelist():
            new.writestr(name, parts.pop(name, None) or old.read(name))
        for name, content in parts.items():
            new.writestr(name, content)
    return file.getvalue()


PDF, ZIP, XLSX = make_pdf("text"), saved(make_docx()), saved(make_xlsx())
XLSX_SHEET = zipfile.ZipFile(io.BytesIO(XLSX)).read("xl/worksheets/sheet1.xml").decode()
OLE2, PNG = b"\xd0\xcf\x11\xe0" * 99, b"\x89PNG\r\n"


def headings(found: Extracted) -> list[tuple[str, int | None]]:
    """Heading and page of each mark, having checked that headings stand where their marks say."""
    assert found.marks[0].start == 0
    assert list(found.marks) == sorted(found.marks, key=lambda mark: mark.start)
    seen = set()
    for mark in found.marks:
        if mark.heading and mark.heading not in seen:
            assert found.text[mark.start :].lstrip("# ").startswith(mark.heading)
            seen.add(mark.heading)
    return [(mark.heading or "", mark.page) for mark in found.marks]


def refusal(name: str, data: bytes) -> str:
    with pytest.raises(Unreadable) as caught:
        extract(name, data)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 200
    return message


# Text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_is_exactly_the_decoded_file(encoding: str) -> None:
    text = "  Größe — 12 m²\r\n\tend 🙂\n\n"
    assert extract("a.TXT", text.encode(encoding)) == Extracted(text, (Mark(0, None, None),))


def test_markdown_headings_become_marks_but_not_those_in_fenced_code() -> None:
    text = "intro\n# One #\n```sh\n# no\n~~~\n# no\n```\n#hashtag\n  ## Two C#\r\nend\n#\n"
    found = extract("a.md", text.encode())
    assert found.text == text
    assert headings(found) == [("", None), ("One", None), ("Two C#", None)]
    assert extract("a.markdown", b"# One").marks == (Mark(0, None, "One"),)


# Tables


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_rows_are_lines_that_can_be_understood_alone(delimiter: str) -> None:
    rows = ["Name", "Fee"], ["Ann\nLee", "1"], ["", ""], ["Bo", "", "x"]
    data = "\r\n".join(delimiter.join(f'"{cell}"' for cell in row) for row in rows)
    assert extract("a.csv", data.encode()).text == "Name; Fee\nName: Ann Lee; Fee: 1\nName: Bo; x"


def test_csv_of_one_column_stays_a_list() -> None:
    assert extract("a.csv", b"Anna\nBo, the\n").text == "Anna\nBo, the"


def test_characters_that_no_store_wants_are_dropped() -> None:
    assert extract("a.csv", "a\x01\xadb\ufffe\x85".encode()).text == "ab"


def test_csv_with_an_endless_cell_is_refused() -> None:
    assert "field larger" in refusal("a.csv", b'a,b\n"' + b"x" * 200_000)


def test_xlsx_has_a_mark_a_sheet_and_a_line_a_row() -> None:
    book = make_xlsx()
    dates = book.create_sheet("Dates")
    dates.append(["Due"])
    dates.append([datetime(2026, 5, 1)])
    book.create_sheet("Empty")
    found = extract("a.xlsx", saved(book))
    fees = "Fees\nFees 2026\nService; Price\nService: Setup; Price: 100\nService: Support"
    assert found.text == f"{fees}\n\nDates\nDue\n2026-05-01"
    assert headings(found) == [("Fees", None), ("Dates", None)]


def test_xlsx_is_read_to_its_end_whatever_size_it_declares() -> None:
    sheet = XLSX_SHEET.replace('ref="A1:B5"', 'ref="A1:A2"')
    assert sheet != XLSX_SHEET
    data = zipped(XLSX, **{"xl/worksheets/sheet1.xml": sheet.encode()})
    assert extract("a.xlsx", data) == extract("a.xlsx", XLSX)


# HTML


def test_html_gives_what_a_visitor_sees() -> None:
    page = """<!doctype html><html><head><title>Terms</title><style>p {}</style></head><body>
      <script>var a = "<p>no</p>"</script><noscript><p>no</p></noscript>
      <template><p>no</p></template>
      <h1>1. <b>Scope</b></h1>intro <!-- no -->text<p>One
      line&nbsp;only.<br>Next</p><p hidden><b>no</b></p>
      <ul><li>a</li><li>b</li></ul>
      <table><tr><th><p>Fee</p></th><th>Due</th></tr><tr><td></td><td>May</td></tr></table>
      <h2>2. End</h2>Bye"""
    found = extract("a.html", page.encode())
    assert found.text == dedent("""\
        Terms

        1. Scope

        intro text

        One line only.
        Next

        a
        b

        Fee | Due
        | May

        2. End

        Bye""")
    assert headings(found) == [("", None), ("1. Scope", None), ("2. End", None)]


@pytest.mark.parametrize(
    ("charset", "encoding"),
    [
        ("", "utf-8"),
        ("", "cp1252"),
        ("iso-8859-1", "utf-8"),
        ("iso-8859-1", "cp1252"),
        ("ISO-8859-15", "iso-8859-15"),
        ("nonsense", "latin-1"),
    ],
)
def test_html_is_read_as_utf_8_and_then_as_declared(charset: str, encoding: str) -> None:
    sign = "ü" if charset == "nonsense" else "€"
    page = f'<meta http-equiv="Content-Type" content="text/html; charset={charset}"><p>{sign}</p>'
    assert extract("a.htm", page.encode(encoding)).text == sign


@pytest.mark.parametrize("depth", [1_500, 100_000])
def test_html_nested_deeply_is_read_or_refused_never_cut_silently(depth: int) -> None:
    page = b"<div>" * depth + b"deep" + b"</div>" * depth
    if depth < 2_000:
        assert extract("a.html", page).text == "deep"
    else:
        assert "nests" in refusal("a.html", page)


# Office


def test_docx_is_read_in_the_order_of_the_document() -> None:
    found = extract("a.docx", saved(make_docx()))
    assert found.text == dedent("""\
        Lease

        The tenant pays the rent.

        1. Deposit

        Month | Rent
        May | 900 EUR indexed |

        It is paid back.""")
    assert headings(found) == [("Lease", None), ("1. Deposit", None)]


def test_docx_keeps_insertions_and_form_fields_and_drops_what_was_deleted() -> None:
    document = docx.Document()
    document.add_paragraph("Rent:\t")._p.append(
        parse_xml(
            f"<w:ins {nsdecls('w')}><w:r><w:t>900</w:t></w:r>"
            "<w:del><w:r><w:delText>800</w:delText></w:r></w:del></w:ins>"
        )
    )
    for part in (
        "<w:sdt {}><w:sdtContent><w:p><w:r><w:t>Tenant</w:t><w:br/><w:t>Ann</w:t></w:r></w:p>"
        "</w:sdtContent></w:sdt>",
        "<w:p {}><w:moveFrom><w:r><w:t>moved away</w:t></w:r></w:moveFrom></w:p>",
        "<w:p {}><mc:AlternateContent xmlns:mc='mc'><mc:Choice><w:r><w:t>boxed</w:t></w:r>"
        "</mc:Choice><mc:Fallback><w:r><w:t>for old Word</w:t></w:r></mc:Fallback>"
        "</mc:AlternateContent></w:p>",
    ):
        document.element.body.append(parse_xml(part.format(nsdecls("w"))))
    assert extract("a.docx", saved(document)).text == "Rent:\t900\n\nTenant\nAnn\n\nboxed"


def test_docx_footnotes_follow_the_text() -> None:
    document = docx.Document()
    document.add_paragraph("Rent")
    note = "<w:footnote><w:p><w:r><w:t>net</w:t></w:r></w:p></w:footnote>"
    notes = f"<w:footnotes {nsdecls('w')}>{note}</w:footnotes>".encode()
    part = Part(PackURI("/word/footnotes.xml"), "application/xml", notes)
    document.part.relate_to(part, RELATIONSHIP_TYPE.FOOTNOTES)
    assert extract("a.docx", saved(document)).text == "Rent\n\nnet"


def test_pptx_has_a_page_a_slide_with_tables_groups_and_notes() -> None:
    deck = pptx.Presentation()
    first = deck.slides.add_slide(deck.slide_layouts[5])
    group = first.shapes.add_group_shape()
    group.shapes.add_textbox(0, 0, Cm(5), Cm(1)).text_frame.text = "in a group"
    first.shapes.title.text = "Our\voffer"
    table = first.shapes.add_table(1, 2, 0, 0, Cm(5), Cm(1)).table
    table.cell(0, 0).text, table.cell(0, 1).text = "Fee", "100"
    first.notes_slide.notes_text_frame.text = "smile"
    second = deck.slides.add_slide(deck.slide_layouts[6])
    second.shapes.add_textbox(0, 0, Cm(5), Cm(1)).text_frame.text = "no title"
    found = extract("a.pptx", saved(deck))
    assert found.text == "Our offer\n\nin a group\n\nFee | 100\n\nNotes: smile\n\nno title"
    assert headings(found) == [("Our offer", 1), ("", 2)]


# PDF


def test_pdf_lines_flow_and_paragraphs_stay_apart() -> None:
    found = extract("a.pdf", make_pdf(f"{PARAGRAPH}\n{PARAGRAPH}\n\n(a) first;\n(b) second."))
    assert found.text == f"{FLOWING}\n\n{FLOWING}\n\n(a) first;\n\n(b) second."


def test_pdf_paragraph_may_end_in_a_full_line() -> None:
    line = "Each of these lines is as wide as the others, so that none of them ends short."
    item = line.replace("Each of these", "12.3 Every")
    found = extract("a.pdf", make_pdf(f"{line}\n{line}\n\n{line}\n{line}\n{line}\n{item}\n{line}"))
    assert found.text.replace(line, "*") == f"* *\n\n* * *\n\n{item} *"


def test_pdf_headings_are_large_or_numbered_lines() -> None:
    body = PARAGRAPH.removeprefix("The ")
    page = f"# Services Agreement\n\n12. Termination\nThe {body}\n12.1 {body}"
    found = extract("a.pdf", make_pdf(page))
    assert found.text == f"Services Agreement\n\n12. Termination\n\n{FLOWING}\n\n12.1 {FLOWING[4:]}"
    assert headings(found) == [("Services Agreement", 1), ("12. Termination", 1)]


def test_pdf_sentence_goes_on_over_the_page_and_its_footer() -> None:
    start, end = PARAGRAPH.rsplit("\n", 1)
    pages = [f"{start}\n_ Page 1 of 3", f"{end}\n_ Page 2 of 3", "End.\n_ Page 3 of 3"]
    found = extract("a.pdf", make_pdf(*pages))
    assert found.text == f"{FLOWING}\n\nEnd."
    assert [found.text[mark.start :][:7] for mark in found.marks] == [
        FLOWING[:7],
        "failure",
        "End.",
    ]
    assert headings(found) == [("", 1), ("", 2), ("", 3)]


def test_pdf_running_titles_go_and_a_last_line_in_the_margin_stays() -> None:
    pages = [f"Text {n}.\n_ {'Signed' if n == 4 else 'Lease of Mill Lane'}" for n in range(5)]
    text = extract("a.pdf", make_pdf(*pages)).text
    assert "Mill Lane" not in text
    assert "Signed" in text


def test_pdf_hyphens_at_line_ends_go_unless_they_belong_to_the_word() -> None:
    page = "A third person may ter-\nminate for a third-\nparty claim, or well-\nKnown reasons."
    found = extract("a.pdf", make_pdf(page))
    assert (
        found.text == "A third person may terminate for a third-party claim, or well-Known reasons."
    )


def test_pdf_with_a_password_is_refused() -> None:
    key = "00" * 32
    encrypt = (
        f"/Encrypt << /Filter /Standard /V 1 /R 2 /O <{key}> /U <{key}> /P -4 >> /ID [<00><00>]"
    )
    assert "password" in refusal("a.pdf", make_pdf("secret", encrypt=encrypt))


def test_pdf_without_text_asks_for_ocr() -> None:
    assert "OCR" in refusal("a.pdf", make_pdf(""))


# Bad files


@pytest.mark.parametrize("suffix", FORMATS)
def test_empty_and_blank_files_are_refused(suffix: str) -> None:
    assert "empty" in refusal("a" + suffix, b"")
    assert "empty" in refusal("a" + suffix, b" \n\t ")


def test_invalid_utf_8_is_refused_with_the_place() -> None:
    assert "byte 3" in refusal("a.txt", b"caf\xe9 is Latin-1")


@pytest.mark.parametrize("suffix", [".txt", ".md", ".csv"])
def test_binary_content_in_a_text_file_is_refused(suffix: str) -> None:
    assert "NUL" in refusal("a" + suffix, b"MZ\x00\x01binary")


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.txt", PDF, "a PDF"),
        ("a.docx", PDF, "a PDF"),
        ("a.html", ZIP, "Office or zip"),
        ("a.pdf", ZIP, "Office or zip"),
        ("a.pptx", ZIP, ".docx"),
        ("a.docx", OLE2, "password"),
        ("a.txt", OLE2, "password"),
        ("a.pdf", PNG, "something else"),
        ("a.xlsx", PNG, "something else"),
        ("a.exe", PNG, ".markdown"),
        ("a", PNG, ".markdown"),
    ],
)
def test_a_wrong_ending_is_refused_saying_what_it_looks_like(
    name: str, data: bytes, says: str
) -> None:
    assert says in refusal(name, data)


@pytest.mark.parametrize("suffix", [".docx", ".xlsx", ".pdf"])
def test_a_file_cut_off_anywhere_is_refused(suffix: str) -> None:
    whole = {".docx": ZIP, ".xlsx": XLSX, ".pdf": PDF}[suffix]
    extract("a" + suffix, whole)
    for cut in (*range(6, len(whole) - 6, len(whole) // 8), len(whole) - 6):
        refusal("a" + suffix, whole[:cut])


def test_zip_bombs_are_refused_before_they_unpack() -> None:
    assert "unpacks to 2" in refusal("a.docx", zipped(ZIP, bomb=bytes(201 << 20)))
    many = {f"part{n}": b"" for n in range(10_001)}
    assert "parts" in refusal("a.docx", zipped(ZIP, **many))


def test_a_bomb_below_the_zip_limit_meets_the_memory_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path(module.__file__).read_text(encoding="utf-8")
    small = tmp_path / "extract.py"  # 300 MiB, which is quicker to fill than 1 GiB
    small.write_text(source.replace("MEMORY_BYTES = 1 << 30", "MEMORY_BYTES = 300 << 20"), "utf-8")
    body = f"<w:document {nsdecls('w')}><w:body>{'<w:p/>' * 3_000_000}</w:body></w:document>"
    bomb = zipped(ZIP, **{"word/document.xml": body.encode()})
    monkeypatch.setattr(module, "__file__", str(small))
    assert "too large" in refusal("a.docx", bomb)


def test_xml_entities_do_not_expand() -> None:
    laughs = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))
    bomb = f'<!DOCTYPE x [<!ENTITY e0 "lol">{laughs}]>', "&e9;"
    file = '<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]>', "&f;"
    word = "{}<w:document %s><w:body><w:p><w:r><w:t>rent{}</w:t></w:r></w:p></w:body></w:document>"
    for doctype, entity in (bomb, file):
        body = (word % nsdecls("w")).format(doctype, entity).encode()
        attack = zipped(ZIP, **{"word/document.xml": body})
        if entity == "&f;":
            assert extract("a.docx", attack).text == "rent"
        else:
            refusal("a.docx", attack)
        sheet = XLSX_SHEET.replace("<v>100<", f"<v>{entity}<")
        assert sheet != XLSX_SHEET
        attack = zipped(XLSX, **{"xl/worksheets/sheet1.xml": (doctype + sheet).encode()})
        assert "root" not in refusal("a.xlsx", attack)


def test_more_text_than_anyone_reads_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CHARACTERS", 100)
    for name in ("a.txt", "a.csv"):
        assert "more than 100 characters" in refusal(name, b"word " * 21)


# The child process


def test_the_child_sees_no_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spy = tmp_path / "python"
    spy.write_text(f"""#!{sys.executable}
import json, os, sys
json.dump([json.dumps([dict(os.environ), sys.argv[1:]]), [[0, None, None]]], sys.stdout)""")
    spy.chmod(0o700)
    monkeypatch.setenv("LITELLM_MASTER_KEY", "sk-secret")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/lib")
    monkeypatch.setattr(sys, "executable", str(spy))
    environment, arguments = json.loads(extract("a.pdf", PDF).text)
    environment.pop("LC_CTYPE", None)  # Python sets it for itself
    assert environment == {"LD_LIBRARY_PATH": "/opt/lib"}
    assert arguments == ["-I", module.__file__, ".pdf"]


def test_a_child_that_takes_too_long_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT_S", 0.01)
    assert "took more than 0.01 s" in refusal("a.pdf", PDF)


def test_a_child_that_crashes_is_a_bad_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash = tmp_path / "python"
    crash.write_text("#!/bin/sh\nkill -SEGV $$\n")
    crash.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(crash))
    assert "the parser gave up" in refusal("a.pdf", PDF)


def test_importing_the_module_loads_no_parser() -> None:
    code = "import sys, agent.extract; print([m for m in sys.modules if m in sys.argv])"
    parsers = ["lxml", "docx", "pptx", "openpyxl", "pypdfium2"]
    environment = {**os.environ, "PYTHONPATH": str(Path(module.__file__).parent.parent)}
    command = [sys.executable, "-c", code, *parsers]
    loaded = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"
