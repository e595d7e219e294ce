"""Each importer on a small file of its format, and on files with one thing wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autellix_sgl.errors import ConfigError
from autellix_sgl.workloads import TOOL, WorkloadError
from autellix_sgl.workloads.importers import import_programs


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_sharegpt_turns_become_calls(tmp_path: Path) -> None:
    """Question and answer pairs, each on top of what was said; a question left open is dropped."""
    talk = [("gpt", "tail"), ("human", "a" * 40), ("gpt", "b" * 80), ("human", "c" * 20),
            ("gpt", "d" * 8), ("human", "open")]  # fmt: skip
    entries = [
        {"id": "x", "conversations": [{"from": who, "value": what} for who, what in talk]},
        {"id": "y", "conversations": [{"from": "human", "value": "nobody answers"}]},
    ]
    [program] = import_programs("sharegpt", [write(tmp_path / "s.json", json.dumps(entries))])
    first, second = program.calls
    assert (first.prompt_tokens, first.output_tokens) == (10, 20)
    assert (second.shared_tokens, second.new_tokens, second.output_tokens) == (30, 5, 2)


def test_sharegpt_errors_name_the_entrys_line(tmp_path: Path) -> None:
    """The array's third line holds the bad entry."""
    text = '[\n {"conversations": []},\n {"conversations": [{"from": "cat", "value": "x"}]}\n]'
    with pytest.raises(WorkloadError) as caught:
        import_programs("sharegpt", [write(tmp_path / "s.json", text)])
    assert (caught.value.line, caught.value.field) == (3, "conversations[0].from")


def test_bfcl_results_have_exact_lengths(tmp_path: Path) -> None:
    """What a step adds is its prompt less the context before it."""
    line = {"id": "multi_turn_base_0", "input_token_count": [[100, 150], [300]],
            "output_token_count": [[20, 30], [40]], "latency": [[1, 1], [1]]}  # fmt: skip
    [program] = import_programs("bfcl", [write(tmp_path / "b.json", json.dumps(line))])
    assert [call.prompt_tokens for call in program.calls] == [100, 150, 300]
    assert [call.shared_tokens for call in program.calls] == [0, 120, 180]


def test_bfcl_questions_give_a_call_a_function_and_one_a_turn(tmp_path: Path) -> None:
    """Two functions and an answer, one function and an answer; tool sets share a system prompt."""
    line = {"id": "q", "question": [[{"role": "user", "content": "x" * 40}],
                                    [{"role": "user", "content": "y" * 80}]],
            "involved_classes": ["GorillaFileSystem"],
            "ground_truth": [["cd('a')", "ls()"], ["pwd()"]]}  # fmt: skip
    path = write(tmp_path / "b.json", json.dumps(line) + "\n" + json.dumps({**line, "id": "r"}))
    programs = import_programs("bfcl", [path])
    assert [len(program.calls) for program in programs] == [5, 5]
    assert programs[0].calls[0].system == programs[1].calls[0].system == "GorillaFileSystem"
    assert programs[0].calls[3].new_tokens == 20
    del line["ground_truth"]
    line["path"] = ["F.cd", "F.ls", "F.pwd"]  # type: ignore[assignment]
    [bare] = import_programs("bfcl", [write(tmp_path / "c.json", json.dumps(line))])
    assert len(bare.calls) == 5


TRIE = {
    "num_turns": 2,
    "input_prompt_length": 32,
    "assistant_response_length": [16, 20],
    "tool_call_output_length": [8, 12],
    "tool_call_latency": [0.5, 0.0],
    "final_assistant_response_length": 64,
}


def test_trie_lines_are_linear_sessions(tmp_path: Path) -> None:
    """num_turns + 1 calls, latencies in seconds."""
    [program] = import_programs("trie", [write(tmp_path / "t.jsonl", json.dumps(TRIE))])
    assert [call.prompt_tokens for call in program.calls] == [32, 56, 88]
    assert [call.output_tokens for call in program.calls] == [16, 20, 64]
    gap = program.calls[1].interrupt
    assert gap is not None
    assert (gap.kind, gap.duration_ms) == (TOOL, 500)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"num_turns": 3}, "assistant_response_length"),
        ({"tool_call_latency": [0.1, -1]}, "tool_call_latency[1]"),
        ({"assistant_response_length": [16, "x"]}, "assistant_response_length[1]"),
        ({"input_prompt_length": 0}, "input_prompt_length"),
        ({"final_assistant_response_length": 1.5}, "final_assistant_response_length"),
    ],
)
def test_trie_errors_name_line_and_field(
    tmp_path: Path, change: dict[str, object], field: str
) -> None:
    """The second line is the bad one."""
    text = json.dumps(TRIE) + "\n" + json.dumps({**TRIE, **change})
    with pytest.raises(WorkloadError) as caught:
        import_programs("trie", [write(tmp_path / "t.jsonl", text)])
    assert (caught.value.line, caught.value.field) == (2, field)


