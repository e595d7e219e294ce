"""A discrete-event simulator that drives the scheduling core over program traces.

Pure: standard library, the core and the workloads. Nothing of a policy is written here but the two
oracles; levels, quanta, promotion, order and victims are the core's, through the same events as in
the engine (:mod:`autellix_sgl.sim.replay` checks that).
"""

from autellix_sgl.sim.experiments import Arrivals, Setting, compare, makespan, play, sweep
from autellix_sgl.sim.figures import figure2, figure9
from autellix_sgl.sim.hardware import A100_8B, HARDWARE, ServerModel
from autellix_sgl.sim.memory import memory
from autellix_sgl.sim.metrics import report
from autellix_sgl.sim.replay import Difference, replay, replay_file
from autellix_sgl.sim.simulation import ProgramRun, Simulation
from autellix_sgl.sim.systems import SYSTEMS, System, Tuning, system_named
from autellix_sgl.sim.work import capacity_per_s

__all__ = [
    "A100_8B",
    "HARDWARE",
    "SYSTEMS",
    "Arrivals",
    "Difference",
    "ProgramRun",
    "ServerModel",
    "Setting",
    "Simulation",
    "System",
    "Tuning",
    "capacity_per_s",
    "compare",
    "figure2",
    "figure9",
    "makespan",
    "memory",
    "play",
    "replay",
    "replay_file",
    "report",
    "sweep",
    "system_named",
]
