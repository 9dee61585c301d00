"""Names of splits: usual words with affixes, digits, any case and separators, of folders and in columns."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal, NamedTuple

Kind = Literal["train", "val", "test", "unlabelled", "more", "images", "mixed", ""]
_SPLIT_WORDS: dict[Kind, str] = {
    "train": "train training trn",
    "val": "val valid validation validate dev",
    "test": "test testing tst eval evaluation holdout heldout",
}
_WORDS: dict[Kind, str] = {
    **_SPLIT_WORDS,
    "train": f"{_SPLIT_WORDS['train']} trainval",
    "unlabelled": "unlabeled unlabelled pred prediction predictions",
    "more": "preview augmented augmentation aug extra pseudo",
    "images": "image images imgs img photos pictures pics data files jpg jpeg png part",
}
_KIND_OF = {word: kind for kind, words in _WORDS.items() for word in words.split()}
_SPLIT_OF = {word: split for split, words in _SPLIT_WORDS.items() for word in words.split()}
_SPLIT_KINDS = frozenset(_SPLIT_WORDS)
_HOLD_OUT = re.compile(r"(?i)\b(hold|held)[\W_]*out")
_ADDITION = re.compile(r"(set|split|data|images|imgs|part)$")


class SplitName(NamedTuple):
    """Meaning of a folder's name by its words."""

    kind: Kind
    """A split; unlabelled images or more of them beside splits; a plain image folder; several splits; or nothing."""
    rest: str
    """The words that suggest nothing, such as `seg` of `seg_train`."""

    @property
    def is_split(self) -> bool:
        """Whether the name is that of a split, or of several."""
        return self.kind in _SPLIT_KINDS or self.kind == "mixed"


@lru_cache(maxsize=4096)
def split_name(folder: str) -> SplitName:
    """Return the meaning of the name of a folder (without its parents)."""
    joined = _HOLD_OUT.sub("holdout", folder.replace("_", " "))
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[^\W\d_A-Za-z]+", joined)
    kinds: set[Kind] = set()
    rest = []
    for word in map(str.casefold, words):
        stem = re.sub(r"(?<=.)(set|split|data|images|imgs|folder)$", "", word)
        kind = _KIND_OF.get(word) or _KIND_OF.get(stem)
        if kind is not None:
            kinds.add(kind)
        elif word not in ("set", "split", "folder", "dataset", "the", "of", "for"):
            rest.append(word)
    return SplitName(_kind(kinds, bool(rest)), " ".join(rest))


def split_of(name: str) -> str | None:
    """Return train, val or test for a name that means nothing else, such as `train_set2` or `Validation`; else None."""
    words = re.findall(r"[^\W\d_]+", _HOLD_OUT.sub("holdout", name).casefold())
    stems = [_ADDITION.sub("", word) for word in words]  # empty for a word that is only an addition
    splits = {_SPLIT_OF.get(stem) for stem in stems if stem}
    return splits.pop() if len(splits) == 1 else None


def _kind(kinds: set[Kind], has_rest: bool) -> Kind:
    if kinds == {"images"}:
        return "" if has_rest else "images"  # 'photos' is an image folder, 'holiday photos' may be a class
    splits = kinds & _SPLIT_KINDS
    if kinds & {"more", "unlabelled"}:
        return "more" if "more" in kinds else "unlabelled"
    if splits == {"train", "val"}:
        return "train"
    return next(iter(splits)) if len(splits) == 1 else "mixed" if splits else ""
