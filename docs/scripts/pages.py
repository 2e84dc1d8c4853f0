"""Pages made when the site is built: from files beside docs/, the notebook and the commands' parsers."""

from __future__ import annotations

import base64
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))  # mkdocs loads hooks by their paths

from commands import command_reference

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
"""Files beside docs/ that are pages of the site."""

_LINK = re.compile(r"(\]\()([^)#:\s]+)((?:#[\w.-]+)?\))")
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages, and files beside docs/ that any page links to."""
    texts = {source: (ROOT / source).read_text(encoding="utf-8") for source in PAGES}
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=_relinked(texts[source], ROOT, page)))
    for notebook in DOCS.glob("*.ipynb"):
        page, pictures = _as_page(notebook)
        name = f"{notebook.stem}.md"
        download = f"\n\n[This page as a notebook]({notebook.name}){{ download }}\n"
        files.append(File.generated(config, name, content=_relinked(page, DOCS, name) + download))
        for picture, content in pictures.items():
            files.append(File.generated(config, picture, content=content))
    texts |= {f"docs/{path.name}": path.read_text(encoding="utf-8") for path in DOCS.glob("*.md")}
    for source, text in texts.items():
        for match in _LINK.finditer(_FENCE.sub("", text)):
            path = _path((ROOT / source).parent, match[2])
            if path.is_file() and DOCS not in path.parents and _address(path) not in {file.src_uri for file in files}:
                files.append(File.generated(config, _address(path), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links that leave docs/ to the site's pages; fill the command line's reference."""
    name = page.file.src_uri
    if name == "reference/commands.md":
        return f"{markdown}\n{command_reference()}"
    return markdown if page.file.generated_by else _relinked(markdown, (DOCS / name).parent, name)


def _relinked(markdown: str, folder: Path, page: str) -> str:
    """The text of a file in a folder, its links as they are from a page of the site, and its commands in colours."""

    def relink(match: re.Match[str]) -> str:
        path = _path(folder, match[2])
        if not path.exists():
            return match[0]  # the build reports it
        return match[1] + os.path.relpath(_address(path), Path(page).parent) + match[3]

    return _LINK.sub(relink, markdown).replace("```console\n", "```bash\n")


def _path(folder: Path, link: str) -> Path:
    return Path(os.path.normpath(folder / link))


def _address(path: Path) -> str:
    """Where the site has a file of the repository."""
    if path.parent == ROOT and path.name in PAGES:
        return PAGES[path.name]
    if DOCS in path.parents:
        return path.relative_to(DOCS).with_suffix(".md" if path.suffix == ".ipynb" else path.suffix).as_posix()
    return path.relative_to(ROOT).as_posix()


def _as_page(notebook: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, and its pictures by their addresses."""
    parts, pictures = [], dict[str, bytes]()
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
        for output in cell.get("outputs", ()):
            shown = output.get("data", {})
            if "image/png" in shown:
                name = f"images/{notebook.stem}-{len(pictures)}.png"
                pictures[name] = base64.b64decode(shown["image/png"])
                parts.append(f"![Output of the code above]({name})")
            elif lines := "".join(output.get("text", shown.get("text/plain", ()))).rstrip():
                parts.append(f"```text\n{lines}\n```")
    return "\n\n".join(parts), pictures
