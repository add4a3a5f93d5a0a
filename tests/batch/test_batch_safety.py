"""What others put into folders neither leads a run astray nor gets lost in it."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest
from batch_fakes import FakeJob, fake_call
from batch_folder import make_calls, names, no_leftovers, results, run

from speechmeta.batch.discovery import Discovery, find_audio, looks_like_audio
from speechmeta.batch.journal import STATE_FOLDER, Journal, is_below, journal_path
from speechmeta.batch.repair import repair_journal
from speechmeta.batch.summary import summary_of
from speechmeta.errors import OutputError, UsageError

pytestmark = pytest.mark.slow

MPEG_TS = (b"\x47" + bytes(187)) * 8


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    return make_calls(tmp_path)


def change(out: Path, statement: str, *values: Any) -> None:
    database = sqlite3.connect(journal_path(out))
    with database:
        database.execute(statement, values)
    database.close()


class TestNothingIsLeftOut:
    @pytest.mark.parametrize("name", ["a.ul", "a.AL", "a.sln", "a.sln16", "a.g722", "a.pcmu"])
    def test_headerless_telephony_is_found_by_its_name(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_bytes(bytes(range(256)) * 9)
        assert [file.relative for file in find_audio(tmp_path)] == [os.fsencode(name)]

    @pytest.mark.parametrize(
        "head", [MPEG_TS, b"\0\0\0\0".join([b"", *[MPEG_TS[:188]] * 8]), b"\0\0\x01\xba\x44"]
    )
    def test_mpeg_streams_are_found_by_content(self, head: bytes) -> None:
        assert looks_like_audio(head)
        assert not looks_like_audio(b"G" + bytes(4000))

    def test_all_other_files_are_counted_by_kind(self, calls: Path, tmp_path: Path) -> None:
        for name in ("a.txt", "b.TXT", "sub.pdf", "README"):
            (calls / name).write_text("no sound")
        result = run(calls, tmp_path / "out")
        kinds = {".txt": 2, ".pdf": 1, "no ending": 1}
        assert dict(result.found.others) == kinds
        assert summary_of(tmp_path / "out").as_json()["other_files"] == kinds

    def test_strict_makes_them_errors(self, calls: Path, tmp_path: Path) -> None:
        (calls / "notes.txt").write_text("no sound")
        result = run(calls, tmp_path / "out", strict=True)
        assert (result.counts.done, result.counts.failed) == (3, 1)
        assert result.found == Discovery()
        (failed,) = [line for line in results(tmp_path / "out") if "error" in line]
        assert failed["audio"]["path"].endswith("notes.txt")


class TestPlaces:
    def test_the_folder_of_recordings_is_no_output(self, calls: Path, tmp_path: Path) -> None:
        for out in (calls, calls / "b" / "..", tmp_path):
            root = calls if out != tmp_path else calls / "a"
            with pytest.raises(UsageError, match="choose another"):
                run(root, out)
        assert not (calls / STATE_FOLDER).exists()
        assert run(calls, calls / "results").counts.done == 3

    def test_overwrite_never_touches_a_recording(self, tmp_path: Path) -> None:
        root, out = tmp_path / "in", tmp_path / "out"
        fake_call(root / "a.wav")
        run(root, out, formats=("json",))
        # The recording is now also where its result would go.
        os.replace(root / "a.wav", out / "calls" / "a.wav.json")
        (root / "a.wav").symlink_to(out / "calls" / "a.wav.json")
        before = (out / "calls" / "a.wav.json").read_bytes()
        run(root, tmp_path / "other", formats=("json",))
        with Journal(out) as journal:
            journal.retry_failed()
        change(out, "UPDATE files SET state = 'missing', document = NULL")
        result = run(root, out, formats=("json",), resume=True)
        assert result.counts.failed == 1
        assert "recording itself" in results(out)[0]["error"]["message"]
        assert (out / "calls" / "a.wav.json").read_bytes() == before

    def test_links_in_the_output_folder_lead_nowhere(self, calls: Path, tmp_path: Path) -> None:
        out, outside = tmp_path / "out", tmp_path / "outside"
        outside.mkdir()
        (outside / "c.wav.json").write_text("precious")
        out.mkdir()
        (out / "calls").symlink_to(outside)
        with pytest.raises(UsageError):
            run(calls, out, formats=("json",))
        result = run(calls, out, formats=("json",), overwrite=True)
        assert result.counts.failed == 3
        assert (outside / "c.wav.json").read_text() == "precious"

    @pytest.mark.parametrize("name", ["lock", "journal.sqlite"])
    def test_a_run_follows_no_link_to_its_own_files(
        self, calls: Path, tmp_path: Path, name: str
    ) -> None:
        target = tmp_path / "precious"
        target.write_text("precious")
        (tmp_path / "out" / STATE_FOLDER).mkdir(parents=True)
        (tmp_path / "out" / STATE_FOLDER / name).symlink_to(target)
        with pytest.raises(OutputError, match="is a link"):
            run(calls, tmp_path / "out")
        assert target.read_text() == "precious"


class TestJournals:
    @pytest.mark.parametrize(
        "path",
        [b"../x.wav", b"/etc/passwd", b"a/../../x", b"a//b", b"", b"a\0b", "text", None, b"./a"],
    )
    def test_paths_that_lead_outside_are_known(self, path: Any) -> None:
        assert not is_below(path)

    def test_ordinary_paths_pass(self) -> None:
        assert all(map(is_below, (b"a.wav", b"a/b c.wav", b"..a/.b", b"\xff.wav")))

    def test_a_planted_journal_neither_reads_nor_deletes_outside(
        self, calls: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        run(calls, out, formats=("json",))
        victim = tmp_path / "victim.json"
        victim.write_text("precious")
        fake_call(tmp_path / "secret.wav")
        change(out, "UPDATE files SET path = ? WHERE id = 1", b"../../victim")
        change(out, "UPDATE files SET path = ?, state = 'missing' WHERE id = 2", b"../secret.wav")
        with pytest.raises(OutputError, match="not below the folder"):
            run(calls, out, formats=("json",), resume=True)
        run(calls, out, formats=("json",), overwrite=True)
        assert victim.read_text() == "precious"
        assert len(results(out)) == 3

    def test_half_a_line_is_never_copied_on(self, calls: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        run(calls, out)
        change(out, "UPDATE files SET document = substr(document, 1, 40) WHERE id = 2")
        with pytest.raises(OutputError, match="--repair"):
            run(calls, out, resume=True)
        result = run(calls, out, resume=True, repair=True)
        assert (result.counts.done, len(results(out))) == (3, 3)

    @pytest.mark.parametrize(
        "document", ["[]", "{}", '{"audio": {}, "turns": [7]}', '{"audio": 1, "error": {}}']
    )
    def test_a_planted_result_is_damage_and_nothing_worse(
        self, calls: Path, tmp_path: Path, document: str
    ) -> None:
        out = tmp_path / "out"
        run(calls, out, parquet=True)
        change(out, "UPDATE files SET document = ? WHERE id = 2", document)
        with pytest.raises(OutputError, match="--repair"):
            run(calls, out, parquet=True, resume=True)
        with pytest.raises(OutputError, match="--repair"):
            summary_of(out)
        assert not list(out.glob(".speechmeta-*"))

    @pytest.mark.parametrize("damage", ["head", "middle", "gone"])
    def test_repair_keeps_what_is_whole_and_the_run_does_the_rest(
        self, calls: Path, tmp_path: Path, damage: str
    ) -> None:
        out = tmp_path / "out"
        for number in range(60):
            fake_call(calls / f"{number:02d}.wav", [100])
        run(calls, out)
        change(out, "VACUUM")
        path = journal_path(out)
        data = bytearray(path.read_bytes())
        if damage == "head":
            data[:100] = bytes(100)
        elif damage == "middle":
            data[len(data) // 2 : len(data) // 2 + 4096] = b"\xff" * 4096
        else:
            data[:] = b"no journal at all"
        path.write_bytes(data)
        kept = repair_journal(out)
        assert kept > 0 if damage == "middle" else kept == 0
        assert list(path.parent.glob("journal-damaged-*.sqlite"))
        result = run(calls, out, resume=True)
        assert result.counts.done == 63
        assert len(names(out)) == 63

    def test_a_damaged_journal_names_the_way_out(self, calls: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        run(calls, out)
        journal_path(out).write_bytes(b"no journal" * 1000)
        with pytest.raises(OutputError) as caught:
            run(calls, out, resume=True)
        assert "--repair" in caught.value.hint
        assert run(calls, out, overwrite=True).counts.done == 3


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere files keep their names")
def test_callers_voices_have_no_name_on_the_disk(tmp_path: Path) -> None:
    root, out = tmp_path / "calls", tmp_path / "out"
    for number in range(4):
        fake_call(root / f"{number}.wav", [4000])
    seen: list[str] = []

    def look(now: Any) -> None:
        seen.extend(path.name for path in (out / STATE_FOLDER).rglob("*.f32"))

    run(root, out, job=FakeJob(delay=0.02), progress=look)
    assert not seen
    assert no_leftovers(out)
    assert len(json.loads((out / "results.jsonl").read_text().splitlines()[0])["turns"]) == 1
