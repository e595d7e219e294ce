"""Tree of thought in SGLang's language: think in three branches at once, then keep the best.

    make serve
    python examples/tree_of_thought.py [URL]

The whole run is one program and each branch of ``fork`` a thread of it, because the backend is
ours. Nothing else is different from SGLang's own examples.
"""

import sys
from typing import Any

import autellix_sgl
from autellix_sgl import RuntimeEndpoint  # without a GPU, this makes SGLang importable

# isort: split
import sglang as sgl

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:30000"
QUESTION = "How can a small town get more visitors?"
BRANCHES = 3


@sgl.function
def tree_of_thought(s: Any, question: str) -> None:
    """Propose, judge each proposal in its own branch, and explain the one that was rated best."""
    s += sgl.user(question)
    forks = s.fork(BRANCHES)
    for number, branch in enumerate(forks):
        branch += sgl.assistant(
            f"Idea {number + 1}: " + sgl.gen("idea", max_tokens=24, stop="\n", temperature=0.8)
        )
        branch += sgl.user("How good is this idea, from 1 to 5?")
        branch += sgl.assistant(sgl.gen("grade", max_tokens=1, regex="[1-5]"))
    grades = [int(branch["grade"]) for branch in forks]
    ideas = [branch["idea"].strip() for branch in forks]
    forks.join()
    best = ideas[grades.index(max(grades))]
    s += sgl.assistant("My best idea: " + best)
    s += sgl.user("Explain it in one sentence.")
    s += sgl.assistant(sgl.gen("answer", max_tokens=32, temperature=0))


def main() -> None:
    """Run it inside of a program, to look at that before it ends."""
    sgl.set_default_backend(RuntimeEndpoint(URL))
    with autellix_sgl.program("tree-of-thought", base_url=URL) as p:
        state = tree_of_thought.run(question=QUESTION)
        print(state["answer"])
        record = p.state() or {}
        print(f"program {p.id}: calls by thread {record['threads']}")


if __name__ == "__main__":
    main()
