"""A hook of MkDocs that adapts the pages to the site, while their links still work on GitHub.

Some pages of the site are files outside docs/. Links between the files of the repository become links between pages.
They become links to the repository if the site has no page for the target.
"""

from __future__ import annotations

import logging
import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

LOG = logging.getLogger("mkdocs.hooks.site")
TOP = Path(__file__).parents[1]
OUTSIDE = {
    "benchmarks/README.md": "benchmarks.md",
    "CHANGELOG.md": "changelog.md",
    "CODE_OF_CONDUCT.md": "conduct.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "reporting.md",
    "systemd/README.md": "service.md",
}
SOURCES = {page: source for source, page in OUTSIDE.items()}
FENCE = re.compile(r"(^ *```.*?^ *```$)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<=\]\()(?![a-z]+:)([^)#\s]+)")
TIGHT_LIST = re.compile(r"^[^\s\-*#|\d<].*\n(?:[-*]|1\.) .*", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    for source, page in OUTSIDE.items():
        file = File.generated(config, page, content=(TOP / source).read_text(encoding="utf-8"))
        file.edit_uri = f"../{source}"
        files.append(file)
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite the links outside code blocks. Warn of links to missing files, and of lists that MkDocs reads as text."""
    source = SOURCES.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def link(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1]))
        if not (TOP / path).exists():
            LOG.warning("%s: no file %s", source, match[1])
        target = OUTSIDE.get(path, path.removeprefix("docs/"))
        return target if files.get_file_from_path(target) else f"{config.repo_url}/blob/main/{path}"

    parts = FENCE.split(markdown)
    for text in parts[::2]:
        for found in TIGHT_LIST.findall(text):
            LOG.warning("%s: a list needs an empty line before it: %s", source, found)
    parts[::2] = [LINK.sub(link, text) for text in parts[::2]]
    return "".join(parts)
