"""tkt-rag-agent: its golden questions, a large PDF, the first token, and lines of code.

    python benchmarks/rag_footprint.py

Prints a table and keeps it in results/rag-footprint.json. What it costs to start and to run is
measured by budgets.py, for all templates.
"""

import ast
import io
import json
import os
import statistics
import sys
import tempfile
import time
import tokenize
from pathlib import Path

import httpx
from rendered import ROOT, install, running, wait_for
from results import save

sys.path.insert(0, str(ROOT))
from tests.doubles.gateway import Gateway
from tests.doubles.serve import running as serving

PORT = 7961
ANSWERS = 100
PARAGRAPHS = 24_000
"""As many as make 10,000 passages or more."""


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        app = install("tkt-rag-agent", Path(scratch) / "rendered")
        figures = golden(app) | load(app) | first_token(app)
    save("rag-footprint", figures | {"app_lines": app_lines()})


def load(app: Path) -> dict[str, object]:
    """Memory after a 20 MB PDF and 100 answers of the gateway double."""
    gateway = Gateway()
    with serving(gateway.app) as url, running(app, PORT, **_model(app / "loaded", url)) as process:
        wait_for(f"{process.url}/", lambda r: "gradio" in r.text)
        pdf = big_pdf(20 * 10**6)
        _upload(process.url, {"files": ("big.pdf", pdf, "application/pdf")})
        for n in range(ANSWERS):
            _ask(process.url, f"What does clause {n} say about the tenant?")
        return {
            "loaded_mib": round(process.rss_mib()),
            "loaded_peak_mib": round(process.peak_mib()),
        }


def first_token(app: Path) -> dict[str, object]:
    """Milliseconds that the app adds to the model's first token, at 10,000 passages, medians."""
    gateway = Gateway(first_token_s=0.05)
    with serving(gateway.app) as url, running(app, PORT, **_model(app / "many", url)) as process:
        wait_for(f"{process.url}/", lambda r: "gradio" in r.text)
        text = "\n\n".join(_paragraph(n) for n in range(PARAGRAPHS))
        _upload(process.url, {"files": ("many.txt", text.encode(), "text/plain")})
        passages = sum(d["passages"] for d in httpx.get(f"{process.url}/api/documents").json())
        direct, through = [], []
        with httpx.Client(timeout=30, headers={"Authorization": "Bearer sk-double"}) as client:
            for n in range(110):
                question = f"What does clause {n * 151} of the agreement say about rent?"
                body = _body(question)
                direct.append(_first(client, f"{url}/v1/chat/completions", body, b'"content"'))
                body = {"question": question, "stream": True}
                through.append(_first(client, f"{process.url}/api/chat", body, b"event: token"))
    added = statistics.median(through[10:]) - statistics.median(direct[10:])
    return {"first_token_overhead_ms": round(added * 1000, 1), "first_token_passages": passages}


def golden(app: Path) -> dict[str, object]:
    """The app's golden questions by words alone: right among 5, and answered when it should not."""
    with running(app, PORT, DATA_DIR=app / "golden") as process:
        wait_for(f"{process.url}/", lambda r: "gradio" in r.text)
        for path in sorted((app / "sample").iterdir()):
            _upload(process.url, {"files": (path.name, path.read_bytes())})
        questions = [json.loads(line) for line in (app / "golden.jsonl").read_text().splitlines()]
        asked = [q for q in questions if q["document"]]
        nothing = [q for q in questions if not q["document"]]
        hits = [_found(process.url, q) for q in asked]
        answered = [_ask(process.url, q["question"])["answered"] for q in asked]
        invented = [_ask(process.url, q["question"])["answered"] for q in nothing]
    return {
        "golden_questions": len(asked),
        "golden_hit5": round(sum(hits) / len(hits), 3),
        "golden_answered": round(sum(answered) / len(answered), 3),
        "unanswerable_questions": len(nothing),
        "unanswerable_answered": round(sum(invented) / len(invented), 3),
    }


