"""Trees that shrink, fork or carry a bit too many: none of them may pass."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paperlog import naive_root, reader_of

from birthmark.errors import Refused, Tampered
from birthmark.tlog.merkle import (
    EMPTY_ROOT,
    Frontier,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    leaf_hashes,
    node_hash,
    tree_root,
    verify_consistency,
    verify_inclusion,
)

LEAVES = [sha256(b"leaf %d" % number).digest() for number in range(700)]
ROOTS = {size: naive_root(LEAVES[:size]) for size in (*range(70), *range(250, 262), 511, 512, 513, 699, 700)}

sizes = st.integers(1, 300)


def flip(data: bytes, bit: int) -> bytes:
    return (int.from_bytes(data, "big") ^ 1 << bit % (8 * len(data))).to_bytes(len(data), "big")


def test_published_roots_are_ours(vectors):
    document = vectors("rfc6962.json")
    hashes = leaf_hashes([bytes.fromhex(entry) for entry in document["entries"]])
    for size, root in enumerate(document["roots"]):
        assert Frontier().extend(hashes[:size]).root().hex() == root
        assert tree_root(size, reader_of(hashes)).hex() == root


def test_published_proofs_are_ours(vectors):
    document = vectors("rfc6962.json")
    hashes = leaf_hashes([bytes.fromhex(entry) for entry in document["entries"]])
    roots = [bytes.fromhex(root) for root in document["roots"]]
    for case in document["inclusion"]:
        proof = [bytes.fromhex(item) for item in case["proof"]]
        assert inclusion_proof(case["index"], case["size"], reader_of(hashes)) == proof
        verify_inclusion(hashes[case["index"]], case["index"], case["size"], proof, roots[case["size"]])
    for case in document["consistency"]:
        proof = [bytes.fromhex(item) for item in case["proof"]]
        assert consistency_proof(case["old"], case["new"], reader_of(hashes)) == proof
        verify_consistency(case["old"], case["new"], roots[case["old"]], roots[case["new"]], proof)


def test_leaf_and_node_cannot_be_mistaken_for_each_other():
    assert leaf_hash(LEAVES[0] + LEAVES[1]) != node_hash(LEAVES[0], LEAVES[1])
    assert leaf_hash(b"") == sha256(b"\x00").digest() == leaf_hashes([b""])[0]
    assert Frontier().root() == EMPTY_ROOT == sha256(b"").digest()


@pytest.mark.parametrize("size", sorted(ROOTS))
def test_every_size_has_the_root_of_the_definition(size):
    frontier = Frontier().extend(LEAVES[:size])
    assert frontier.root() == ROOTS[size]
    assert Frontier().extend(b"".join(LEAVES[:size])) == frontier
    assert Frontier.load(size, reader_of(LEAVES)) == frontier


@given(st.lists(st.integers(0, 300), max_size=6), st.booleans())
def test_the_way_leaves_arrive_changes_nothing(steps, packed):
    frontier, size = Frontier(), 0
    for step in steps:
        fresh = LEAVES[size : size + step]
        frontier = frontier.extend(b"".join(fresh) if packed else fresh)
        size += len(fresh)
        assert frontier.root() == naive_root(LEAVES[:size])
        assert Frontier.from_bytes(frontier.to_bytes()) == frontier


@given(sizes, st.data())
def test_every_entry_is_proven_and_no_flipped_bit_passes(size, data):
    index = data.draw(st.integers(0, size - 1))
    bit = data.draw(st.integers(0, 255))
    root = naive_root(LEAVES[:size])
    proof = inclusion_proof(index, size, reader_of(LEAVES[:size]))
    verify_inclusion(LEAVES[index], index, size, proof, root)
    wrong = [
        (flip(LEAVES[index], bit), index, size, proof, root),
        (LEAVES[index], index, size, proof, flip(root, bit)),
        (LEAVES[index], index, size, [*proof, root], root),
        (LEAVES[index], index, 0, proof, root),
        (LEAVES[index], -1, size, proof, root),
        (LEAVES[index], size, size, proof, root),
        (LEAVES[index][:31], index, size, proof, root),
    ]
    wrong += [
        (LEAVES[index], index, size, [*proof[:at], flip(proof[at], bit), *proof[at + 1 :]], root)
        for at in range(len(proof))
    ]
    wrong += [(LEAVES[index], index, size, [*proof[:at], *proof[at + 1 :]], root) for at in range(len(proof))]
    wrong += [(LEAVES[index], other, size, proof, root) for other in {index ^ 1, size - 1 - index} - {index}]
    for case in wrong:
        with pytest.raises(Tampered) as caught:
            verify_inclusion(*case)
        assert caught.value.code == "log.proof.inclusion"


@given(sizes, st.data())
def test_every_growth_is_proven_and_no_flipped_bit_passes(new, data):
    old = data.draw(st.integers(0, new))
    bit = data.draw(st.integers(0, 255))
    old_root, new_root = naive_root(LEAVES[:old]), naive_root(LEAVES[:new])
    proof = consistency_proof(old, new, reader_of(LEAVES[:new]))
    verify_consistency(old, new, old_root, new_root, proof)
    wrong = [
        (old, new, flip(old_root, bit), new_root, proof),
        (old, new, old_root, new_root, [*proof, new_root]),
        (-1, new, old_root, new_root, proof),
    ]
    if old:  # anything extends the empty log
        wrong.append((old, new, old_root, flip(new_root, bit), proof))
    wrong += [
        (old, new, old_root, new_root, [*proof[:at], flip(proof[at], bit), *proof[at + 1 :]])
        for at in range(len(proof))
    ]
    wrong += [(old, new, old_root, new_root, [*proof[:at], *proof[at + 1 :]]) for at in range(len(proof))]
    wrong += [(old, new, old_root, new_root, [item[:31] for item in proof])] if proof else []
    for case in wrong:
        with pytest.raises(Tampered) as caught:
            verify_consistency(*case)
        assert caught.value.code == "log.proof.consistency"


def split(size: int) -> int:
    return 1 << (size - 1).bit_length() - 1


def naive_inclusion(leaf: bytes, index: int, size: int, proof: list[bytes]) -> bytes | None:
    """The root by the definition of PATH in RFC 6962 section 2.1.1, from the root down."""
    if size == 1 or not proof:
        return leaf if size == 1 and not proof else None
    k, last = split(size), proof[-1]
    if index < k:
        node = naive_inclusion(leaf, index, k, proof[:-1])
        return None if node is None else node_hash(node, last)
    node = naive_inclusion(leaf, index - k, size - k, proof[:-1])
    return None if node is None else node_hash(last, node)


def naive_consistency(old: int, new: int, proof: list[bytes], old_root: bytes | None) -> tuple[bytes, bytes] | None:
    """Both roots by the definition of SUBPROOF in RFC 6962 section 2.1.2, from the root down."""
    if old == new:
        hashes = proof if old_root is None else [old_root, *proof]
        return (hashes[0], hashes[0]) if len(hashes) == 1 else None
    if not proof:
        return None
    k, last = split(new), proof[-1]
    if old <= k:
        nodes = naive_consistency(old, k, proof[:-1], old_root)
        return nodes and (nodes[0], node_hash(nodes[1], last))
    nodes = naive_consistency(old - k, new - k, proof[:-1], None)
    return nodes and (node_hash(last, nodes[0]), node_hash(last, nodes[1]))


def accepts(check, *case) -> bool:
    try:
        check(*case)
    except Tampered:
        return False
    return True


@pytest.mark.parametrize("size", range(1, 18))
def test_an_honest_path_under_a_false_place_or_size_passes_only_where_the_definition_says_so(size):
    for index in range(size):
        proof = inclusion_proof(index, size, reader_of(LEAVES[:size]))
        for claimed_size in range(1, 36):
            for claimed in range(claimed_size):
                case = (LEAVES[index], claimed, claimed_size, proof)
                honest = naive_inclusion(*case) == ROOTS[size]
                assert accepts(verify_inclusion, *case, ROOTS[size]) == honest
                assert not honest or claimed_size != size or claimed == index


@pytest.mark.parametrize("new", range(1, 18))
def test_an_honest_growth_under_false_sizes_passes_only_where_the_definition_says_so(new):
    for old in range(1, new + 1):
        proof = consistency_proof(old, new, reader_of(LEAVES[:new]))
        for claimed_new in range(1, 36):
            for claimed_old in range(1, claimed_new + 1):
                case = (claimed_old, claimed_new, ROOTS[old], ROOTS[new], proof)
                roots = naive_consistency(claimed_old, claimed_new, proof, ROOTS[old])
                assert accepts(verify_consistency, *case) == (roots == (ROOTS[old], ROOTS[new]))


@pytest.mark.parametrize(("old", "new"), [(5, 8), (8, 8), (4, 7), (1, 2), (256, 512), (255, 513)])
def test_a_rewritten_past_is_never_consistent(old, new):
    forged = [LEAVES[-1], *LEAVES[1:new]]
    proof = consistency_proof(old, new, reader_of(forged))
    with pytest.raises(Tampered):
        verify_consistency(old, new, naive_root(LEAVES[:old]), naive_root(forged), proof)


def test_a_restored_backup_is_named_a_rollback():
    with pytest.raises(Tampered) as caught:
        verify_consistency(8, 5, naive_root(LEAVES[:8]), naive_root(LEAVES[:5]), [])
    assert caught.value.code == "log.proof.rollback"


@pytest.mark.parametrize(("index", "size"), [(0, 0), (5, 5), (-1, 5), (0, 2**63)])
def test_no_proof_is_made_for_an_entry_outside_the_log(index, size):
    with pytest.raises(Refused):
        inclusion_proof(index, size, reader_of(LEAVES))


@pytest.mark.parametrize(("old", "new"), [(5, 4), (-1, 4), (1, 2**63)])
def test_no_proof_is_made_for_a_log_that_shrinks(old, new):
    with pytest.raises(Refused):
        consistency_proof(old, new, reader_of(LEAVES))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 7,
        (1).to_bytes(8, "big"),
        (3).to_bytes(8, "big") + LEAVES[0],
        (1).to_bytes(8, "big") + LEAVES[0][:31],
        (2**63).to_bytes(8, "big") + LEAVES[0],
        bytes(8) + LEAVES[0],
    ],
)
def test_a_damaged_frontier_is_noticed(data):
    with pytest.raises(Tampered) as caught:
        Frontier.from_bytes(data)
    assert caught.value.code == "log.frontier.malformed"


@pytest.mark.parametrize("hashes", [b"\x00" * 33, [LEAVES[0], b"short"]])
def test_hashes_of_another_length_never_enter_the_tree(hashes):
    with pytest.raises(Tampered) as caught:
        Frontier().extend(hashes)
    assert caught.value.code == "log.hashes.malformed"


def test_proofs_of_a_log_of_a_quintillion_entries_are_short():
    size = 2**62 + 12345
    proof = inclusion_proof(2**61 + 7, size, lambda level, index: sha256(b"%d/%d" % (level, index)).digest())
    assert len(proof) == 63
    assert len(consistency_proof(2**61 + 7, size, lambda level, index: bytes(32))) <= 64
