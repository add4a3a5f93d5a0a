"""The readers on small trees in each official layout."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from eval_trees import OURS, common_voice, iemocap, librispeech, manifest, spoken_words, write_tone

from speechmeta.audio.loading import load_audio
from speechmeta.errors import DatasetError, UsageError
from speechmeta.eval import Dataset, read_dataset


def _all_readable(dataset: Dataset) -> None:
    for clip in dataset.clips:
        assert load_audio(clip.audio).duration > 0.2, clip.id


@pytest.mark.parametrize("below", ["", "LibriSpeech", "LibriSpeech/test-clean"])
def test_librispeech_is_read_from_any_of_its_folders(tmp_path: Path, below: str) -> None:
    dataset = read_dataset("librispeech", librispeech(tmp_path) / below)
    assert dataset.split == "test-clean"
    assert [clip.id for clip in dataset.clips] == [
        "121-121726-0000", "61-70968-0000", "61-70968-0001",
    ]  # fmt: skip
    first, second = dataset.clips[:2]
    assert (first.transcript, first.speaker) == ("ALSO A POPULAR CONTRIVANCE", "121")
    assert (first.labels, second.labels) == ({"Gender": "Female"}, {"Gender": "Male"})
    assert first.speech is True
    assert dataset.mapping["Gender"]["mapped"] == {"Female": 1, "Male": 2}
    _all_readable(dataset)


def test_librispeech_other_split_and_name_with_a_bar(tmp_path: Path) -> None:
    dataset = read_dataset("librispeech", librispeech(tmp_path), "test-other")
    assert [clip.labels for clip in dataset.clips] == [{"Gender": "Female"}]
    with pytest.raises(UsageError, match="no split 'dev-clean'"):
        read_dataset("librispeech", tmp_path, "dev-clean")


def test_librispeech_counts_recordings_without_a_transcript(tmp_path: Path) -> None:
    librispeech(tmp_path)
    folder = tmp_path / "LibriSpeech" / "test-clean" / "61" / "70968"
    write_tone(folder / "61-70968-0009.flac")
    dataset = read_dataset("librispeech", tmp_path)
    assert "1 recordings have no transcript and are left out." in dataset.notes
    assert len(dataset.clips) == 3


def test_librispeech_without_speakers(tmp_path: Path) -> None:
    librispeech(tmp_path)
    (tmp_path / "LibriSpeech" / "SPEAKERS.TXT").unlink()
    dataset = read_dataset("librispeech", tmp_path)
    assert all(not clip.labels for clip in dataset.clips)
    assert dataset.notes == ("No SPEAKERS.TXT: no gender.",)


def test_common_voice_corpus_4(tmp_path: Path) -> None:
    dataset = read_dataset("commonvoice", common_voice(tmp_path, "4"))
    assert [clip.labels for clip in dataset.clips] == [
        {"Gender": "Male", "Age": "Middle-Age", "Accent": "Europe"},
        {"Gender": "Male", "Age": "Middle-Age", "Accent": "Europe"},
        {"Gender": "Female", "Age": "Senior"},
        {},
    ]
    # A quote is a character of the sentence, not CSV's.
    assert dataset.clips[0].transcript == 'He said "no" twice.'
    assert dataset.clips[0].duration is None
    assert dataset.mapping["Accent"]["no_class"] == {"bermuda": 1}
    assert dataset.mapping["Gender"]["no_class"] == {"other": 1}
    assert dataset.mapping["Accent"]["without_value"] == 1
    _all_readable(dataset)


def test_common_voice_corpus_20(tmp_path: Path) -> None:
    dataset = read_dataset("commonvoice", common_voice(tmp_path, "20"), "test")
    assert [clip.labels for clip in dataset.clips] == [
        {"Gender": "Male", "Age": "Middle-Age", "Accent": "Europe"},
        {"Gender": "Male", "Age": "Middle-Age", "Accent": "Europe"},
        {"Gender": "Female", "Age": "Senior"},
        {},
    ]
    assert {clip.duration for clip in dataset.clips} == {0.6}
    assert dataset.mapping["Accent"]["unknown"] == {"A made-up accent": 1}
    assert dataset.mapping["Gender"]["no_class"] == {"non-binary": 1}
    _all_readable(dataset)


def test_common_voice_says_what_is_there(tmp_path: Path) -> None:
    common_voice(tmp_path, "20")
    with pytest.raises(UsageError, match=r"no split 'train'.*found test"):
        read_dataset("commonvoice", tmp_path, "train")
    (tmp_path / "cv-corpus-20.0-2024-12-06" / "en" / "test.tsv").write_text("path\tage\nx\ty\n")
    with pytest.raises(DatasetError, match="line 2: no client_id, sentence"):
        read_dataset("commonvoice", tmp_path)


def test_iemocap_four_classes(tmp_path: Path) -> None:
    dataset = read_dataset("iemocap", iemocap(tmp_path))
    assert len(dataset.clips) == 40
    emotions = Counter(clip.labels.get("Emotion") for clip in dataset.clips)
    assert emotions == {"Neutral": 5, "Happy": 10, "Anger": 5, "Sad": 5, None: 15}
    assert dataset.mapping["Emotion"]["no_class"] == {"fru": 5, "xxx": 5, "sur": 5}
    assert dataset.classes == {"Emotion": ("Happy", "Sad", "Anger", "Neutral")}
    assert dataset.folds == "session"
    clip = dataset.clips[1]
    assert clip.id == "Ses01F_impro01_F001"
    assert (clip.speaker, clip.labels["Gender"]) == ("Ses01F", "Female")
    assert clip.groups == {"session": "Session1", "style": "improvised"}
    assert clip.transcript == "Line hap of the play."
    assert clip.duration == pytest.approx(0.5)
    _all_readable(dataset)


def test_iemocap_five_classes_and_a_fold(tmp_path: Path) -> None:
    dataset = read_dataset("iemocap", iemocap(tmp_path), "Session3", classes=5)
    assert len(dataset.clips) == 8
    emotions = Counter(clip.labels.get("Emotion") for clip in dataset.clips)
    assert emotions == {"Neutral": 1, "Happy": 2, "Anger": 1, "Sad": 1, "Frustrated": 1, None: 2}
    assert {clip.groups["session"] for clip in dataset.clips} == {"Session3"}
    with pytest.raises(UsageError, match="6-class"):
        read_dataset("iemocap", tmp_path, classes=6)
    with pytest.raises(UsageError, match="no split 'session6'"):
        read_dataset("iemocap", tmp_path, "session6")


@pytest.mark.parametrize("combined", [True, False])
def test_spoken_words_are_read_in_either_layout(tmp_path: Path, combined: bool) -> None:
    dataset = read_dataset("mswc", spoken_words(tmp_path, combined))
    assert [(clip.transcript, dict(clip.labels)) for clip in dataset.clips] == [
        ("yes", {"Gender": "Male"}),
        ("no", {"Gender": "Female"}),
    ]
    assert "1 rows that the corpus marks as not valid are left out." in dataset.notes
    dev = read_dataset("mswc", tmp_path, "dev")
    assert dev.mapping["Gender"]["no_class"] == {"NAN": 1}
    _all_readable(dataset)


def test_manifest_in_our_keys(tmp_path: Path) -> None:
    dataset = read_dataset("manifest", manifest(tmp_path / "dev.jsonl", OURS))
    assert [clip.id for clip in dataset.clips] == [row["audio"] for row in OURS]
    assert dataset.clips[0].reference() == {
        "SpeechActivity": True,
        "Transcript": "Hello there, Mr. Smith",
        "Gender": "Female",
        "Age": "Young",
        "Accent": "America",
        "Emotion": "Happy",
    }
    assert dataset.clips[3].reference() == {"SpeechActivity": False}
    assert [clip.dataset for clip in dataset.clips] == ["one", "one", "two", "noise", "two"]
    _all_readable(dataset)


def test_manifest_in_the_leaderboards_keys(tmp_path: Path) -> None:
    absolute = tmp_path / "elsewhere.wav"
    rows = [
        {"audio_filepath": "x.wav", "duration": 0.5, "time": 0.1, "text": "a b", "pred_text": "a"},
        {"audio_filepath": str(absolute), "duration": 1.5, "text": "c"},
    ]
    dataset = read_dataset("manifest", manifest(tmp_path / "sub" / "m.jsonl", rows))
    assert [clip.audio for clip in dataset.clips] == [tmp_path / "sub" / "x.wav", absolute]
    assert [clip.transcript for clip in dataset.clips] == ["a b", "c"]
    # A transcript says that there is speech; the source takes the manifest's name.
    assert {(clip.speech, clip.dataset) for clip in dataset.clips} == {(True, "m")}


def test_manifest_maps_and_counts_labels(tmp_path: Path) -> None:
    rows = [
        {"audio": "a.wav", "gender": "female", "age": "42", "emotion": "angry", "accent": "us"},
        {"audio": "b.wav", "gender": "dragon", "age": "thirties", "emotion": "fearful"},
    ]
    dataset = read_dataset("manifest", manifest(tmp_path / "m.jsonl", rows))
    assert dataset.clips[0].labels == {
        "Gender": "Female", "Age": "Middle-Age", "Accent": "America", "Emotion": "Anger",
    }  # fmt: skip
    assert dataset.clips[1].labels == {"Age": "Middle-Age"}
    assert dataset.mapping["Gender"]["unknown"] == {"dragon": 1}
    assert dataset.mapping["Emotion"]["no_class"] == {"fearful": 1}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2"),
        ("[]", "not an object"),
        ('{"text": "a"}', "no audio path"),
        ('{"audio": "a.wav", "speech": "yes"}', "not true or false"),
        ('{"audio": "a.wav", "transcript": 5}', "not text"),
        ('{"audio": "a.wav", "duration": "long"}', "line 2"),
    ],
)
def test_manifest_names_the_bad_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"audio": "ok.wav"}\n' + line + "\n")
    with pytest.raises(DatasetError, match=message):
        read_dataset("manifest", path)


def test_manifest_keeps_a_clip_that_stands_twice(tmp_path: Path) -> None:
    rows = [{"audio": "a.wav", "text": "one"}, {"audio": "a.wav", "text": "two"}]
    dataset = read_dataset("manifest", manifest(tmp_path / "m.jsonl", rows))
    assert [clip.id for clip in dataset.clips] == ["a.wav", "a.wav#2"]


def test_labels_of_clips_without_speech_are_not_asked_for(tmp_path: Path) -> None:
    rows = [
        {"audio": "laugh.wav", "speech": False, "emotion": "Happy"},
        {"audio": "talk.wav", "speech": True, "emotion": "Happy"},
    ]
    dataset = read_dataset("manifest", manifest(tmp_path / "m.jsonl", rows))
    assert [clip.labels for clip in dataset.clips] == [{}, {"Emotion": "Happy"}]
    assert dataset.notes == ("Labels of 1 clips without speech are left out.",)


def test_the_two_halves_of_a_manifest_share_no_speaker(tmp_path: Path) -> None:
    rows = [{"audio": f"{i}.wav", "text": "a", "speaker": f"s{i // 2}"} for i in range(18)]
    path = manifest(tmp_path / "m.jsonl", rows)
    halves = {name: read_dataset("manifest", path, name) for name in ("tune", "test")}
    assert [(name, half.split, len(half.clips)) for name, half in halves.items()] == [
        ("tune", "tune", 6), ("test", "test", 12),
    ]  # fmt: skip
    speakers = [{clip.speaker for clip in half.clips} for half in halves.values()]
    assert not speakers[0] & speakers[1]


@pytest.mark.parametrize("name", ["librispeech", "commonvoice", "iemocap", "mswc"])
def test_a_folder_of_something_else_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(DatasetError, match=r"is not an? "):
        read_dataset(name, tmp_path)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    path = manifest(tmp_path / "m.jsonl", OURS)
    with pytest.raises(UsageError, match="unknown data set"):
        read_dataset("timit", tmp_path)
    with pytest.raises(DatasetError, match="there is no"):
        read_dataset("manifest", tmp_path / "absent.jsonl")
    with pytest.raises(UsageError, match="no split 'dev'"):
        read_dataset("manifest", path, "dev")
    with pytest.raises(UsageError, match="option of iemocap"):
        read_dataset("manifest", path, classes=4)
    with pytest.raises(UsageError, match="at least 1"):
        read_dataset("manifest", path, limit=0)
    with pytest.raises(UsageError, match="sample is 0"):
        read_dataset("manifest", path, sample=0)
    assert len(read_dataset("manifest", path, limit=2).clips) == 2


def test_a_smaller_sample_is_part_of_a_larger_one(tmp_path: Path) -> None:
    rows = [{"audio": f"{i}.wav", "text": "x"} for i in range(60)]
    path = manifest(tmp_path / "m.jsonl", rows)
    everything = [clip.id for clip in read_dataset("manifest", path).clips]
    few, more = (read_dataset("manifest", path, sample=n) for n in (10, 30))
    names = [clip.id for clip in more.clips]
    assert (len(few.clips), len(names)) == (10, 30)
    assert {clip.id for clip in few.clips} < set(names)
    assert names == [name for name in everything if name in names]
    assert names != everything[:30]
    assert "30 of 60 clips, drawn by their names." in more.notes
    assert len(read_dataset("manifest", path, sample=60).clips) == 60


def test_the_shared_dev_manifest(shared_dir: Path) -> None:
    path = shared_dir / "speech" / "dev.jsonl"
    if not path.is_file():
        pytest.skip(f"no {path}")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    dataset = read_dataset("manifest", path)
    assert len(dataset.clips) == len(rows)
    for clip, row in zip(dataset.clips, rows, strict=True):
        assert clip.audio.is_file()
        for field in ("Gender", "Age", "Accent", "Emotion"):
            assert clip.labels.get(field) == (row[field.lower()] if row["speech"] else None)
    assert all(not item["unknown"] for item in dataset.mapping.values())