def app_lines() -> int:
    """Lines of the app's Python that hold code: no tests, blanks, comments or docstrings."""
    app = ROOT / "tkt-rag-agent" / "{{app_name}}"
    return sum(_code_lines(path) for path in [*app.glob("*.py"), *app.glob("agent/*.py")])


def _code_lines(path: Path) -> int:
    source = path.read_text()
    texts: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            texts |= set(range(node.lineno, (node.end_lineno or 0) + 1))
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in skipped and token.type != tokenize.ENDMARKER:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - texts)


def big_pdf(size: int) -> bytes:
    """A PDF of about `size` bytes: 400 pages of text and one incompressible picture."""
    from fpdf import FPDF
    from PIL import Image

    pdf = FPDF()
    pdf.set_font("Helvetica", size=10)
    for page in range(400):
        pdf.add_page()
        pdf.multi_cell(0, 5, "\n\n".join(_paragraph(page * 12 + n) for n in range(12)))
    side = int((size / 3) ** 0.5)
    pdf.image(Image.frombytes("RGB", (side, side), os.urandom(side * side * 3)), w=50)
    return bytes(pdf.output())


def _paragraph(n: int) -> str:
    words = [
        "rent",
        "tenant",
        "notice",
        "deposit",
        "repair",
        "term",
        "fee",
        "liability",
        "insurance",
    ]
    said = " ".join(words[(n * step) % len(words)] for step in range(1, 60))
    return f"Clause {n}. The agreement of party {n % 97} says: {said} {n * 7919 % 100003} pounds."


def _model(data: Path, gateway: str) -> dict[str, object]:
    return {
        "DATA_DIR": data,
        "LITELLM_ENDPOINT": gateway,
        "LITELLM_MASTER_KEY": "sk-double",
        "CHAT_MODEL": "double",
        "EMBEDDING_MODEL": "none",
    }


def _upload(url: str, files: dict[str, tuple[object, ...]]) -> None:
    job = httpx.post(f"{url}/api/documents", files=files, timeout=60).raise_for_status().json()
    while job["status"] == "running":
        time.sleep(0.05)
        job = httpx.get(f"{url}/api/jobs/{job['job_id']}", timeout=30).json()
    failed = [file for file in job["files"] if file["status"] == "failed"]
    if failed or job["status"] == "error":
        raise RuntimeError(f"upload failed: {job}")


def _ask(url: str, question: str) -> dict[str, object]:
    return httpx.post(f"{url}/api/chat", json={"question": question}, timeout=30).json()


def _found(url: str, question: dict[str, str]) -> bool:
    """Whether one of the first 5 passages overlaps the golden passage's words in its document."""
    body = {"query": question["question"], "k": 5}
    quote = "".join(question["quote"].split())
    hits = httpx.post(f"{url}/api/search", json=body, timeout=30).json()
    right = [h for h in hits if h["document"] == question["document"]]
    return any(_overlap("".join(h["text"].split()), quote) for h in right)


def _overlap(passage: str, quote: str) -> bool:
    """The passage holds the quote, or the half of a quote that two passages share."""
    half = len(quote) // 2
    return quote[:half] in passage or quote[half:] in passage


def _body(question: str) -> dict[str, object]:
    return {
        "model": "double",
        "stream": True,
        "messages": [{"role": "user", "content": f"[1] a.txt\nSome text.\n\n{question}"}],
    }


def _first(client: httpx.Client, url: str, body: dict[str, object], sign: bytes) -> float:
    """Seconds until `sign` arrives; the rest is read too, so that the connection is used again."""
    began = time.perf_counter()
    seen, first = b"", 0.0
    with client.stream("POST", url, json=body) as response:
        for chunk in response.iter_raw():
            seen += chunk
            if not first and sign in seen:
                first = time.perf_counter() - began
    if not first:
        raise RuntimeError(f"{url} sent no token: {seen[:300]!r}")
    return first


if __name__ == "__main__":
    main()
