"""The card of a dataset on the Hub: what a README.md says of the stores in it.

A store has a block of its own there, between two comments, which is made anew with every push; all
other words stay. What comes from a store may be a stranger's: in Markdown it stands as entities,
which are never markup, and in the metadata as one line of text, quoted by the library.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spamo_cache.errors import StoreError, printable
from spamo_cache.human import LANGUAGE_CODES
from spamo_cache.store.index import OK, STATES, Columns

if TYPE_CHECKING:
    from huggingface_hub import DatasetCard

    from spamo_cache.store.addresses import Place
    from spamo_cache.store.attributes import Attributes

_TAGS = ("sign-language", "sign-language-translation", "spamo", "spamo-cache", "zarr")
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (10**6, "100K<n<1M"))
_URL = re.compile(r"https://[A-Za-z0-9./_~-]+")
_LONGEST = 2000
_CITATION = """\
@inproceedings{hwang2025spamo,
  title     = {An Efficient Gloss-Free Sign Language Translation Using Spatial Configurations
               and Motion Dynamics with {LLMs}},
  author    = {Hwang, Eui Jun and Cho, Sukmin and Lee, Junmyeong and Park, Jong C.},
  booktitle = {Proceedings of NAACL 2025 (Volume 1: Long Papers)},
  pages     = {3901--3920},
  year      = {2025},
  doi       = {10.18653/v1/2025.naacl-long.197}
}"""


def check(text: str, where: object) -> None:
    """Raise StoreError unless the metadata of a card can be read, and so be kept."""
    _parsed(text, where)


def updated(text: str, branch: Place, about: Attributes, block: str, spoken: Sequence[str]) -> str:
    """A card with what there is of a store now.

    Args:
        text: the card as it is; empty where there is none.
        branch: the store's place in the dataset.
        about: what the store says of itself.
        block: see :func:`block`.
        spoken: see :func:`languages`.

    Raises:
        StoreError: metadata that cannot be read.
    """
    card = _parsed(text, branch)
    before = card.data.to_dict()  # type: ignore[no-untyped-call]
    wanted = _metadata(before, about, spoken)
    head = text[: len(text) - len(card.text)]
    for key, value in wanted.items():
        card.data[key] = value
    body = _with_block(card.text, branch, block)
    if wanted:
        card.text = ""
        head = card.content
    return head + body


def _parsed(text: str, where: object) -> DatasetCard:
    # Takes long, and only pushes need it.
    from huggingface_hub import DatasetCard  # noqa: PLC0415
    from yaml import YAMLError  # noqa: PLC0415

    try:
        return DatasetCard(text or "---\n{}\n---\n")
    except (ValueError, TypeError, YAMLError, RecursionError):
        raise StoreError(
            "the metadata of the dataset's card cannot be read",
            where=where,
            remedy="mend the part between the lines `---` of its README.md, then push again",
        ) from None


def languages(manifest: bytes) -> list[str]:
    """Codes of the languages that the sentences of a snapshot are in, as far as it tells."""
    import pyarrow as pa  # noqa: PLC0415 (as above)
    from pyarrow import parquet  # noqa: PLC0415

    try:
        table = parquet.read_table(pa.BufferReader(manifest), columns=["language"])
        names = table["language"].unique().to_pylist()
    except (pa.ArrowException, OSError, KeyError):
        return []
    return sorted({LANGUAGE_CODES[name] for name in names if name in LANGUAGE_CODES})


# --- metadata -------------------------------------------------------------------------------------


def _metadata(
    before: Mapping[str, Any], about: Attributes, spoken: Sequence[str]
) -> dict[str, Any]:
    """What is to be changed: lists grow, other words of the authors stay."""
    size = next((name for limit, name in _SIZES if about.clips < limit), "1M<n<10M")
    alone: dict[str, Any] = {
        "pretty_name": f"Sign-language features: {about.corpus}",
        "size_categories": [size],
        "viewer": False,
    }
    if about.terms and "license" not in before:
        alone |= {"license": "other", "license_name": "terms-of-use-of-the-corpus"}
        if link := _URL.search(about.terms):
            alone["license_link"] = link[0].rstrip(".")
    changed = {key: value for key, value in alone.items() if key not in before}
    grown = {
        "language": spoken,
        "task_categories": ["translation"],
        "tags": [*_TAGS, about.corpus.lower()],
    }
    for key, added in grown.items():
        have = before.get(key) or []
        listed = [have] if isinstance(have, str) else list(have)
        if new := [value for value in added if value not in listed]:
            changed[key] = listed + new
    return changed


# --- the block of a store -------------------------------------------------------------------------


def _with_block(text: str, branch: Place, block: str) -> str:
    """A text with a store's block made anew in its place, or added at the end."""
    begin, end = (_mark(word, branch) for word in ("begin", "end"))
    before, found, rest = text.partition(begin)
    _, ended, after = rest.partition(end)
    if found and ended:
        return f"{before}{begin}\n{block}\n{end}{after}"
    gap = "" if not text else "\n" if text.endswith("\n") else "\n\n"
    return f"{text}{gap}{begin}\n{block}\n{end}\n"


