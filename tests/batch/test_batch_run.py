"""Folder runs with a fake model: results, batching, isolation, resume, and every fault."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from urllib.parse import unquote

import pyarrow.parquet as pq
import pytest
from batch_fakes import FakeSource, fake_call
from batch_folder import make_calls, names, no_leftovers, results, run

from speechmeta.batch.runner import Progress, output_path
from speechmeta.batch.summary import summary_of
from speechmeta.cli import main
from speechmeta.errors import ModelError, UsageError

pytestmark = pytest.mark.slow


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    return make_calls(tmp_path)


def test_one_line_a_file_in_a_stable_order(calls: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    told: list[Progress] = []
    result = run(calls, out, workers=2, batch_size=4, progress=told.append)
    assert (result.counts.done, result.counts.failed, result.counts.missing) == (3, 0, 0)
    lines = results(out)
    paths = [line["audio"]["path"] for line in lines]
    assert paths == [str(calls / name) for name in ("a/call.wav", "b/call.wav", "c.wav")]
    # Every turn came back to its call, at its place.
    said = [[turn["Transcript"] for turn in line["turns"]] for line in lines]
    assert said == [
        ["300 of 1.00 to 1.00"],
        ["400 of 2.00 to 2.00", "500 of 2.01 to 2.01"],
        ["100 of 3.00 to 3.00", "200 of 3.01 to 3.01", "300 of 3.02 to 3.02"],
    ]
    assert lines[0]["model"]["name"] == "fake"
    assert told[0].total == 3
    assert (told[-1].done, told[-1].bytes_done) == (3, told[-1].bytes_total)
    assert result.audio_seconds == pytest.approx(1800 / 16000)
    assert no_leftovers(out)


def test_a_failure_is_told_with_what_to_do(calls: Path, tmp_path: Path) -> None:
    (calls / "bad.wav").write_bytes(b"bad")
    told: list[Progress] = []
    run(calls, tmp_path / "out", progress=told.append)
    assert [now.error for now in told if now.error] == [
        f"{calls / 'bad.wav'} is not audio; give a recording"
    ]


def test_outputs_mirror_the_folder(calls: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    fake_call(calls / "a" / "call.mp3", [50])
    run(calls, out, formats=("json", "txt"), parquet=True)
    found = sorted(str(path.relative_to(out)) for path in (out / "calls").rglob("*.*"))
    stems = ["a/call.mp3", "a/call.wav", "b/call.wav", "c.wav"]
    assert found == sorted(f"calls/{stem}.{end}" for stem in stems for end in ("json", "txt"))
    table = pq.read_table(out / "turns.parquet")
    assert table.num_rows == 7
    assert set(table["path"].to_pylist()) == {str(calls / stem) for stem in stems}
    assert json.loads((out / "calls/c.wav.json").read_text()) == results(out)[-1]


def test_a_page_of_the_folder_links_to_those_of_the_calls(calls: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    fake_call(calls / "a" / "50 % #1.wav", [50])
    run(calls, out, formats=("html",), report=True)
    page = (out / "index.html").read_text()
    links = re.findall(r'<a href="([^"]+)">', page)
    assert links[0] == "calls/a/50%20%25%20%231.wav.html"
    assert len(links) == 4
    assert all((out / unquote(link)).is_file() for link in links)
    again = run(calls, out, formats=("html",), report=True, overwrite=True)
    assert again.counts.done == 4


def test_page_and_tables_of_a_run_that_was_made_without_them(
    calls: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pyarrow")
    out, whole = tmp_path / "out", tmp_path / "whole"
    run(calls, out)
    run(calls, whole, parquet=True, report=True)
    before = (out / "results.jsonl").read_bytes()
    assert not (out / "index.html").exists()
    assert main(["batch", "-o", str(out), "--report", "--parquet"]) == 0
    assert capsys.readouterr().err.count("wrote") == 4
    for name in ("index.html", "turns.parquet", "calls.parquet", "speakers.parquet"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    assert (out / "results.jsonl").read_bytes() == before
    assert main(["batch", "-o", str(tmp_path / "none"), "--report"]) == 2
    assert "holds no folder run" in capsys.readouterr().err
    # The run goes on as it was begun.
    assert run(calls, out, resume=True).counts.missing == 0


def test_turns_of_many_calls_share_a_batch(tmp_path: Path) -> None:
    root, log = tmp_path / "calls", tmp_path / "log"
    for number in range(40):
        fake_call(root / f"{number:02d}.wav", [100 + number, 5000 + number])
    # However busy the machine is, calls wait for the model and not the model for calls.
    fake_call(root / "39.wav", [139, 5039], do="tell")
    source = FakeSource(log, after=root / "39.wav.told")
    run(root, tmp_path / "out", source=source, workers=2, batch_size=8)
    lines = [line.partition(": ")[2] for line in log.read_text().splitlines()]
    batches = [[int(number) for number in line.split()] for line in lines]
    assert sum(map(len, batches)) == 80
    assert max(map(len, batches)) == 8
    full = [batch for batch in batches if len(batch) == 8]
    assert len(full) >= 4
    # Short and long turns go apart, as padding would be wasted.
    assert sum(max(batch) < 2 * min(batch) for batch in full) >= len(full) - 2


@pytest.mark.parametrize("processes", [0, 2])
def test_models_in_other_processes_give_the_same(
    calls: Path, tmp_path: Path, processes: int
) -> None:
    run(calls, tmp_path / "reference")
    run(calls, tmp_path / "out", model_processes=processes, batch_size=2)
    assert results(tmp_path / "out") == results(tmp_path / "reference")


@pytest.mark.parametrize("processes", [0, 1])
def test_preparing_may_ask_the_model(tmp_path: Path, processes: int) -> None:
    root = tmp_path / "calls"
    for number in range(6):
        fake_call(root / f"{number}.wav", [100], do="ask", value=float(20 + number))
    # The time limit stands still while the model is busy with others.
    result = run(
        root,
        tmp_path / "out",
        source=FakeSource(delay=0.4),
        workers=3,
        timeout=1.0,
        model_processes=processes,
    )
    assert (result.counts.done, result.counts.failed) == (3, 3)
    for number, line in enumerate(results(tmp_path / "out")):
        if number % 2:
            assert line["error"]["message"] == "cannot answer this"
        else:
            assert line["turns"][0]["Transcript"].startswith(f"100 of {40 + 2 * number}.00")


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "calls").mkdir()
    (tmp_path / "calls" / "notes.txt").write_text("nothing to hear")
    result = run(tmp_path / "calls", tmp_path / "out", parquet=True)
    assert result.counts.total == 0
    assert result.found.ignored == 1
    assert (tmp_path / "out" / "results.jsonl").read_bytes() == b""
    assert pq.read_table(tmp_path / "out" / "turns.parquet").num_rows == 0


def test_a_call_without_turns(tmp_path: Path) -> None:
    fake_call(tmp_path / "calls" / "silent.wav", [])
    run(tmp_path / "calls", tmp_path / "out")
    assert results(tmp_path / "out")[0]["turns"] == []


def test_200_unreadable_files_among_1000(tmp_path: Path) -> None:
    root = tmp_path / "calls"
    for number in range(1000):
        path = root / f"{number // 100}" / f"{number:04d}.wav"
        if number % 5 == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"not audio")
        else:
            fake_call(path, [100 + number], value=1000.0 + number)
    result = run(root, tmp_path / "out", workers=2, batch_size=16)
    assert (result.counts.done, result.counts.failed) == (800, 200)
    lines = results(tmp_path / "out")
    assert len(lines) == 1000
    assert [line["audio"]["path"] for line in lines] == sorted(
        str(path) for path in root.rglob("*.wav")
    )
    for number, line in enumerate(lines):
        if number % 5 == 0:
            assert line["error"]["type"] == "AudioError"
            assert line["error"]["hint"] == "give a recording"
        else:
            assert line["turns"][0]["Transcript"].startswith(
                f"{100 + number} of {1000 + number}.00"
            )
    summary = summary_of(tmp_path / "out")
    assert (summary.files, summary.failed, summary.missing) == (800, 200, 0)
    assert summary.failures == {"AudioError": 200}


def test_files_that_crash_or_hang_the_decoder(calls: Path, tmp_path: Path) -> None:
    fake_call(calls / "crash.wav", do="crash")
    fake_call(calls / "hang.wav", do="hang")
    fake_call(calls / "bug.wav", do="bug")
    result = run(calls, tmp_path / "out", workers=2, timeout=1.5)
    assert (result.counts.done, result.counts.failed) == (3, 3)
    errors = {
        os.path.basename(line["audio"]["path"]): line["error"]
        for line in results(tmp_path / "out")
        if "error" in line
    }
    assert errors["crash.wav"]["type"] == "WorkerCrash"
    assert "SIGSEGV" in errors["crash.wav"]["message"]
    assert errors["hang.wav"]["type"] == "WorkerTimeout"
    assert "1.5 seconds" in errors["hang.wav"]["message"]
    assert errors["bug.wav"]["type"] == "KeyError"
    assert no_leftovers(tmp_path / "out")


@pytest.mark.parametrize("processes", [0, 1])
def test_a_turn_that_breaks_its_batch_costs_only_its_call(tmp_path: Path, processes: int) -> None:
    root = tmp_path / "calls"
    for number in range(6):
        fake_call(root / f"{number}.wav", [100, 110], value=666.0 if number == 2 else 1.0)
    fake_call(root / "unlucky.wav", [100], value=13.0)
    source = FakeSource(die=processes > 0)
    result = run(root, tmp_path / "out", source=source, batch_size=4, model_processes=processes)
    assert (result.counts.done, result.counts.failed) == (6 - 1, 2)
    errors = [line for line in results(tmp_path / "out") if "error" in line]
    assert [os.path.basename(line["audio"]["path"]) for line in errors] == ["2.wav", "unlucky.wav"]
    expected = "WorkerCrash" if processes else "DecodingError"
    assert [line["error"]["type"] for line in errors] == [expected, "DecodingError"]


@pytest.mark.parametrize("processes", [0, 1])
def test_a_model_that_cannot_be_loaded_ends_the_run(
    calls: Path, tmp_path: Path, processes: int
) -> None:
    with pytest.raises(ModelError, match="no such model"):
        run(
            calls,
            tmp_path / "out",
            source=FakeSource(broken=True),
            model_processes=processes,
        )
    assert no_leftovers(tmp_path / "out")
    result = run(calls, tmp_path / "out", resume=True)
    assert result.counts.done == 3


def test_a_file_that_grows_while_it_is_read(calls: Path, tmp_path: Path) -> None:
    fake_call(calls / "growing.wav", do="grow")
    result = run(calls, tmp_path / "out")
    assert result.counts.failed == 1
    error = results(tmp_path / "out")[-1]["error"]
    assert "changed while it was read" in error["message"]
    fake_call(calls / "growing.wav", [100])
    assert run(calls, tmp_path / "out", resume=True).counts.failed == 1
    again = run(calls, tmp_path / "out", resume=True, retry_failed=True)
    assert (again.counts.done, again.counts.failed) == (4, 0)


def test_an_empty_file_is_an_error_record(calls: Path, tmp_path: Path) -> None:
    (calls / "empty.wav").write_bytes(b"")
    (calls / "empty.txt").write_bytes(b"")
    run(calls, tmp_path / "out")
    failed = [line for line in results(tmp_path / "out") if "error" in line]
    assert [os.path.basename(line["audio"]["path"]) for line in failed] == ["empty.wav"]


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    root = os.fsencode(tmp_path / "calls")
    try:
        fake_call(os.path.join(root, b"caf\xe9\xff.wav"), [100])
        fake_call(os.path.join(root, b"d\xe9p\xf4t", b"\n.wav"), [200])
    except OSError as error:
        pytest.skip(f"this file system takes no such names: {error}")
    with open(os.path.join(root, b"br\xf8ken.wav"), "wb") as file:
        file.write(b"broken")
    out = tmp_path / "out"
    result = run(tmp_path / "calls", out, formats=("json", "html"), parquet=True)
    assert (result.counts.done, result.counts.failed) == (2, 1)
    paths = [line["audio"]["path"] for line in results(out)]
    assert paths[1].endswith("/calls/caf\\xe9\\xff.wav")
    assert os.path.exists(os.path.join(os.fsencode(out), b"calls/caf\xe9\xff.wav.json"))
    assert pq.read_table(out / "turns.parquet").num_rows == 2


def test_links_that_go_round(calls: Path, tmp_path: Path) -> None:
    (calls / "a" / "round").symlink_to(calls)
    (calls / "self").symlink_to("self")
    (calls / "gone.wav").symlink_to("nowhere.wav")
    (calls / "other.wav").symlink_to("c.wav")
    run(calls, tmp_path / "out")
    assert names(tmp_path / "out") == ["call.wav", "call.wav", "c.wav", "gone.wav", "other.wav"]
    assert "No such file" in results(tmp_path / "out")[3]["error"]["message"]


def test_an_output_folder_below_the_recordings(calls: Path) -> None:
    fake_call(calls / "results" / "calls" / "old.wav", [100])
    (calls / "results" / "calls").rename(calls / "results" / "kept")
    run(calls, calls / "results")
    assert len(results(calls / "results")) == 3


def test_long_names_are_cut(tmp_path: Path) -> None:
    root, out = tmp_path / "calls", tmp_path / "out"
    for end in "ab":
        fake_call(root / f"{'n' * 250}{end}.wav"[-255:], [100])
    run(root, out, formats=("parquet",))
    assert len(list((out / "calls").iterdir())) == 2
    assert output_path(out, b"x/a.wav", ".json") == out / "calls" / "x" / "a.wav.json"


def test_wrong_usage_is_told_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a folder"):
        run(tmp_path / "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="unknown output format"):
        run(tmp_path, tmp_path / "out", formats=("doc",))
    with pytest.raises(UsageError, match="holds no folder run"):
        summary_of(tmp_path)
