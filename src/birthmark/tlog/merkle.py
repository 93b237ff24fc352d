"""RFC 6962 section 2.1 trees over SHA-256: the growing edge, the roots, the proofs.

A subtree is named ``(level, index)``: the complete subtree over the leaves
``[index << level, (index + 1) << level)``. ``ReadHash`` gives the hash of one such subtree; level 0 are
the leaf hashes. Every hash is 32 octets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from birthmark.errors import Refused, Tampered

__all__ = [
    "EMPTY_ROOT",
    "HASH_OCTETS",
    "MAX_SIZE",
    "Frontier",
    "ReadHash",
    "consistency_proof",
    "inclusion_proof",
    "leaf_hash",
    "leaf_hashes",
    "node_hash",
    "split_hashes",
    "tree_root",
    "verify_consistency",
    "verify_inclusion",
]

HASH_OCTETS = 32
MAX_SIZE = 2**63 - 1
"""Sizes and indexes fit a signed 64-bit integer, as in every other reader of these formats."""
EMPTY_ROOT = sha256(b"").digest()

ReadHash = Callable[[int, int], bytes]
"""``(level, index)`` to the hash of that complete subtree."""


def leaf_hash(entry: bytes) -> bytes:
    """Return the leaf hash of an entry: SHA-256(0x00 || entry)."""
    return sha256(b"\x00" + entry).digest()


def leaf_hashes(entries: Sequence[bytes]) -> list[bytes]:
    """Return the leaf hash of every entry, in order."""
    return [sha256(b"\x00" + entry).digest() for entry in entries]


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node: SHA-256(0x01 || left || right)."""
    return sha256(b"\x01" + left + right).digest()


def split_hashes(hashes: Sequence[bytes] | bytes) -> list[bytes]:
    """Return hashes as a list, from a sequence of them or from their concatenation.

    Raises ``Tampered`` (``log.hashes.malformed``) when a hash is not 32 octets long.
    """
    if isinstance(hashes, bytes):
        whole = len(hashes) % HASH_OCTETS == 0
        items = [hashes[at : at + HASH_OCTETS] for at in range(0, len(hashes), HASH_OCTETS)]
    else:
        items = list(hashes)
        whole = set(map(len, items)) <= {HASH_OCTETS}
    if not whole:
        raise Tampered(
            "log.hashes.malformed",
            "a tree hash is not 32 octets long",
            hint="Rebuild the stored hashes from the log entries.",
            hashes=len(items),
        )
    return items


@dataclass(frozen=True, slots=True)
class Frontier:
    """The growing edge of a tree: all that is needed to append leaves and to know the root.

    ``hashes`` are the roots of the complete subtrees the ``size`` leaves fall into, largest (leftmost)
    first: one for every bit set in ``size``. Raises ``Tampered`` (``log.frontier.malformed``) when they
    do not fit the size.
    """

    size: int = 0
    hashes: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        fits = 0 <= self.size <= MAX_SIZE and len(self.hashes) == self.size.bit_count()
        if not fits or any(len(item) != HASH_OCTETS for item in self.hashes):
            raise Tampered(
                "log.frontier.malformed",
                f"{len(self.hashes)} hashes are not the edge of a tree of {self.size} leaves",
                hint="Rebuild the edge of the tree from the log entries.",
                size=str(self.size),
                hashes=len(self.hashes),
            )

    @classmethod
    def load(cls, size: int, read_hash: ReadHash) -> Frontier:
        """Return the frontier of the first ``size`` leaves of a stored tree."""
        return cls(size, tuple(_peaks(0, size, read_hash)))

    def extend(self, leaf_hashes: Sequence[bytes] | bytes) -> Frontier:
        """Return the frontier after appending leaf hashes (a sequence, or 32-octet hashes end to end)."""
        nodes = split_hashes(leaf_hashes)
        size = self.size + len(nodes)
        edge = list(self.hashes)  # consumed from its end, the smallest subtree
        kept: list[bytes] = []  # the new small subtrees, smallest first
        position = self.size  # index, on the current level, of the first node of ``nodes``
        while nodes:
            if position & 1:
                nodes = [edge.pop(), *nodes]
            if len(nodes) & 1:
                kept.append(nodes.pop())
            pair = iter(nodes)
            nodes = [sha256(b"\x01" + left + right).digest() for left, right in zip(pair, pair, strict=True)]
            position >>= 1
        kept.reverse()
        return Frontier(size, (*edge, *kept))

    def root(self) -> bytes:
        """Return the root of the tree (``SHA-256("")`` for the empty one)."""
        return _fold(self.hashes)

    def to_bytes(self) -> bytes:
        """Return the stored form: size (8 octets, big endian), then the hashes."""
        return self.size.to_bytes(8, "big") + b"".join(self.hashes)

    @classmethod
    def from_bytes(cls, data: bytes) -> Frontier:
        """Read :meth:`to_bytes` back, or raise ``Tampered`` (``log.frontier.malformed``)."""
        if len(data) < 8 or len(data) % HASH_OCTETS != 8:
            raise Tampered(
                "log.frontier.malformed",
                f"{len(data)} octets are not the edge of a tree",
                hint="Rebuild the edge of the tree from the log entries.",
                octets=len(data),
            )
        return cls(int.from_bytes(data[:8], "big"), tuple(split_hashes(data[8:])))


def tree_root(size: int, read_hash: ReadHash) -> bytes:
    """Return the root of the first ``size`` leaves of a stored tree."""
    return _fold(_peaks(0, size, read_hash))


