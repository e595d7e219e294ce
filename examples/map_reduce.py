"""Map and reduce with asyncio: summarise parts at once, then the summaries.

    make serve
    python examples/map_reduce.py [URL]

Each part is a thread of the program, so that its calls are one chain.
"""

import asyncio
import sys

import autellix_sgl

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:30000"
PARTS = [
    "The river rose for three days. On the fourth the lower bridge was closed to lorries.",
    "The council met in the school, since the town hall's cellar stood under water.",
    "Volunteers from the next valley brought pumps, blankets and a great deal of soup.",
]


async def main() -> None:
    """One program with a thread for each part."""
    async with autellix_sgl.program("map-reduce", base_url=URL) as p, p.async_openai() as client:

        async def summarise(text: str) -> str:
            completion = await client.chat.completions.create(
                model="default",
                messages=[{"role": "user", "content": f"Summarise in a few words: {text}"}],
                max_tokens=24,
            )
            return completion.choices[0].message.content or ""

        async def map_part(number: int, part: str) -> str:
            async with p.thread(f"part-{number}"):
                return await summarise(part)

        summaries = await asyncio.gather(*(map_part(i, part) for i, part in enumerate(PARTS)))
        print(await summarise(" ".join(summaries)))
        record = await asyncio.to_thread(p.state) or {}
        print(f"program {p.id}: calls by thread {record['threads']}")


if __name__ == "__main__":
    asyncio.run(main())
