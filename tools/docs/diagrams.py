"""Draws docs/diagrams/*.dot with Graphviz, each to a picture of its own in docs/pictures/.

    python tools/docs/diagrams.py                 what has changed
    python tools/docs/diagrams.py --all           everything anew
    python tools/docs/diagrams.py --check         draws nothing; says what is not drawn yet

A .dot says what there is and how it hangs together; how that looks is said here, once. A node or an
edge stands out with `class="accent"`. Each picture brings its own ground, light or dark as the
reader's system is, since it cannot know the page that it lands on.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent.parent
SOURCES, PICTURES = ROOT / "docs" / "diagrams", ROOT / "docs" / "pictures"
SVG = "http://www.w3.org/2000/svg"
MEASURED = "fontname=DejaVu Sans"
"""A wide font: the words fit, too, in the one that the reader has."""
LOOK = {
    "-G": ["bgcolor=transparent", "pad=0.3", "nodesep=0.35", "ranksep=0.5", "fontsize=14"],
    "-N": ["shape=box", "fontsize=14", "margin=0.18,0.11", "height=0.4"],
    "-E": ["fontsize=12", "arrowsize=0.7"],
}
WIDEST = 900
"""Pixels; a wider one is made small by the page, and its words too small to read."""
PLAIN = ("fill", "stroke", "font-family", "font-size", "stroke-width")
"""What Graphviz says about the looks of a part, and the style below says instead."""
STYLE = """
  svg { --ground: #fcfcfa; --box: #ffffff; --ink: #29343d; --line: #5f6e77; --rim: #cfd2d3;
    --accent: #2b5e76; --on-accent: #ffffff; font: 14px system-ui, sans-serif; }
  @media (prefers-color-scheme: dark) {
    svg { --ground: #1f282f; --box: #303d47; --ink: #fafafa; --line: #9aa5ab; --rim: #52616b;
      --accent: #70a5bc; --on-accent: #1f282f; } }
  .ground { fill: var(--ground); stroke: var(--rim); }
  text { fill: var(--ink); }
  .node :not(text) { fill: var(--box); stroke: var(--line); }
  .cluster :not(text) { fill: none; stroke: var(--rim); }
  .cluster text { font-weight: 600; }
  .edge text { font-size: 12px; paint-order: stroke; stroke: var(--ground); stroke-width: 5px; }
  .edge path { fill: none; stroke: var(--line); }
  .edge polygon { fill: var(--line); stroke: var(--line); }
  .node.accent :not(text) { fill: var(--accent); stroke: var(--accent); }
  .node.accent text { fill: var(--on-accent); }
  .edge.accent path { stroke: var(--accent); stroke-width: 2; }
  .edge.accent polygon { fill: var(--accent); stroke: var(--accent); }
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    sources = sorted(SOURCES.glob("*.dot"))
    old = sources if options.all else [source for source in sources if not is_drawn(source)]
    if options.check:
        for source in old:
            print(f"{_name(source)} has changed since it was drawn: make docs draws it.")
        return 1 if old else 0
    for source in old:
        try:
            picture(source).write_text(drawn(source))
        except (ValueError, FileNotFoundError) as error:
            print(error)
            return 1
        print(f"{_name(source)} -> {_name(picture(source))}")
    return 0


def picture(source: Path) -> Path:
    return PICTURES / f"{source.stem}.svg"


def is_drawn(source: Path) -> bool:
    """Whether its picture was made of just this text, in just these looks; needs no Graphviz."""
    there = picture(source)
    return there.exists() and _mark(source) in there.read_text()


def _mark(source: Path) -> str:
    digest = hashlib.sha256(source.read_bytes() + Path(__file__).read_bytes()).hexdigest()[:16]
    return f"Drawn from {_name(source)} by tools/docs/diagrams.py, {digest}"


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def drawn(source: Path) -> str:
    """The picture; FileNotFoundError or ValueError with a sentence on what is wrong. What does not
    fit a page from left to right is drawn from top to bottom."""
    text = source.read_text()
    across = _dressed(_dot(source, text), source)
    if _width(across) <= WIDEST:
        return across
    down = _dressed(_dot(source, re.sub(r"rankdir\s*=\s*\"?LR\"?", "rankdir=TB", text)), source)
    return min(across, down, key=_width)


def _dot(source: Path, text: str) -> str:
    if not shutil.which("dot"):
        raise FileNotFoundError("Graphviz draws the diagrams, and is missing: apt install graphviz")
    looks = [f"{kind}{what}" for kind, all_ in LOOK.items() for what in [*all_, MEASURED]]
    done = subprocess.run(["dot", "-Tsvg", *looks], input=text, text=True, capture_output=True)
    if done.returncode or not done.stdout:
        said = re.sub(r"^Error: <stdin>: ", "", [*done.stderr.splitlines(), "it holds no graph"][0])
        raise ValueError(f"{_name(source)} cannot be drawn: {said}")
    return done.stdout


def _width(svg: str) -> float:
    found = re.search(r'width="([\d.]+)"', svg)
    return float(found[1]) if found else 0


def _dressed(svg: str, source: Path) -> str:
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    root = ElementTree.fromstring(svg)
    for part in root.iter():
        for child in part.findall(f"{{{SVG}}}title"):  # they name nodes as the source does
            part.remove(child)
        for name in PLAIN:
            part.attrib.pop(name, None)
    box = root.attrib["viewBox"].split()
    root.attrib |= {"width": box[2], "height": box[3], "role": "img"}
    style = ElementTree.Element(f"{{{SVG}}}style")
    style.text = STYLE
    ground = ElementTree.Element(f"{{{SVG}}}rect", {"class": "ground"})
    ground.attrib |= {"x": "0.5", "y": "0.5"}
    ground.attrib |= {"width": str(float(box[2]) - 1), "height": str(float(box[3]) - 1)}
    root[:0] = [style, ground]
    return f"<!-- {_mark(source)} -->\n{ElementTree.tostring(root, 'unicode')}\n"


if __name__ == "__main__":
    sys.exit(main())
