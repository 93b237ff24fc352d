"""Making an order while its log cannot be signed any more: it stops, and goes on when it can."""

from __future__ import annotations

from pathlib import Path

import pytest

from birthmark.errors import StationFault
from birthmark.shell.cli.main import main
from birthmark.shell.orders.bulk import make_order
from birthmark.shell.throwaway import bench_order, make_workspace
from birthmark.shell.workspace import publishing
from birthmark.shell.workspace.wiring import Workspace, open_workspace
from birthmark.workflow.orders.order import create_order, serial_range

QUANTITY = 12 * 512


def test_an_order_ends_where_its_log_cannot_be_signed_and_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_workspace(tmp_path / "fab")
    monkeypatch.setattr(publishing, "_SIGN_EVERY_S", 0.001)
    made: list[int] = []
    with open_workspace(tmp_path / "fab") as workspace:
        devices = serial_range("TH-0001", QUANTITY)
        create_order(workspace.ledger, bench_order(workspace, "lot"), devices, clock=workspace.clock)
        order = workspace.records.order("lot")
        assert order is not None

        def sign(workspace: Workspace) -> int:
            raise StationFault("log.gone", "the key of the log is gone", hint="Mend it.")

        with monkeypatch.context() as patch:
            patch.setattr(Workspace, "sign_head", sign)
            with pytest.raises(StationFault, match=r"log\.gone"):
                make_order(workspace, order, processes=1, progress=made.append)
        durable = workspace.records.totals("lot").stock
        assert sum(made) < QUANTITY
        assert sum(made) <= durable < QUANTITY
        assert make_order(workspace, order, processes=1, progress=made.append) == QUANTITY - durable
    assert main(["audit", "verify", str(tmp_path / "fab"), "--processes", "1"]) == 0
