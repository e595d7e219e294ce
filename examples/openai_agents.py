"""The OpenAI Agents SDK: one agent looks something up, another writes; both are one program.

make serve
python examples/openai_agents.py [URL]
"""

import asyncio
import sys
from typing import Literal

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)

import autellix_sgl

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:30000"


@function_tool
def weather(city: Literal["Paris", "Rome", "Oslo"]) -> str:
    """What the weather is like in a city."""
    return f"It is sunny in {city}."


async def main() -> None:
    """Look the weather up, then write about it."""
    set_tracing_disabled(True)
    async with autellix_sgl.program("openai-agents", base_url=URL) as p:
        model = OpenAIChatCompletionsModel("default", p.async_openai())
        reporter = Agent(
            "reporter",
            instructions="Find out about the weather.",
            model=model,
            model_settings=ModelSettings(tool_choice="required", max_tokens=64),
            tools=[weather],
        )
        poet = Agent(
            "poet",
            instructions="Write one line of verse about it.",
            model=model,
            model_settings=ModelSettings(max_tokens=32),
        )
        report = await Runner.run(reporter, "What is the weather like in Rome?")
        async with p.thread("poet"):
            verse = await Runner.run(poet, str(report.final_output))
        print(verse.final_output)
        record = await asyncio.to_thread(p.state) or {}
        print(f"program {p.id}: calls by thread {record['threads']}")


if __name__ == "__main__":
    asyncio.run(main())
