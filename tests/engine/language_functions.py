"""Programs in SGLang's language, as its documentation has them. Importing this imports sglang."""

from __future__ import annotations

from typing import Any

import sglang as sgl


@sgl.function
def few_shot(s: Any, question: str) -> None:
    s += "Q: What is the capital of France?\nA: Paris\n"
    s += "Q: " + question + "\nA:" + sgl.gen("answer", stop="\n", max_tokens=8, temperature=0)


@sgl.function
def multi_turn(s: Any, first: str, second: str) -> None:
    s += sgl.system("You are a helpful assistant.")
    s += sgl.user(first)
    s += sgl.assistant(sgl.gen("answer_1", max_tokens=8))
    s += sgl.user(second)
    s += sgl.assistant(sgl.gen("answer_2", max_tokens=8))


@sgl.function
def tip_suggestion(s: Any) -> None:
    s += "Here are two tips for staying healthy: 1. Diet. 2. Exercise.\n\n"
    forks = s.fork(2)
    for i, branch in enumerate(forks):
        branch += f"Now, expand tip {i + 1} into a paragraph:\n"
        branch += sgl.gen("detailed_tip", max_tokens=8, stop="\n\n")
    s += "Tip 1:" + forks[0]["detailed_tip"] + "\n"
    s += "Tip 2:" + forks[1]["detailed_tip"] + "\n"
    s += "In summary" + sgl.gen("summary", max_tokens=8)


@sgl.function
def choose(s: Any, question: str) -> None:
    s += "To answer this question: " + question + ", "
    s += "I need to use a " + sgl.select("tool", choices=["calculator", "search engine"])
    s += sgl.gen("number", max_tokens=4, regex=r"[0-9]{2}")
