"""Pure program-level scheduling: no clock, no randomness, no sets, no I/O, no torch, no sglang.

The engine, the simulator and trace replay drive the same objects. The :class:`ProcessTable` lives
where every arrival and completion is seen and says how much service a program has attained; beside
it a :class:`Placer` says which of several replicas a call goes to. The :class:`CallScheduler` lives
beside one batch and says which call runs next. They are told the time; none of them reads it. Every
tensor-parallel rank runs its own CallScheduler, so a decision may depend only on the events, never
on a clock, a hash seed or the order of a set.
"""

from autellix_sgl.core.cost import CostModel, StepWork
from autellix_sgl.core.footprint import Footprint
from autellix_sgl.core.forecast import Forecast, Hints
from autellix_sgl.core.kinds import Kinds
from autellix_sgl.core.levels import Levels
from autellix_sgl.core.model import Call, CallStamp, CallStatistics
from autellix_sgl.core.placement import PLACEMENTS, Placer
from autellix_sgl.core.policies import POLICIES, Policy, policy_named
from autellix_sgl.core.preemption import Candidate, Running, choose_victims
from autellix_sgl.core.program import ActiveCall, Program, TableStatistics
from autellix_sgl.core.program_memory import ProgramMemory
from autellix_sgl.core.queue import CallQueue
from autellix_sgl.core.scheduler import CallScheduler
from autellix_sgl.core.shares import SHARE_TURN_MS, Account
from autellix_sgl.core.table import ProcessTable
from autellix_sgl.core.waits import REASONS, Reason, by_reason

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
