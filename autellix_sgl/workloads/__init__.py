"""Agent programs as data, pure: a trace model, generators with published statistics, importers.

Standard library only; randomness comes in as ``random.Random``, so a seed gives the same programs
on every machine.
"""

from autellix_sgl.workloads.arrivals import (
    all_at_once,
    at_times,
    burst_times,
    closed_loop,
    poisson_times,
)
from autellix_sgl.workloads.builder import ProgramBuilder
from autellix_sgl.workloads.errors import WorkloadError
from autellix_sgl.workloads.generators import GENERATORS, WORKLOADS, generate
from autellix_sgl.workloads.model import HUMAN, TOOL, Interrupt, ProgramTrace, TracedCall, Workload
from autellix_sgl.workloads.outcomes import Outcome, compared, jain, quantiles
from autellix_sgl.workloads.statistics import PUBLISHED_MEANS, describe, percentile, summary
from autellix_sgl.workloads.trace_file import load, save
from autellix_sgl.workloads.transforms import scaled, with_interrupts, with_tool_times

__all__ = [
    "GENERATORS",
    "HUMAN",
    "PUBLISHED_MEANS",
    "TOOL",
    "WORKLOADS",
    "Interrupt",
    "Outcome",
    "ProgramBuilder",
    "ProgramTrace",
    "TracedCall",
    "Workload",
    "WorkloadError",
    "all_at_once",
    "at_times",
    "burst_times",
    "closed_loop",
    "compared",
    "describe",
    "generate",
    "jain",
    "load",
    "percentile",
    "poisson_times",
    "quantiles",
    "save",
    "scaled",
    "summary",
    "with_interrupts",
    "with_tool_times",
]
