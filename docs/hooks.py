"""Pages of the site that do not lie in docs/ as they are shown; mkdocs calls these functions."""

import json
import posixpath
import re
from pathlib import Path

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from typer.cli import get_docs_for_click

from spamo_cache.cli.main import app

REPOSITORY = Path(__file__).parents[1]
PAGES = {
    "index.md": "README.md",
    "cache-specs.md": "cache_specs/README.md",
    "pipelines.md": "pipelines/README.md",
    "gpu.md": "benchmarks/gpu.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
"""Page of the site -> the file of the repository that it shows."""
NOTEBOOK = ("tutorial.md", "docs/tutorial.ipynb")
COMMANDS = "<!-- the commands -->"
ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):(?=<code>)")
LINK = re.compile(r"""(?:(?<=\]\()|(?<=src=")|(?<=href="))[^()\s:#"]+""")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie elsewhere, and the notebook as a page."""
    for uri, source in PAGES.items():
        files.append(File.generated(config, uri, abs_src_path=str(REPOSITORY / source)))
    page, notebook = NOTEBOOK
    files.append(File.generated(config, page, content=notebook_as_markdown(REPOSITORY / notebook)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill in the commands; turn links within the repository into links within the site."""
    here = page.file.src_uri
    source = PAGES.get(here, f"docs/{here}")

    def within_the_site(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link[0]))
        if not (REPOSITORY / target).is_file():
            return link[0]  # mkdocs says what is wrong with it
        uri = {path: uri for uri, path in (*PAGES.items(), NOTEBOOK)}.get(target)
        if uri is None and target.startswith("docs/"):
            uri = target.removeprefix("docs/")
        elif uri is None:
            # A file that is no page is put beside the pages.
            uri = f"files/{target}"
            if files.get_file_from_path(uri) is None:
                files.append(File.generated(config, uri, abs_src_path=str(REPOSITORY / target)))
        return posixpath.relpath(uri, posixpath.dirname(here) or ".")

    return LINK.sub(within_the_site, markdown).replace(COMMANDS, commands_as_markdown())


def on_page_content(html: str, **_: object) -> str:
    """Show ``:func:`name``` of a docstring as the name: Markdown does not know such roles."""
    return ROLE.sub("", html)


def commands_as_markdown() -> str:
    """What `--help` says of every command, a heading each."""
    group = typer.main.get_group(app)
    context = typer.Context(group, info_name="spamo-cache")
    pages = (
        get_docs_for_click(obj=command, ctx=context, indent=1, call_prefix="spamo-cache")
        for name in group.list_commands(context)
        if (command := group.get_command(context, name)) is not None
    )
    # Subcommands follow at once: no list of them, in which their descriptions are cut.
    return re.sub(r"\*\*Commands\*\*:\n\n(\* .*\n)+", "", "\n".join(pages))


def notebook_as_markdown(path: Path) -> str:
    """The cells of a notebook, code between fences."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    texts = [("".join(cell["source"]), cell["cell_type"]) for cell in cells]
    return "\n\n".join(
        f"```python\n{text}\n```" if kind == "code" else text for text, kind in texts
    )
