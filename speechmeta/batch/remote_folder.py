"""Finding the recordings below an address: `s3://bucket/calls`, `gs://`, `az://`, `https://`.

As in `discovery`, but a listing takes the place of the disk. Only what no name tells is looked
into, as each look is a request. Over HTTP a folder is a page that links to what lies below it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from speechmeta.audio.rawformats import RawRules
from speechmeta.audio.remote import explained, shown
from speechmeta.batch.discovery import (
    HEAD_BYTES,
    Discovery,
    FoundFile,
    Globs,
    is_considered,
    is_named_audio,
    is_recording,
)
from speechmeta.errors import UsageError
from speechmeta.writers.files import printable


def folder_address(root: str) -> str:
    """An address that names of recordings can be put behind, without a slash at its end.

    Raises:
        UsageError: that cannot be done with it.
    """
    name = shown(root)
    scheme, _, place = root.partition("://")
    if "::" in root:
        raise UsageError(f"{name} is a chain of addresses", "give one address")
    if scheme in ("http", "https") and ("?" in place or "#" in place):
        raise UsageError(
            f"{name} has a query, which no names can be put behind", "give the folder's address"
        )
    if not place.strip("/"):
        raise UsageError(f"{name} names no folder", "give one such as s3://bucket/calls")
    return root.rstrip("/")


@dataclass(frozen=True)
class _Item:
    """What a listing says; `relative` is the path below the root."""

    relative: str
    size: int
    is_folder: bool


class _Listing:
    """A place that is reached through fsspec."""

    def __init__(self, root: str) -> None:
        self._name = shown(root)
        self._pages = root.startswith(("http://", "https://"))
        try:
            import fsspec

            # A folder that is watched has to be looked at anew.
            self._system, inner = fsspec.core.url_to_fs(root, use_listings_cache=False)
            self._root: str = inner.rstrip("/")
            self._see_that_it_is_a_folder()
        except UsageError:
            raise
        except Exception as error:
            raise explained(self._name, error) from error

    def _see_that_it_is_a_folder(self) -> None:
        if self._pages:
            # Asked first, as looking for links in a recording would fetch all of it.
            about = self._system.info(self._root + "/")
            is_folder = str(about.get("mimetype", "")).startswith("text/html")
            hint = "over HTTP, give a page that links to the recordings below it"
        else:
            is_folder = self._system.info(self._root)["type"] == "directory"
            hint = "analyze takes single recordings"
        if not is_folder:
            raise UsageError(f"{self._name} is not a folder", hint)

    def items(self, folder: str) -> list[_Item]:
        """What lies in a folder below the root, in the order of the names."""
        place = f"{self._root}/{folder}".rstrip("/")
        found = {}
        for about in self._system.ls(f"{place}/" if self._pages else place, detail=True):
            name = str(about["name"])
            if not name.startswith(f"{place}/") or name.rstrip("/") == place:
                continue  # the folder's own mark, or a link to elsewhere
            relative = name[len(self._root) + 1 :]
            is_folder = about.get("type") == "directory" or (self._pages and name.endswith("/"))
            if self._pages and ("?" in relative or "#" in relative):
                continue  # another order of the same page
            found[relative] = _Item(relative.rstrip("/"), int(about.get("size") or 0), is_folder)
        return sorted(found.values(), key=lambda item: os.fsencode(item.relative))

    def head(self, relative: str) -> bytes:
        """The first bytes of a file."""
        name = f"{self._root}/{relative}"
        with self._system.open(name, "rb", block_size=HEAD_BYTES) as file:
            data: bytes = file.read(HEAD_BYTES)
        return data


def _is_path(relative: str) -> bool:
    """Whether a name can be that of a file below a folder: stores take any text."""
    parts = relative.split("/")
    return "\0" not in relative and not {"", ".", ".."}.intersection(parts)


def find_remote_audio(
    root: str,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    seen: Discovery | None = None,
    strict: bool = False,
    raw: RawRules | None = None,
) -> Iterator[FoundFile]:
    """Yields the recordings below an address, as `discovery.find_audio` does those of a folder.

    Args:
        root: of `folder_address`.

    Raises:
        UsageError: it is not a folder. AudioError: it cannot be listed.
        MissingExtraError: a library for the protocol is not installed.
    """
    seen = seen if seen is not None else Discovery()
    wanted, unwanted = Globs(include), Globs(exclude)
    listing = _Listing(root)
    stack, visited = [""], {""}
    while stack:
        folder = stack.pop()
        place = shown(f"{root}/{folder}")
        try:
            items = listing.items(folder)
        except Exception as error:
            if not folder:
                raise explained(place, error) from error
            seen.note(str(explained(place, error)))
            continue
        below = []
        for item in items:
            relative = os.fsencode(item.relative)
            if not _is_path(item.relative):
                seen.note(f"{printable(shown(f'{root}/{item.relative}'))}: no name of a file")
            elif unwanted.match(relative):
                seen.excluded += 1
            elif item.is_folder:
                if item.relative not in visited:
                    visited.add(item.relative)
                    below.append(item.relative)
            elif _is_wanted(listing, item, wanted, seen, strict, raw or RawRules()):
                yield FoundFile(relative, item.size)
        stack.extend(reversed(below))


def _is_wanted(
    listing: _Listing, item: _Item, wanted: Globs, seen: Discovery, strict: bool, raw: RawRules
) -> bool:
    relative = os.fsencode(item.relative)
    if not is_considered(relative, wanted, seen):
        return False
    if strict or is_named_audio(relative, raw):
        return True
    try:
        if is_recording(listing.head(item.relative)):
            return True
    except Exception as error:
        seen.note(str(explained(printable(item.relative), error)))
    seen.ignore(os.path.basename(relative))
    return False


__all__ = ["find_remote_audio", "folder_address"]