def inclusion_proof(index: int, size: int, read_hash: ReadHash) -> list[bytes]:
    """Return the audit path of leaf ``index`` in the tree of ``size`` leaves (RFC 6962 section 2.1.1)."""
    if not 0 <= index < size <= MAX_SIZE:
        raise Refused(
            "log.proof.range",
            f"a log of {size} entries has no entry {index}",
            hint="Ask for an index below the size of the log.",
            index=str(index),
            size=str(size),
        )
    return _path(0, index, size, read_hash)


def consistency_proof(old: int, new: int, read_hash: ReadHash) -> list[bytes]:
    """Return the proof that the tree of ``old`` leaves begins the tree of ``new`` (RFC 6962 section 2.1.2).

    Empty when ``old`` is 0 or equals ``new``: nothing needs a proof then.
    """
    if not 0 <= old <= new <= MAX_SIZE:
        raise Refused(
            "log.proof.range",
            f"a log cannot shrink from {old} to {new} entries",
            hint="Ask for a proof from the smaller size to the larger.",
            old=str(old),
            new=str(new),
        )
    if old in (0, new):
        return []
    # The last complete subtree of the old tree is a node of the new one; the proof climbs from it. A power
    # of two is that subtree alone, and the verifier has its hash already: the old root.
    level = (old & -old).bit_length() - 1
    index = (old >> level) - 1
    start = [] if index == 0 else [read_hash(level, index)]
    return start + _path(level, index, new, read_hash)


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Check that the tree of ``size`` leaves under ``root`` holds the leaf hash ``leaf`` at ``index``.

    RFC 9162 section 2.1.3.2 (the tree is RFC 6962's). A root does not commit to its size: both come from the
    same signed checkpoint. Raises ``Tampered`` (``log.proof.inclusion``).
    """
    good = 0 <= index < size <= MAX_SIZE and all(len(item) == HASH_OCTETS for item in (leaf, *proof))
    if not good or _climb(leaf, index, size - 1, proof) != root:
        raise Tampered(
            "log.proof.inclusion",
            f"the proof does not show entry {index} in the log of {size} entries",
            hint="Treat the entry as not logged and ask the log for a new proof.",
            index=str(index),
            size=str(size),
        )


def verify_consistency(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Check that the tree ``(new, new_root)`` only appends to the tree ``(old, old_root)``.

    RFC 9162 section 2.1.4.2. Raises ``Tampered``: ``log.proof.rollback`` when the new tree is the smaller
    one, ``log.proof.consistency`` when the proof does not hold.
    """
    if old > new:
        raise Tampered(
            "log.proof.rollback",
            f"the log went back from {old} to {new} entries",
            hint="Stop using this log and keep both signed checkpoints as evidence.",
            old=str(old),
            new=str(new),
        )
    if not _consistent(old, new, old_root, new_root, proof):
        raise Tampered(
            "log.proof.consistency",
            f"the log of {new} entries is not an extension of the log of {old} entries",
            hint="Stop using this log and keep both signed checkpoints as evidence.",
            old=str(old),
            new=str(new),
        )


def _peaks(start: int, end: int, read_hash: ReadHash) -> list[bytes]:
    """Return the hashes of the complete subtrees over ``[start, end)``, leftmost first.

    ``start`` is a multiple of a power of two not below ``end - start``, so that the bits of the length are
    the subtrees and the bits of ``end`` tell where each one ends.
    """
    length = end - start
    levels = range(length.bit_length() - 1, -1, -1)
    return [read_hash(level, (end >> level) - 1) for level in levels if length >> level & 1]


def _fold(hashes: Sequence[bytes]) -> bytes:
    """Join neighbouring subtrees, largest first, into one root: the smallest are joined first."""
    if not hashes:
        return EMPTY_ROOT
    root = hashes[-1]
    for left in reversed(hashes[:-1]):
        root = node_hash(left, root)
    return root


def _path(level: int, index: int, size: int, read_hash: ReadHash) -> list[bytes]:
    """Return the siblings met on the way from a complete subtree to the root, lowest first."""
    hashes = []
    while index or 1 << level < size:
        sibling = index ^ 1
        start, end = sibling << level, (sibling + 1) << level
        if end <= size:
            hashes.append(read_hash(level, sibling))
        elif start < size:
            hashes.append(_fold(_peaks(start, size, read_hash)))
        index >>= 1
        level += 1
    return hashes


def _climb(node: bytes, index: int, last: int, proof: Sequence[bytes]) -> bytes | None:
    """Return the root that ``proof`` leads to, or None when it is longer or shorter than the way."""
    for sibling in proof:
        if last == 0:
            return None
        if index & 1 or index == last:
            node = node_hash(sibling, node)
            while index & 1 == 0 and index:
                index >>= 1
                last >>= 1
        else:
            node = node_hash(node, sibling)
        index >>= 1
        last >>= 1
    return node if last == 0 else None


def _consistent(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> bool:
    if not 0 <= old <= new <= MAX_SIZE or any(len(item) != HASH_OCTETS for item in proof):
        return False
    if old == 0 and old_root != EMPTY_ROOT:
        return False
    if old == new:
        return not proof and old_root == new_root
    if old == 0:
        return not proof
    hashes = list(proof)
    if old & (old - 1) == 0:
        hashes.insert(0, old_root)
    if not hashes:
        return False
    shift = (old & -old).bit_length() - 1
    index, last = (old - 1) >> shift, (new - 1) >> shift
    # The old root uses the left siblings alone; whatever lies to the right is younger than the old tree.
    old_node = new_node = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            return False
        if index & 1 or index == last:
            old_node, new_node = node_hash(sibling, old_node), node_hash(sibling, new_node)
            while index & 1 == 0 and index:
                index >>= 1
                last >>= 1
        else:
            new_node = node_hash(new_node, sibling)
        index >>= 1
        last >>= 1
    return last == 0 and old_node == old_root and new_node == new_root
