"""docs/responsible-use.md holds what was measured and what the policies are."""

from __future__ import annotations

import json
import re
from pathlib import Path

from speechmeta.pipeline import policy

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "responsible-use.md").read_text(encoding="utf-8")


def test_the_gaps_are_those_of_the_report() -> None:
    report = json.loads((ROOT / "eval" / "results" / "bundled-test.json").read_text())
    groups = {
        name: item for part in report["groups"].values() for name, item in part["groups"].items()
    }
    rows = re.findall(r"^\| (\S+) \| (\d+) \| (.+) \|$", PAGE, re.MULTILINE)
    assert len(rows) == 10
    for name, speakers, cells in rows:
        group = groups[name]
        low, high = (100 * edge for edge in group["wer_interval"])
        expected = [f"{100 * group['wer']:.1f} % ({low:.1f} to {high:.1f})"] + [
            f"{100 * found['accuracy']:.1f} % ({found['n']})"
            for found in (group["accuracy"][field] for field in ("Gender", "Age", "Accent"))
        ]
        assert (int(speakers), cells.split(" | ")) == (group["speakers"], expected)


def test_policies_roles_and_reasons_are_all_on_the_page() -> None:
    names = {*policy.POLICIES, *policy.AGENT_NAMES, *policy.CUSTOMER_NAMES}
    reasons = {policy.NOT_ASKED, policy.NOT_ALLOWED, policy.ON_DEMAND, policy.ROLE_UNKNOWN}
    text = " ".join(PAGE.split())
    assert [item for item in names | reasons | {policy.NOT_GIVEN} if item not in text] == []
