"""Lists of device serials as spreadsheets and editors write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from birthmark.errors import Misconfigured
from birthmark.shell.cli.seriallist import read_serials


@pytest.mark.parametrize(
    "data",
    [
        b"TH-1\nTH-2\n",
        b"TH-1\r\nTH-2",
        b"\xef\xbb\xbfTH-1\r\n\r\nTH-2\r\n\r\n",
        b"\n  \nTH-1\rTH-2\n",
    ],
)
def test_line_ends_blank_lines_and_a_byte_order_mark_do_not_matter(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "list.txt").write_bytes(data)
    assert read_serials(str(tmp_path / "list.txt")) == ["TH-1", "TH-2"]


def test_octets_that_are_no_text_are_kept_for_whoever_judges_the_serial(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"TH-\xff1\n TH-2\n")
    assert read_serials(str(tmp_path / "list.txt")) == ["TH-\\xff1", " TH-2"]


@pytest.mark.parametrize(
    ("data", "code", "said"),
    [
        (b"serial;colour\nTH-1;red\n", "serials.table", "line 1"),
        (b'TH-1\n"TH-2"\n', "serials.table", "line 2"),
        ("TH-1\n".encode("utf-16"), "serials.encoding", "UTF-16"),
        (b"", "serials.none", "names no device"),
        (b"\xef\xbb\xbf\r\n", "serials.none", "names no device"),
    ],
)
def test_what_is_no_list_of_serials_is_named(tmp_path: Path, data: bytes, code: str, said: str) -> None:
    (tmp_path / "list.txt").write_bytes(data)
    with pytest.raises(Misconfigured, match=said) as caught:
        read_serials(str(tmp_path / "list.txt"))
    assert caught.value.code == code


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="cannot read") as caught:
        read_serials(str(tmp_path / "list.txt"))
    assert caught.value.code == "serials.file"
