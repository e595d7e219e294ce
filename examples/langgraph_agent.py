"""A LangGraph agent: a graph of model calls and a tool, all of it one program.

    make serve
    python examples/langgraph_agent.py [URL]

LangChain's OpenAI model takes an httpx client; the program's says which program it is.
"""

import sys
from typing import Any

from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode

import autellix_sgl

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:30000"


@tool(parse_docstring=False)
def is_open(shop: str) -> str:
    """Look up whether a shop is open. The shop is one of: bakery, butcher, bookshop."""
    return f"The {shop} is open until six."


def agent(p: autellix_sgl.Program) -> Any:
    """Call the tool once, then answer with what it said."""
    model = ChatOpenAI(
        model="default",
        base_url=URL + "/v1",
        api_key=lambda: "unused",
        max_completion_tokens=48,
        http_client=p.httpx(),
    )
    calling = model.bind_tools([is_open], tool_choice="is_open")
    graph = StateGraph(MessagesState)
    graph.add_node("think", lambda state: {"messages": [calling.invoke(state["messages"])]})
    graph.add_node("act", ToolNode([is_open]))
    graph.add_node("answer", lambda state: {"messages": [model.invoke(state["messages"])]})
    graph.add_edge(START, "think")
    graph.add_edge("think", "act")
    graph.add_edge("act", "answer")
    graph.add_edge("answer", END)
    return graph.compile()


def main() -> None:
    """Ask, and show what the server made of it."""
    with autellix_sgl.program("langgraph", base_url=URL) as p:
        result = agent(p).invoke({"messages": [("user", "Is the bakery open?")]})
        print(result["messages"][-1].content)
        print(f"program {p.id}: {(p.state() or {})['calls_completed']} calls")


if __name__ == "__main__":
    main()
