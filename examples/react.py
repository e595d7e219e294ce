"""A ReAct loop with the OpenAI client: the model picks a tool call, we run it, it goes on.

make serve
python examples/react.py [URL]
"""

import json
import sys
from typing import Any

import autellix_sgl

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:30000"
POPULATION = {"Paris": 2_103_000, "Rome": 2_751_000, "Oslo": 717_000}
STEPS = 3


TOOL: Any = {
    "type": "function",
    "function": {
        "name": "population",
        "description": "How many people live in a city?",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": list(POPULATION)}},
            "required": ["city"],
        },
    },
}


def main() -> None:
    """Let the model look up cities, then answer."""
    with autellix_sgl.program("react", base_url=URL) as p:
        chat = p.openai().chat.completions
        messages: list[Any] = [{"role": "user", "content": "Is Paris larger than Rome?"}]
        for _ in range(STEPS):
            asked = chat.create(
                model="default",
                messages=messages,
                tools=[TOOL],
                tool_choice="required",
                parallel_tool_calls=False,
                max_tokens=64,
            )
            message = asked.choices[0].message
            messages.append(message.model_dump(exclude_none=True))
            for call in message.tool_calls or ():
                arguments = json.loads(call.function.arguments)
                found = str(POPULATION[arguments["city"]])
                print(f"population({arguments['city']}) = {found}")
                messages.append({"role": "tool", "tool_call_id": call.id, "content": found})
        answer = chat.create(model="default", messages=messages, max_tokens=32)
        print(answer.choices[0].message.content)
        print(f"program {p.id}: {(p.state() or {})['calls_completed']} calls")


if __name__ == "__main__":
    main()
