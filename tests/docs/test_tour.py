"""examples/tour.ipynb runs from end to end and is committed without outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

TOUR = ROOT / "examples" / "tour.ipynb"


@pytest.fixture
def tour() -> Any:
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(TOUR, as_version=4)
    nbformat.validate(notebook)
    return notebook


def test_no_outputs_are_committed(tour: Any) -> None:
    cells = [cell for cell in tour.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore:::jupyter_client", "ignore:::zmq", "ignore:::nbclient")
def test_every_cell_runs(tour: Any, bundled_dir: Path) -> None:
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    for extra in ("pandas", "pyarrow"):
        pytest.importorskip(extra)
    nbclient.NotebookClient(
        tour, kernel_name="python3", resources={"metadata": {"path": str(TOUR.parent)}}
    ).execute()
    shown = [output for cell in tour.cells for output in cell.get("outputs", ())]
    assert {output.output_type for output in shown} <= {"stream", "execute_result"}, "no errors"
    streams = "".join(output.get("text", "") for output in shown)
    assert streams.lower().count("thank you for calling") >= 2
    assert "missing.wav" in streams
    assert "agent ['SpeechActivity', 'Transcript']" in streams
    kinds = {kind for output in shown for kind in output.get("data", {})}
    assert {"text/html", "image/svg+xml"} <= kinds
    # The folder's table holds the turns of both calls.
    assert str(shown[-1]["data"]["text/html"]).count("tuesday.wav") == 8
