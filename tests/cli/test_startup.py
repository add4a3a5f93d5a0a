"""What a command sets before it imports torch and loads a model."""

from __future__ import annotations

import gc
import os

import pytest

from speechmeta.cli.startup import let_threads_sleep, without_garbage_collection

_NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in _NAMES:
        # Set first, so that what the code under test sets is taken away at the end.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return monkeypatch


def test_threads_that_wait_do_not_spin_for_long(unset: pytest.MonkeyPatch) -> None:
    let_threads_sleep()
    assert 0 < int(os.environ["GOMP_SPINCOUNT"]) < 300_000, "GNU's own"
    assert 0 < int(os.environ["KMP_BLOCKTIME"]) < 200, "LLVM's own"


def test_what_the_user_chose_for_threads_stays(unset: pytest.MonkeyPatch) -> None:
    unset.setenv("OMP_WAIT_POLICY", "ACTIVE")
    let_threads_sleep()
    assert "GOMP_SPINCOUNT" not in os.environ
    unset.delenv("OMP_WAIT_POLICY")
    unset.setenv("GOMP_SPINCOUNT", "7")
    let_threads_sleep()
    assert os.environ["GOMP_SPINCOUNT"] == "7"


def test_garbage_is_looked_for_again_after_the_start() -> None:
    assert gc.isenabled()
    try:
        with pytest.raises(KeyError):
            _fail_within()
        assert gc.isenabled()
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()


def _fail_within() -> None:
    with without_garbage_collection():
        assert not gc.isenabled()
        raise KeyError
