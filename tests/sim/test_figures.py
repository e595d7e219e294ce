from __future__ import annotations

from autellix_sgl.sim import figure2, figure9


def test_figure_2_total_waiting() -> None:
    """18 for FCFS and MLFQ, 14 for PLAS with a first quantum of 4; 13 when preempting at 2.

    The paper prints 18, 18 and 12 without its quanta.
    """
    found = figure2()
    waiting = found["total_waiting"]
    assert waiting == {"fcfs": 18, "mlfq": 18, "plas": 14, "atlas": 14}
    finer = found["total_waiting_when_preempting_at_2"]
    assert isinstance(finer, dict)
    assert finer["plas"] == 13
    assert found["levels"] == [
        {"from_ms": 0.0, "to_ms": 2.0, "quantum_ms": 4.0},
        {"from_ms": 2.0, "to_ms": None, "quantum_ms": None},
    ]


def test_figure_9_makespan() -> None:
    """The DAG takes 14 units in arrival order and 11 by critical path, as in the paper."""
    assert figure9()["makespan"] == {"fcfs": 14, "atlas": 11}
