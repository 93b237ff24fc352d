"""The logs of sites as an authority keeps them: ``sites/SITE/log``, C2SP tiles and a checkpoint."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

from birthmark.adapters.audit.entries import split_packed
from birthmark.adapters.audit.reader import LogFiles, tile_path

__all__ = ["MIRROR_MARK", "Mirrors", "mirror_files", "read_bundle"]

MIRROR_MARK = 1 << 63
"""Set in the number of an entry of a site's log; bits 40 to 62 are the place of the site in the index."""
_KEPT_BUNDLES = 64


def mirror_files(root: Path, site: str) -> LogFiles | None:
    """Return the mirrored log of a site below the workspace ``root``, None if there is none."""
    if "/" in site or site.startswith("."):
        return None
    directory = root / "sites" / site / "log"
    return LogFiles(directory) if directory.is_dir() else None


class Mirrors:
    """Single entries of mirrored logs; the latest bundles are kept."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._files: dict[str, LogFiles | None] = {}
        self._bundles: OrderedDict[tuple[str, int], list[bytes]] = OrderedDict()

    def has(self, site: str) -> bool:
        """Tell whether the log of a site is here."""
        return self._of(site) is not None

    def entry(self, site: str, seq: int) -> bytes | None:
        """Return one entry of a site's log, None if it is not here."""
        bundle = self._bundle(site, seq // 256)
        return bundle[seq % 256][2:] if seq % 256 < len(bundle) else None

    def _of(self, site: str) -> LogFiles | None:
        if site not in self._files:
            self._files[site] = mirror_files(self._root, site)
        return self._files[site]

    def _bundle(self, site: str, block: int) -> list[bytes]:
        name = (site, block)
        if name not in self._bundles:
            if len(self._bundles) >= _KEPT_BUNDLES:
                self._bundles.popitem(last=False)
            self._bundles[name] = read_bundle(self._of(site), block)
        self._bundles.move_to_end(name)
        return self._bundles[name]


def read_bundle(files: LogFiles | None, block: int) -> list[bytes]:
    """Return the entries of the widest bundle of a block, each with its length in front."""
    if files is None:
        return []
    for width in (256, *reversed(files.widths("entries", block))):
        data = files.read(tile_path("entries", block, width))
        pieces = None if data is None else split_packed(data, width)
        if pieces is not None:
            return pieces
    return []