def _mark(word: str, branch: Place) -> str:
    return f"<!-- spamo-cache {word}: {branch.path} -->"


def block(branch: Place, about: Attributes, columns: Columns, splits: Sequence[str]) -> str:
    """What a card tells of a store, in Markdown.

    Args:
        branch: the store's place in the dataset.
        about: what the store says of itself.
        columns: its clip index.
        splits: names of the splits in it.
    """
    name = branch.path.rpartition("/")[2].removesuffix(".zarr")
    facts = {
        "corpus": about.corpus,
        "stream": about.stream,
        "values of a row": f"{about.width} {about.dtype}",
        "fingerprint": about.fingerprint,
        "weights": about.weights,
        "sha256 of the weights": about.weights_sha256,
        "clip list": f"sha256 {about.corpus_sha256}",
        "created": f"{about.created} by {about.created_by}",
        "terms of use": about.terms,
    }
    spec = {f"spec: {key}": json.dumps(value) for key, value in about.spec.items()}
    given = {key: value for key, value in (facts | spec).items() if value}
    return "\n\n".join(
        [
            f"## Features {_text(f'{about.corpus}/{name}')}",
            "_Written by `spamo-cache store push`, which replaces what stands between the two"
            " comments around it and nothing else._",
            _table(("", ""), given.items()),
            _table(("split", "clips", *STATES, "rows"), _counts(columns, splits)),
            _reading(branch, f"{about.corpus}/{name}"),
            f"Cite the corpus as its terms of use ask, and the method:\n\n```bibtex\n{_CITATION}"
            "\n```",
        ]
    )


def _counts(columns: Columns, splits: Sequence[str]) -> list[Sequence[object]]:
    states, split = np.asarray(columns["state"]), np.asarray(columns["split"])
    rows = np.asarray(columns["rows"])
    counts: list[Sequence[object]] = []
    for code, name in enumerate(splits):
        inside = split == code
        by_state = np.bincount(states[inside], minlength=len(STATES)).tolist()
        there = int(rows[inside & (states == OK)].sum())
        counts.append((name, int(inside.sum()), *by_state, there))
    return counts


def _reading(branch: Place, name: str) -> str:
    root = branch.path.rsplit("/", 2)[0] if branch.path.count("/") > 1 else ""
    address = str(branch._replace(path=root))
    revision = "" if branch.revision is None else f", revision={branch.revision!r}"
    return f"""\
With spamo-cache, every byte checked:

```sh
spamo-cache store pull {name} --from "{address}"
```

```python
import spamo_cache as sc

store = sc.open_store("{branch}")
rows = store.read(store.select(state="ok")[:1])[0]
```

With [Zarr](https://zarr.dev) alone:

```python
import zarr
from huggingface_hub import snapshot_download

folder = snapshot_download(
    "{branch.repo}", repo_type="dataset"{revision}, allow_patterns="{branch.path}/*"
)
group = zarr.open_group(f"{{folder}}/{branch.path}", mode="r")
index = group["clips"][group["clips"].attrs["spamo_cache"]["generation"][:16]]
ids = [bytes(name).rstrip(b"\\0").decode() for name in index["id"][:]]
clip = index["state"][:].tolist().index(1)  # 0: not extracted, 2: failed
rows = group["features"][index["row"][clip] : index["row"][clip] + index["rows"][clip]]
```"""


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [heads, ["---"] * len(heads), *([_text(str(cell)) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(text: str) -> str:
    """Any text as Markdown that shows just that, on one line."""
    line = printable(text[:_LONGEST])
    return "".join(c if c.isalnum() or c in " .,/:-" else f"&#{ord(c)};" for c in line)
