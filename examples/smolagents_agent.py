"""A smolagents agent that calls tools: every step of it is a call of one program.

    make serve
    python examples/smolagents_agent.py [URL]

smolagents makes its own OpenAI client; the program's httpx client inside of that does the rest.
"""

import sys

from smolagents import OpenAIServerModel, ToolCallingAgent, tool

import autellix_sgl

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:30000"
STEPS = 3


@tool
def opening_hours(day: str) -> str:
    """When the library is open.

    Args:
        day: a day of the week.
    """
    return "closed" if day.lower().startswith("su") else "nine to five"


def main() -> None:
    """Give it a few steps; a model as small as the default one rarely needs fewer."""
    with autellix_sgl.program("smolagents", base_url=URL) as p:
        model = OpenAIServerModel(
            "default",
            api_base=URL + "/v1",
            api_key="unused",
            client_kwargs={"http_client": p.httpx()},
            max_tokens=64,
        )
        agent = ToolCallingAgent([opening_hours], model, max_steps=STEPS, verbosity_level=0)
        print(agent.run("When is the library open on Monday?"))
        print(f"program {p.id}: {(p.state() or {})['calls_completed']} calls")


if __name__ == "__main__":
    main()
