"""What `make docs` adds to mkdocs: help pages of the nodes, and links that leave docs/.

In the sources every link is relative to the file, so that it works in a checkout and on GitHub. The
site has the help pages under help/; all else of the repository is linked at GitHub.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
HELP = "web/docs/"
OUTSIDE = re.compile(r"(?<=\]\()\.\./([^)\s]+)")


def on_files(files, config):
    for path in sorted((ROOT / HELP).glob("*.md")):
        files.append(File.generated(config, f"help/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    if page.file.src_uri.startswith("help/"):
        return markdown

    def target(link: re.Match) -> str:
        place = posixpath.normpath(link[1])
        if place.startswith(HELP):
            return "help/" + place.removeprefix(HELP)
        return f"{config.repo_url}/blob/main/{place}"

    return OUTSIDE.sub(target, markdown)
