"""Pure program-level scheduling: no clock, no randomness, no sets, no I/O, no torch, no sglang.

The engine, the simulator and trace replay drive the same objects. The :class:`ProcessTable` lives
where every arrival and completion is seen and says how much service a program has attained; beside
it a :class:`Placer` says which of several replicas a call goes to. The :class:`CallScheduler` lives
beside one batch and says which call runs next. They are told the time; none of them reads it. Every
tensor-parallel rank runs its own CallScheduler, so a decision may depend only on the events, never
on a clock, a hash seed or the order of a set.
"""

from autellix_sgl.core.calls.account import Account
from autellix_sgl.core.calls.cost import CostModel, StepWork
from autellix_sgl.core.calls.levels import Levels
from autellix_sgl.core.calls.model import Call, CallStamp, CallStatistics
from autellix_sgl.core.calls.policies import POLICIES, Policy, policy_named
from autellix_sgl.core.calls.queue import CallQueue
from autellix_sgl.core.calls.waits import REASONS, Reason, by_reason
from autellix_sgl.core.memory.program_memory import ProgramMemory
from autellix_sgl.core.placement.footprint import Footprint
from autellix_sgl.core.placement.placement import PLACEMENTS, Placer
from autellix_sgl.core.programs.forecast import Forecast, Hints
from autellix_sgl.core.programs.kinds import Kinds
from autellix_sgl.core.programs.program import ActiveCall, Program, TableStatistics
from autellix_sgl.core.programs.table import ProcessTable
from autellix_sgl.core.scheduling.preemption import Candidate, Running, choose_victims
from autellix_sgl.core.scheduling.scheduler import CallScheduler
from autellix_sgl.core.scheduling.shares import SHARE_TURN_MS

__all__ = [
    "PLACEMENTS",
    "POLICIES",
    "REASONS",
    "SHARE_TURN_MS",
    "Account",
    "ActiveCall",
    "Call",
    "CallQueue",
    "CallScheduler",
    "CallStamp",
    "CallStatistics",
    "Candidate",
    "CostModel",
    "Footprint",
    "Forecast",
    "Hints",
    "Kinds",
    "Levels",
    "Placer",
    "Policy",
    "ProcessTable",
    "Program",
    "ProgramMemory",
    "Reason",
    "Running",
    "StepWork",
    "TableStatistics",
    "by_reason",
    "choose_victims",
    "policy_named",
]
