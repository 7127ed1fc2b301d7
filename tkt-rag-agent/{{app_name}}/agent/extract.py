"""How a file becomes text, and marks that say on which page and under which heading a place lies.

Text and CSV are read right here. Whatever a native parser or an unpacker touches (PDF, Office,
HTML) is read in a child process: this same file run as a script, with limits on memory and time,
and without this process's environment. Knows nothing of passages, stores or models.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import json
import os
import re
import statistics
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from itertools import pairwise, zip_longest
from typing import Any, NamedTuple

FORMATS = (".pdf", ".docx", ".pptx", ".xlsx", ".csv", ".html", ".htm", ".md", ".markdown", ".txt")
TIMEOUT_S = 120.0  # 20 MB of plain PDF pages take seconds: what takes longer is stuck, or hostile
MEMORY_BYTES = 1 << 30  # what the child may map: as much as a large pod has
MAX_CHARACTERS = 20_000_000  # about 8,000 dense pages
MAX_UNPACKED_BYTES = 200 << 20  # of an Office file, which is a zip
MAX_ENTRIES = 10_000

_OFFICE = {".docx": "word", ".pptx": "ppt", ".xlsx": "xl"}  # and the folder that tells them apart
_MAGIC = {
    b"%PDF-": "a PDF",
    b"PK\x03\x04": "an Office or zip file",
    b"\xd0\xcf\x11\xe0": "an Office file that is protected by a password or older than 2007",
}
# What nobody sees: zero-width characters, direction overrides, tags; orders to a model hide there.
_UNSEEN = (
    "\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e01ef"
)
# Control characters, soft hyphens, half surrogates and non-characters: no store wants them.
_JUNK = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\ud800-\udfff\ufffe\uffff{_UNSEEN}]")


@dataclass(frozen=True)
class Mark:
    """From character `start` on, until the next mark, the text is on `page` (from 1) and under
    `heading`; None where there is none. A heading's own mark is where its line starts."""

    start: int
    page: int | None
    heading: str | None


@dataclass(frozen=True)
class Extracted:
    """The text of a file, and its marks sorted by `start`; the first is at 0."""

    text: str
    marks: tuple[Mark, ...]


class Unreadable(ValueError):
    """What is wrong with a file and what to do: a sentence to put the file's name before."""


class _Block(NamedTuple):
    text: str
    page: int | None = None
    heading: str | None = None
    glue: str = "\n\n"  # what stands between this block and the one before


def extract(name: str, data: bytes) -> Extracted:
    """The text of the file `name` whose content is `data`. Blocks, for TIMEOUT_S seconds at most.

    Raises Unreadable and nothing else, whatever `data` holds.
    """
    suffix = os.path.splitext(name)[1].lower()
    _check_kind(suffix, data)
    if suffix in (".txt", ".md", ".markdown"):
        found = _plain(_decode(data), markdown=suffix != ".txt")
    else:
        found = _assemble(_csv(_decode(data))) if suffix == ".csv" else _in_child(suffix, data)
    if not found.text.strip():
        missing = "only images: run OCR first" if suffix == ".pdf" else "nothing to read: check it"
        raise Unreadable(f"has no text, {missing}")
    return found


def _check_kind(suffix: str, data: bytes) -> None:
    if suffix not in FORMATS:
        raise Unreadable(f"is of no known format: save it as one of {', '.join(FORMATS)}")
    if not data.strip():
        raise Unreadable("is empty: check that it was saved and sent completely")
    start = max(data[:1024].find(b"%PDF-"), 0) if suffix == ".pdf" else 0  # after a banner
    kind = next((kind for magic, kind in _MAGIC.items() if data.startswith(magic, start)), None)
    office = "an Office or zip file" if suffix in _OFFICE else None
    if kind != ("a PDF" if suffix == ".pdf" else office):
        raise _misnamed(suffix, kind or "something else")


def _misnamed(suffix: str, kind: str) -> Unreadable:
    return Unreadable(f"ends in {suffix} but looks like {kind}: rename it, or save it anew")


def _check_length(characters: int) -> None:
    if characters > MAX_CHARACTERS:
        raise Unreadable(f"has more than {MAX_CHARACTERS:,} characters of text: split it")


