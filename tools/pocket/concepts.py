"""A concept: something that images show, with the phrases that are true of it. Sources share concepts by name."""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Concept:
    """What one thing is called, what kinds of thing it is, and what else is true of it."""

    names: tuple[str, ...]  # the first is the one that evaluation asks for
    kinds: tuple[str, ...]  # the first is the class that the images are sorted into; may be empty
    tags: tuple[str, ...]
    coloured: bool = False  # its colour tells it from another concept
    flippable: bool = True  # the mirrored image still shows the same

    @property
    def phrases(self) -> tuple[str, ...]:
        """Everything that is true of it."""
        return (*self.names, *self.kinds, *self.tags)


def plain(text: str) -> str:
    """One phrase in lower-case words: `face_with_tongue` -> `face with tongue`."""
    text = unicodedata.normalize("NFKC", text).lower().replace("“", "").replace("”", "").replace("’", "'")
    return re.sub(r"[\s_:,-]+", " ", text).strip()


def key(name: str) -> str:
    """What is left of a name when packages disagree about accents, hyphens and `flag for`."""
    letters = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub("[^a-z0-9]", "", letters.replace("flag-for-", "flag-of-"))


def unique(*groups: Iterable[str]) -> list[tuple[str, ...]]:
    """The groups without empty phrases and without any phrase that an earlier place has."""
    seen: set[str] = {""}
    found = []
    for group in groups:
        found.append(tuple(dict.fromkeys(phrase for phrase in group if phrase not in seen)))
        seen.update(found[-1])
    return found


class Concepts:
    """The concepts of all sources in order of arrival; one whose name is known is joined to the one that is there."""

    def __init__(self, first: list[Concept], others: dict[str, int]) -> None:
        self.all = list(first)
        self.by_name = {key(one.names[0]): index for index, one in reversed(list(enumerate(first)))}
        self.by_any_name = others | self.by_name

    def add(self, concept: Concept, loosely: bool) -> int:
        """The number of the concept, new or joined by its first name; loosely: to any name of the emoji."""
        name = key(concept.names[0])
        found = (self.by_any_name if loosely else self.by_name).get(name)
        if found is None:
            found = self.by_name[name] = len(self.all)
            self.by_any_name.setdefault(name, found)
            names, kinds, tags = unique(concept.names, concept.kinds, concept.tags)
            self.all.append(Concept(names, kinds, tags, concept.coloured, concept.flippable))
        return found


def from_table(kind: type[T], rows: list[dict[str, Any]]) -> list[T]:
    """The inverse of `dataclasses.asdict` on each, read from JSON."""
    return [kind(**{name: tuple(v) if isinstance(v, list) else v for name, v in row.items()}) for row in rows]
