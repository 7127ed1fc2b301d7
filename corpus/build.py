"""Builds the sample documents of tkt-rag-agent from the Markdown beside this file.

    python corpus/build.py

Gives the same bytes every time. Ends with 1, and says why, when a golden quote does not stand
exactly once in its document.
"""

import json
import re
import sys
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import markdown
from docx import Document
from fpdf import FPDF

HERE = Path(__file__).resolve().parent
APP = HERE.parent / "tkt-rag-agent" / "{{app_name}}"
FORMATS = {
    "consulting-nda-orchard": ".md",
    "employment-contract-halden": ".docx",
    "employment-contract-marlowe": ".docx",
    "loan-agreement-northgate": ".pdf",
    "mutual-nda-kestrel-vantage": ".pdf",
    "privacy-policy-lumen-health": ".html",
    "retail-lease-mill-lane": ".docx",
    "services-agreement-brightwater": ".pdf",
    "software-licence-cobalt": ".md",
    "software-licence-orrery": ".html",
    "terms-of-service-parcelwise": ".html",
    "warehouse-lease-tannery-row": ".pdf",
}
MADE = datetime(2026, 11, 23, tzinfo=UTC)
"""Stands in the files instead of the time of building, so that they stay the same."""


def main() -> int:
    sample = APP / "sample"
    sample.mkdir(parents=True, exist_ok=True)
    for old in sample.iterdir():
        old.unlink()
    texts = {}
    for source in sorted(HERE.glob("*.md")):
        if source.stem in FORMATS:
            built = sample / (source.stem + FORMATS[source.stem])
            built.write_bytes(BUILDERS[built.suffix](source.read_text()))
            texts[built.name] = " ".join(source.read_text().split())
    questions = [
        json.loads(line)
        for path in sorted(HERE.glob("golden-*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    wrong = [trouble for question in questions for trouble in _troubles(question, texts)]
    print("\n".join(wrong), end="\n" if wrong else "")
    questions.sort(key=lambda q: (q["document"] is None, q["document"] or ""))
    lines = [json.dumps(question, ensure_ascii=False) + "\n" for question in questions]
    (APP / "golden.jsonl").write_text("".join(lines))
    print(f"{len(texts)} documents, {len(questions)} questions, {len(wrong)} of them wrong")
    return 1 if wrong else 0


def _troubles(question: dict[str, str], texts: dict[str, str]) -> Iterator[str]:
    if question["document"] is None:
        return
    text = texts.get(question["document"])
    if text is None:
        yield f"no such document: {question['document']}"
    elif (found := text.count(" ".join(question["quote"].split()))) != 1:
        yield f"{found} times in {question['document']}: {question['quote'][:80]}"


def blocks(source: str) -> Iterator[tuple[str, object]]:
    """`("h1", text)`, `("h2", text)`, `("p", text)` or `("table", rows)`, in reading order."""
    for block in re.split(r"\n\s*\n", source.strip()):
        lines = block.splitlines()
        if lines[0].startswith("|"):
            rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines]
            yield "table", [row for row in rows if not set("".join(row)) <= set("-: ")]
            continue
        for line in lines:
            if heading := re.match(r"(#{1,6})\s+(.*)", line):
                yield f"h{min(len(heading[1]), 3)}", heading[2]
            elif line.strip():
                yield "p", line.strip()


def pdf(source: str) -> bytes:
    document = _Paged(format="A4")
    document.set_creation_date(MADE)
    document.set_margins(25, 22, 25)
    document.set_auto_page_break(True, 22)
    document.add_page()
    for kind, content in blocks(source):
        if kind == "table":
            document.set_font("Helvetica", size=9)
            with document.table(content, text_align="LEFT"):  # type: ignore[arg-type]
                pass
            document.ln(3)
            continue
        size = {"h1": 18, "h2": 13, "h3": 11}.get(kind, 10.5)
        document.set_font("Helvetica", style="B" if kind != "p" else "", size=size)
        if kind != "p" and document.will_page_break(24):  # a heading stays with its clause
            document.add_page()
        document.multi_cell(0, size * 0.5, str(content), align="L", new_x="LMARGIN", new_y="NEXT")
        document.ln(2.5)
    return bytes(document.output())


class _Paged(FPDF):
    def footer(self) -> None:
        self.set_y(-15)
        self.set_font("Helvetica", size=8)
        self.cell(0, 8, f"Page {self.page_no()}", align="C")


def docx(source: str) -> bytes:
    document = Document()
    properties = document.core_properties
    properties.author, properties.created, properties.modified = "", MADE, MADE
    for kind, content in blocks(source):
        if kind == "table":
            rows: list[list[str]] = content  # type: ignore[assignment]
            table = document.add_table(0, len(rows[0]), style="Table Grid")
            for row in rows:
                for cell, text in zip(table.add_row().cells, row, strict=True):
                    cell.text = text
        elif kind == "p":
            document.add_paragraph(str(content))
        else:
            document.add_heading(str(content), int(kind[1]) - 1)
    written = BytesIO()
    document.save(written)
    return _undated(written.getvalue())


def _undated(archive: bytes) -> bytes:
    """The same zip with one fixed time on each entry."""
    undated = BytesIO()
    with zipfile.ZipFile(BytesIO(archive)) as old, zipfile.ZipFile(undated, "w") as new:
        for name in old.namelist():
            entry = zipfile.ZipInfo(name, MADE.timetuple()[:6])
            new.writestr(entry, old.read(name), zipfile.ZIP_DEFLATED)
    return undated.getvalue()


def html(source: str) -> bytes:
    title = next(str(content) for kind, content in blocks(source) if kind == "h1")
    body = markdown.markdown(source, extensions=["tables"])
    page = f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{title}</title>'
    return f"{page}</head>\n<body>\n{body}\n</body>\n</html>\n".encode()


BUILDERS = {".pdf": pdf, ".docx": docx, ".html": html, ".md": str.encode}

if __name__ == "__main__":
    sys.exit(main())