def _assemble(blocks: Iterable[_Block]) -> Extracted:
    parts: list[str] = []
    marks: list[Mark] = []
    length = 0
    for block in blocks:
        if text := _JUNK.sub("", block.text).strip():
            glue = block.glue if parts else ""
            parts += glue, text
            length += len(glue) + len(text)
            _check_length(length)
            heading = _JUNK.sub("", block.heading or "").strip() or None
            mark = Mark(length - len(text), block.page, heading)
            if not marks or (marks[-1].page, marks[-1].heading) != (mark.page, mark.heading):
                marks.append(mark)
    return Extracted("".join(parts), tuple(marks))


# Text, Markdown and CSV: read in this process


def _decode(data: bytes) -> str:
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    encoding = "UTF-16" if utf16 else "UTF-8"
    try:
        text = data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        what = f"is not valid {encoding} from byte {error.start} on"
        raise Unreadable(f"{what}: save it as UTF-8") from None
    if "\0" in text:
        raise Unreadable("holds NUL characters, so it is no text: save it as UTF-8 text")
    return text


def _plain(text: str, *, markdown: bool) -> Extracted:
    text = re.sub(f"[{_UNSEEN}]", "", text)
    _check_length(len(text))
    marks = {0: Mark(0, None, None)}
    start, fence = 0, ""
    for line in text.splitlines(keepends=True) if markdown else ():
        if found := re.match(r" {0,3}(```+|~~~+)", line):
            closes = found[1].startswith(fence) and line.strip() == found[1]
            fence = ("" if closes else fence) if fence else found[1]
        elif not fence and (found := re.match(r" {0,3}#{1,6}[ \t]+(.*\S)", line)):
            marks[start] = Mark(start, None, re.sub(r"(^|\s+)#+$", "", found[1]) or None)
        start += len(line)
    return Extracted(text, tuple(marks.values()))


def _csv(text: str) -> Iterator[_Block]:
    first = re.sub(r'"[^"]*"', "", text.lstrip()[:10_000].partition("\n")[0])
    delimiter = max("\x1f,;\t|", key=first.count)  # the first of them if there is but one column
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        yield from (_Block(record, glue="\n") for record in _records(rows))
    except csv.Error as error:
        raise Unreadable(f"is no table to be read ({error}): save it anew as CSV") from None