def said(
    role: str, tokens: int, path: list[int], chat: int = 0, **more: object
) -> dict[str, object]:
    return {"event_type": "message", "branch_path": path, "conversation_id": chat, "role": role,
            "tokens": tokens, **more}  # fmt: skip


def called(
    prompt: int, output: int, path: list[int], chat: int = 0, reasoning: int = 0
) -> dict[str, object]:
    return {"event_type": "message", "branch_path": path, "conversation_id": chat,
            "role": "assistant", "prompt_tokens": prompt, "completion_tokens": output,
            "reasoning_tokens": reasoning}  # fmt: skip


def trace(tmp_path: Path, events: list[dict[str, object]]) -> Path:
    return write(tmp_path / "t.trace.json", json.dumps({"trace_id": "t", "events": events}))


def test_tensorrt_linear_trace(tmp_path: Path) -> None:
    """Lengths of the example that TensorRT-LLM ships, and its tool time before the second call."""
    events = [
        said("system", 2269, []),
        said("user", 157, []),
        called(2426, 1444, []),
        {"event_type": "tool_call", "branch_path": [], "tool_name": "read", "duration_ms": 108.0},
        said("tool", 6869, []),
        called(10751, 437, []),
        {"event_type": "drop_kv_cache", "branch_path": []},
    ]
    [program] = import_programs("tensorrt-llm", [trace(tmp_path, events)])
    first, second = program.calls
    assert (first.shared_tokens, first.new_tokens) == (2269, 157)
    assert (second.shared_tokens, second.prompt_tokens) == (3870, 10751)
    assert second.interrupt is not None
    assert second.interrupt.duration_ms == 108.0


def test_tensorrt_branches_run_in_parallel_and_join(tmp_path: Path) -> None:
    """Two researchers hang on the supervisor's call, and its next call waits for both."""
    events = [
        said("system", 50, [], system_prompt_id="boss"),
        called(60, 5, []),
        {"event_type": "parallel_start", "branch_path": [], "num_branches": 2},
        said("system", 30, [0], 1, system_prompt_id="researcher"),
        said("system", 30, [1], 2, system_prompt_id="researcher"),
        called(40, 7, [0], 1),
        called(41, 8, [1], 2),
        called(70, 9, [1], 2, reasoning=4),
        called(90, 3, [1], 2),
        {"event_type": "parallel_end", "branch_path": []},
        called(100, 4, []),
    ]
    [program] = import_programs("tensorrt-llm", [trace(tmp_path, events)])
    assert [call.parents for call in program.calls] == [(), (0,), (0,), (2,), (3,), (1, 4)]
    assert [call.system for call in program.calls[1:3]] == ["researcher", "researcher"]
    assert program.calls[4].shared_tokens == 70  # reasoning is not sent again
    assert program.calls[5].extends == 0
    assert {call.thread for call in program.calls} == {"", "0", "1"}


def test_tensorrt_children_are_branches_of_one_event(tmp_path: Path) -> None:
    """A parallel_start that holds its children forks and joins by itself."""
    events = [
        called(10, 1, []),
        {"event_type": "parallel_start", "branch_path": [],
         "children": [called(11, 2, [], 1), called(12, 3, [], 2)]},
        called(20, 4, []),
    ]  # fmt: skip
    [program] = import_programs("tensorrt-llm", [trace(tmp_path, events)])
    assert [call.parents for call in program.calls] == [(), (0,), (0,), (1, 2)]


def test_tensorrt_errors_name_the_event(tmp_path: Path) -> None:
    """The second event lacks what its call produced."""
    bad = called(10, 1, [])
    del bad["completion_tokens"]
    with pytest.raises(WorkloadError) as caught:
        import_programs("tensorrt-llm", [trace(tmp_path, [called(9, 1, []), bad])])
    assert caught.value.field == "events[1].completion_tokens"


def test_missing_empty_and_unknown_sources_are_refused(tmp_path: Path) -> None:
    """The message names the file or the formats."""
    with pytest.raises(WorkloadError, match=r"nowhere\.jsonl"):
        import_programs("trie", [tmp_path / "nowhere.jsonl"])
    with pytest.raises(ConfigError, match="no programs"):
        import_programs("trie", [write(tmp_path / "e.jsonl", "\n")])
    with pytest.raises(ConfigError, match="sharegpt"):
        import_programs("csv", [])


def test_the_same_id_twice_is_told_apart(tmp_path: Path) -> None:
    """Two files of one format may number their programs alike."""
    path = write(tmp_path / "t.jsonl", json.dumps(TRIE))
    assert [p.id for p in import_programs("trie", [path, path])] == ["trie-1", "trie-1#2"]
