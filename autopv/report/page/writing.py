"""Writes a run's page."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from autopv import __version__
from autopv.errors import InputError, StorageError
from autopv.report.page.facts import read_facts
from autopv.report.page.images import draw_pictures
from autopv.report.page.sections import SECTIONS
from autopv.report.page.verdict import headline
from autopv.report.page.words import data_words, date_words
from autopv.search.run_folder import RunFolder

FILE_NAME = "report.html"
_SUFFIXES = (".html", ".htm")
# Stands at the top of every page, by which an earlier one is known again.
_GENERATOR = "autopv report"
_MARK = f'<meta name="generator" content="{_GENERATOR}">'
_MARK_WITHIN_BYTES = 500


@dataclass(frozen=True, kw_only=True)
class _Rendered:
    slug: str
    title: str
    body: Markup


def write_page(folder: RunFolder, *, out: Path | None = None) -> Path:
    """Writes the page of a run in whatever state it is, and returns where: `out`, or RUN/report.html.

    Nothing else in the run folder is touched, and nothing but an earlier page is overwritten.

    Raises:
        InputError: `out` cannot be written, or holds something else.
        RunFolderError: a damaged run folder.
    """
    path = out or folder.path / FILE_NAME
    _check_out(path)
    page = _render(folder)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(page, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StorageError(f"--out {path} could not be written: {error.strerror}.") from error
    return path


def _render(folder: RunFolder) -> str:
    facts = read_facts(folder)
    pictures = draw_pictures(folder, facts)
    environment = Environment(
        loader=PackageLoader("autopv.report.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    rendered = []
    for section in SECTIONS:
        values: dict[str, Any] | None = section.values(facts, pictures)
        if values is not None:
            template = environment.get_template(f"{section.slug}.html")
            rendered.append(_Rendered(slug=section.slug, title=section.title, body=Markup(template.render(**values))))
    return environment.get_template("page.html").render(
        generator=_GENERATOR,
        headline=headline(facts),
        facts=facts,
        data=data_words(facts.settings.data),
        sections=rendered,
        written=date_words(time.time()),
        version=__version__,
    )


def _check_out(path: Path) -> None:
    if path.suffix.lower() not in _SUFFIXES:
        raise InputError(f"--out {path}: the page is a file that ends in {' or '.join(_SUFFIXES)}.")
    if path.is_dir():
        raise InputError(f"--out {path} is a folder; name a file in it.")
    if path.exists():
        with path.open("rb") as file:
            start = file.read(_MARK_WITHIN_BYTES)
        if _MARK.encode() not in start:
            raise InputError(
                f"--out {path} exists and is no page of autopv; nothing else is overwritten: choose another name."
            )