def _records(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A line a row: each value with the name of its column, so that it can be understood alone.

    The header is the first row with more than one cell filled; what stands above it is a title.
    """
    header: list[str] = []
    for row in rows:
        cells = [" ".join(cell.split()) for cell in row]
        if header:
            pairs = zip_longest(header, cells, fillvalue="")
            yield "; ".join(f"{name}: {cell}" if name else cell for name, cell in pairs if cell)
        else:
            header = cells if sum(map(bool, cells)) > 1 else []
            yield "; ".join(filter(None, cells))


# The child process: our side, and its own


def _in_child(suffix: str, data: bytes) -> Extracted:
    # A parser of hostile files gets no passwords: only what Python itself may need to start.
    env = {key: os.environ[key] for key in ("LD_LIBRARY_PATH", "SYSTEMROOT") if key in os.environ}
    command = [sys.executable, "-I", __file__, suffix]
    try:
        child = subprocess.run(command, input=data, capture_output=True, env=env, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise Unreadable(f"took more than {TIMEOUT_S:g} s to read: split it") from None
    if child.returncode or not child.stdout:
        raise Unreadable("could not be read: the parser gave up on it, so split it or save it anew")
    reply = json.loads(child.stdout)
    if isinstance(reply, str):
        raise Unreadable(reply)
    return Extracted(reply[0], tuple(Mark(*mark) for mark in reply[1]))


def _child(suffix: str) -> None:
    """From the file on stdin to JSON on stdout: its text and marks, or what is wrong with it."""
    with contextlib.suppress(ImportError, OSError, ValueError):  # not on Windows, nor every Mac
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    data = sys.stdin.buffer.read()
    reply: object
    try:
        if suffix in _OFFICE:
            _check_zip(suffix, data)
        readers = {".pdf": _pdf, ".docx": _docx, ".pptx": _pptx, ".xlsx": _xlsx}
        found = _assemble(readers.get(suffix, _html)(data))
        reply = found.text, [astuple(mark) for mark in found.marks]
    except Unreadable as error:
        reply = str(error)
    except Exception as error:
        reason = type(error).__name__
        reply = f"is damaged, cut off or too large to read ({reason}): send it again, or split it"
    json.dump(reply, sys.stdout)


def _check_zip(suffix: str, data: bytes) -> None:
    archive = zipfile.ZipFile(io.BytesIO(data))
    entries = archive.infolist()
    # An entry is never unpacked to more than it declares, so the sum can be trusted.
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > MAX_UNPACKED_BYTES or len(entries) > MAX_ENTRIES:
        raise Unreadable(f"unpacks to {unpacked >> 20} MiB in {len(entries):,} parts: split it")
    folders = {entry.filename.partition("/")[0] for entry in entries}
    if _OFFICE[suffix] not in folders:
        kinds = (kind for kind, folder in _OFFICE.items() if folder in folders)
        raise _misnamed(suffix, next(kinds, "a zip file"))


# The readers, which run in the child: from the bytes of a file to its blocks


def _docx(data: bytes) -> Iterator[_Block]:
    import docx
    from docx.oxml import parse_xml

    document: Any = docx.Document(io.BytesIO(data))
    styles = {style.style_id: style.name or "" for style in document.styles}
    heading = None
    for style, text in _word_blocks(document.element.body):
        if text.strip() and styles.get(style, "").startswith(("Heading", "Title")):
            heading = text = " ".join(text.split())
        yield _Block(text, heading=heading)
    for relation in document.part.rels.values():
        if relation.reltype.endswith(("/footnotes", "/endnotes")):
            for note in parse_xml(relation.target_part.blob):
                yield from (_Block(text) for _, text in _word_blocks(note))


# What a reader sees: insertions and text boxes too, but not what was moved away, nor the second
# copy that is there for old programs.
_WORD_TEXT = (
    "(.//w:t | .//w:r/w:tab | .//w:br | .//w:cr | .//w:noBreakHyphen)"
    "[not(ancestor::*[local-name()='Fallback' or local-name()='moveFrom'])]"
)
_WORD_SIGNS = {"tab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-"}


def _word_blocks(parent: Any) -> Iterator[tuple[str, str]]:
    """The style id and the text of each paragraph; a table is one, with a line a row."""
    for child in parent.iterchildren("{*}*"):
        kind = child.tag.rpartition("}")[2]
        if kind == "p":
            texts = (
                _WORD_SIGNS.get(node.tag.rpartition("}")[2], node.text or "")
                for node in child.xpath(_WORD_TEXT)
            )
            yield "".join(child.xpath("w:pPr/w:pStyle/@w:val")), "".join(texts)
        elif kind == "tbl":
            rows = child.xpath("w:tr | w:sdt/w:sdtContent/w:tr")
            yield "", "\n".join(" | ".join(_word_cells(row)) for row in rows)
        elif kind in ("sdt", "sdtContent", "ins", "customXml"):
            yield from _word_blocks(child)


def _word_cells(row: Any) -> Iterator[str]:
    for cell in row.xpath("w:tc | w:sdt/w:sdtContent/w:tc"):
        yield " ".join(" ".join(text for _, text in _word_blocks(cell)).split())


def _pptx(data: bytes) -> Iterator[_Block]:
    import pptx

    for number, slide in enumerate(pptx.Presentation(io.BytesIO(data)).slides, 1):
        title = slide.shapes.title
        heading = " ".join(title.text_frame.text.split()) if title is not None else None
        texts = [heading or "", *_slide_texts(slide.shapes, title)]
        notes = slide.notes_slide.notes_text_frame if slide.has_notes_slide else None
        texts += [f"Notes: {notes.text}"] if notes is not None and notes.text.strip() else []
        yield from (_Block(text, number, heading or None) for text in texts)


def _slide_texts(shapes: Iterable[Any], title: Any) -> Iterator[str]:
    for shape in shapes:
        if hasattr(shape, "shapes"):
            yield from _slide_texts(shape.shapes, title)
        elif shape.has_table:
            rows = ([" ".join(cell.text.split()) for cell in row.cells] for row in shape.table.rows)
            yield "\n".join(map(" | ".join, rows))
        elif shape.has_text_frame and shape != title:
            yield shape.text_frame.text.replace("\v", "\n")


def _xlsx(data: bytes) -> Iterator[_Block]:
    sys.modules["numpy"] = None  # type: ignore[assignment]  # openpyxl can do without: 0.2 s less
    import openpyxl

    book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
    for sheet in book.worksheets:
        sheet.reset_dimensions()  # some programs declare too few, and rows would be lost
        rows = ([_cell(value) for value in row] for row in sheet.iter_rows(values_only=True))
        records = [sheet.title, *filter(None, _records(rows))]
        for n, record in enumerate(records if len(records) > 1 else ()):
            yield _Block(record, None, sheet.title, "\n" if n else "\n\n")


def _cell(value: Any) -> str:
    return "" if value is None else str(value).removesuffix(" 00:00:00")  # a date, not a midnight


_HIDDEN = re.compile("script|style|noscript|template|svg|iframe|object")
_LINE = re.compile("br|li|tr|dt|dd")
_PARAGRAPH = re.compile(
    "title|body|main|article|section|aside|nav|header|footer|address|div|p|blockquote|pre|hr|ul|ol"
    "|dl|table|caption|figure|figcaption|form|fieldset|details|summary"
)
_ROW, _CELL = "\x1d", "\x1e"  # before a row, and each cell but its first; \s matches both


def _html(data: bytes) -> Iterator[_Block]:
    from lxml import etree

    encoding: str | None = "utf-8"
    try:
        data = _decode(data).encode()
    except Unreadable:
        # The parser reads what the page declares; none or Latin-1 is Windows-1252, as in browsers.
        other = re.search(rb"(?i)charset\s*=\s*[\"']?(?!iso-8859-1\b)[\w-]", data[:4096])
        encoding = None if other else "windows-1252"
    clean = {"remove_comments": True, "remove_pis": True}
    parser = etree.HTMLParser(encoding=encoding, huge_tree=True, **clean)
    root = etree.fromstring(data, parser)
    if any(entry.type_name == "ERR_RESOURCE_LIMIT" for entry in parser.error_log):
        raise Unreadable("nests its elements too deeply: save it anew, or as text")
    return _html_blocks(etree.iterwalk(root, ("start", "end"))) if root is not None else iter(())


def _html_blocks(walk: Any) -> Iterator[_Block]:
    heading = None
    written: list[str] = []
    for event, element in walk:
        tag, starts = element.tag, event == "start"
        if re.fullmatch("h[1-6]", tag):
            text = _settle(written)
            heading = heading if starts or not text else " ".join(text.split())
            yield _Block(text if starts or not text else str(heading), heading=heading)
            written.clear()
        elif tag in ("td", "th") and starts and element.getprevious() is not None:
            written.append(_CELL)
        elif tag == "tr" and starts:
            written.append(_ROW)
        elif _PARAGRAPH.fullmatch(tag):
            written.append("\n\n")
        elif _LINE.fullmatch(tag) and not starts:
            written.append("\n")
        if starts and (_HIDDEN.fullmatch(tag) or element.get("hidden") is not None):
            walk.skip_subtree()
        else:
            written.append(re.sub(r"\s+", " ", (element.text if starts else element.tail) or ""))
    yield _Block(_settle(written), heading=heading)


def _settle(written: list[str]) -> str:
    """The pieces as text: each run of white space becomes the strongest separator in it."""

    def strongest(run: re.Match[str]) -> str:
        _, row, cells = run[0].rpartition(_ROW)
        if _CELL in cells:
            return ("\n" if row else " ") + "| " * cells.count(_CELL)
        return "\n" * min(run[0].count("\n"), 2) or " "

    return re.sub(r"\s+", strongest, "".join(written)).strip()


class _Line(NamedTuple):
    text: str
    page: int
    column: tuple[int, bool]  # its page, and whether it starts right of the middle
    top: float  # points, upwards
    bottom: float
    right: float
    size: float  # height of the font
    title: str  # if in the margin, where running titles stand: its text with # for numbers


def _pdf(data: bytes) -> Iterator[_Block]:
    if b"%%EOF" not in data[-2048:]:
        raise Unreadable("is cut off, its end is missing: send it again")
    lines = _unhyphenated(_without_running_titles(list(_pdf_lines(data))))
    usual = statistics.median_low([line.size for line in lines] or [1.0])
    heading = None
    for paragraph in _paragraphs(lines):
        text = " ".join(line.text for line in paragraph)
        large = paragraph[0].size > usual * 1.08
        if len(text) < 120 and text[-1] not in ".,;:" and (large or _HEADING.match(text)):
            heading = text
        for n, line in enumerate(paragraph):
            yield _Block(line.text, line.page, heading, " " if n else "\n\n")


def _pdf_lines(data: bytes) -> Iterator[_Line]:
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        if error.err_code in (pypdfium2.raw.FPDF_ERR_PASSWORD, pypdfium2.raw.FPDF_ERR_SECURITY):
            raise Unreadable("is protected by a password: save it without one") from None
        raise
    for number, page in enumerate(document, 1):
        yield from _page_lines(page, number)
        page.close()


def _page_lines(page: Any, number: int) -> Iterator[_Line]:
    from pypdfium2.raw import FPDFText_GetCharIndexFromTextIndex as char_index

    width, height = page.get_size()
    content = page.get_textpage()
    for found in re.finditer(r"\S(?:[^\r\n]*\S)?", content.get_text_range()):
        ends = (max(char_index(content, at), 0) for at in (found.start(), found.end() - 1))
        boxes = (content.get_charbox(at, loose=True) for at in ends)
        (left, base, _, top), (_, bottom, right, _) = boxes
        in_margin = bottom > height * 0.92 or top < height * 0.08
        numbered = in_margin and re.search(rf"\b{number}\b", found[0])
        title = re.sub(r"\d+", "#", found[0]) if numbered else found[0] if in_margin else ""
        column = (number, left > width * 0.45)
        yield _Line(found[0], number, column, top, bottom, right, top - base, title)


def _without_running_titles(lines: list[_Line]) -> list[_Line]:
    """Without page numbers, and what stands in the margins of three pages and half of all."""
    often = Counter(line.title for line in lines)
    enough = max(3, lines[-1].page / 2) if lines else 0
    number = re.compile(r"\W*(page )?[\d#]+( ?(of|/) ?[\d#]+)?\W*|\W+", re.IGNORECASE)
    return [
        line
        for line in lines
        if not line.title or (often[line.title] < enough and not number.fullmatch(line.title))
    ]


def _unhyphenated(lines: list[_Line]) -> list[_Line]:
    """pdfium writes U+FFFE for a hyphen at a line's end, and goes on. The hyphen stays if what
    stands before it is a word elsewhere (third-party), unless the whole is one (termination)."""
    broken = re.compile(r"(\w+)\ufffe(\w+)")
    known = {word for line in lines for word in re.findall(r"\w+", broken.sub(" ", line.text))}

    def join(found: re.Match[str]) -> str:
        left, right = found.groups()
        whole = left + right in known or (left not in known and right.islower())
        return left + right if whole else f"{left}-{right}"

    return [line._replace(text=broken.sub(join, line.text)) for line in lines]


def _paragraphs(lines: list[_Line]) -> Iterator[list[_Line]]:
    edges: dict[tuple[int, bool], float] = {}
    for line in lines:
        edges[line.column] = max(edges.get(line.column, 0.0), line.right)
    gaps = sorted(a.bottom - b.top for a, b in pairwise(lines) if a.page == b.page)
    usual = gaps[len(gaps) // 4] if gaps else 0.0  # not the median: paragraphs may be short
    paragraph = lines[:1]
    for above, line in pairwise(lines):
        if _starts_paragraph(above, line, edges[above.column], usual):
            yield paragraph
            paragraph = []
        paragraph.append(line)
    if paragraph:
        yield paragraph


_ITEM = re.compile(r"[•◦▪●○■]\s|\(?([a-zA-Z]|[ivx]{1,5}|\d{1,3})\)\s|\d{1,3}\.[\d.]*\s+[^a-z\s]")
_HEADING = re.compile(
    r"[A-ZÀ-Þ][^a-zß-ÿ\d]{3,}$|\d{1,3}\.[\d.]*\s+[A-ZÀ-Þ]"
    r"|(?i:article|section|schedule|part|clause|annex|appendix|exhibit|chapter)\s[\dIVX]+\b"
)


def _starts_paragraph(above: _Line, line: _Line, edge: float, usual_gap: float) -> bool:
    if abs(line.size - above.size) > above.size * 0.05 or _ITEM.match(line.text):
        return True
    word = len(line.text.split(maxsplit=1)[0]) * line.size / 2
    if edge - above.right > word + line.size:  # it would have fitted there: the break was meant
        return True
    if line.page != above.page or line.top > above.top:  # next page or column
        return above.text[-1] in ".:;!?"
    return above.bottom - line.top > usual_gap + line.size * 0.3


if __name__ == "__main__":
    _child(sys.argv[1])
