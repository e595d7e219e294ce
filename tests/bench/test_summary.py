"""The metrics of a run, on a case small enough to work out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.records import CallRecord, ProgramRecord, read_calls, recorder
from bench.summary import summarize, table_row


def call(program: str, number: int, sent_s: float, end_s: float, **more: Any) -> CallRecord:
    reported: dict[str, Any] = {
        "cached_tokens": 30,
        "wait_s": 0.5,
        "preemptions": 1,
        "promotions": 0,
        **more,
    }
    return CallRecord(
        program=program,
        call=number,
        due_s=sent_s - 0.001,
        sent_s=sent_s,
        end_s=end_s,
        prompt_tokens=100,
        output_tokens=10,
        **reported,
    )


def program(name: str, arrival_s: float, end_s: float, tokens: int) -> ProgramRecord:
    return ProgramRecord(
        program=name,
        kind="chat",
        calls=1,
        output_tokens=tokens,
        arrival_s=arrival_s,
        end_s=end_s,
    )


PROGRAMS = [program("a", 0.0, 2.0, 20), program("b", 1.0, 4.0, 10)]
CALLS = [call("a", 0, 0.0, 1.0), call("a", 1, 1.0, 2.0), call("b", 0, 1.0, 4.0, wait_s=2.0)]


def test_the_metrics_of_two_programs() -> None:
    """a: 2 s for 20 tokens, 100 ms a token; b: 3 s for 10, 300 ms a token."""
    found = summarize(PROGRAMS, CALLS)
    assert found["token_latency_ms"] == pytest.approx(
        {"mean": 200, "p50": 100, "p95": 300, "p99": 300}
    )
    assert found["response_ms"]["mean"] == pytest.approx(2500)
    assert found["makespan_s"] == 4.0
    assert found["programs_per_s"] == pytest.approx(0.5)
    assert found["tokens_per_s"] == pytest.approx(7.5)
    assert found["cache_hit_rate"] == pytest.approx(0.3)
    assert found["preemptions"] == 3
    assert found["wait_s"] == pytest.approx(1.5)  # (0.5 + 0.5 + 2.0) / 2 programs
    assert found["run_s"] == pytest.approx(1.0)  # (1 + 1 + 3 - 3) / 2
    assert found["max_call_wait_s"] == 2.0
    assert found["jain_index"] == pytest.approx((10 + 10 / 3) ** 2 / (2 * (100 + 100 / 9)))
    assert found["client_late_ms"]["p99"] == pytest.approx(1.0)


def test_what_a_server_does_not_report_is_not_zero() -> None:
    found = summarize(PROGRAMS, [*CALLS[:2], call("b", 0, 1.0, 4.0, wait_s=None)])
    assert found["wait_s"] is None
    assert found["recomputed_tokens"] is None
    assert table_row("x", 1, found)["wait s"] == "-"


def test_records_survive_a_line_that_was_cut_off(tmp_path: Path) -> None:
    with recorder(tmp_path) as records:
        for record in CALLS:
            records.call(record)
    with (tmp_path / "calls.jsonl").open("a") as file:
        file.write('{"program": "c", "ca')
    assert read_calls(tmp_path) == CALLS
