"""What the documentation says of the code is still so, as far as a machine can tell."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import autellix_sgl
from autellix_sgl import config
from autellix_sgl.core import POLICIES, REASONS, CallStatistics, Levels, TableStatistics
from autellix_sgl.runtime.http.program_models import (
    ActiveCallModel,
    ExplainedCall,
    ProgramExplanation,
    ProgramModel,
)
from autellix_sgl.runtime.metrics import (
    IDENTITY_COUNTERS,
    PREFIX,
    REPLICAS,
    SCHEDULER_COUNTERS,
    SCHEDULER_GAUGES,
    SHARES_COUNTERS,
    SHARES_GAUGES,
    TABLE_COUNTERS,
    TABLE_GAUGES,
)

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
DOCUMENTS = [README, *sorted((ROOT / "docs").glob("*.md"))]
README_LINES = 150


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def program_flags() -> list[str]:
    parser = argparse.ArgumentParser(add_help=False)
    config.add_program_arguments(parser)
    return list(dict.fromkeys(re.findall(r"--program-[a-z-]+", parser.format_help())))


@pytest.mark.parametrize("tool", ["upstream_doc.py", "identity_doc.py"])
def test_what_is_written_from_the_code_is_fresh(tool: str) -> None:
    """docs/upstream.md is what the patches' records say, docs/identity.md what the table says."""
    result = subprocess.run(
        [sys.executable, str(ROOT / "tools" / tool), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_the_readme_is_short() -> None:
    """What does not fit belongs under docs/."""
    assert len(README.read_text(encoding="utf-8").splitlines()) < README_LINES


@pytest.mark.parametrize("flag", program_flags())
def test_every_flag_is_in_the_readme_with_its_default(flag: str) -> None:
    """The table's row of a flag names the value that it has when it is left out."""
    rows = [line for line in text_of("README.md").splitlines() if line.startswith(f"| `{flag}` |")]
    assert len(rows) == 1
    field = flag.removeprefix("--program-").replace("-", "_")
    default = getattr(config.ProgramArgs(), field)
    shown = "" if default is None else f"{default:g}" if isinstance(default, float) else default
    assert rows[0].split("|")[2].strip().strip("`") == str(shown)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_no_flag_is_made_up(path: Path) -> None:
    """Every --program-... in the documents exists."""
    named = re.findall(r"--program-[a-z-]+", path.read_text(encoding="utf-8"))
    unknown = sorted(set(named) - set(program_flags()))
    assert unknown == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    """Relative links name files of the repository."""
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


@pytest.mark.parametrize("policy", [*POLICIES, config.STOCK])
def test_every_policy_has_a_section(policy: str) -> None:
    """With the same three heads, so that they can be compared."""
    section = text_of("docs/policies.md").split(f"\n## {policy}\n")[1].split("\n## ")[0]
    for head in ("**Overview.**", "**When to use.**", "**Production ready?**"):
        assert head in section


def test_the_table_of_levels_is_what_the_defaults_give() -> None:
    """docs/policies.md prints the default levels as numbers."""
    args = config.ProgramArgs()
    levels = Levels.geometric(args.levels, args.first_quantum_ms, args.quantum_growth)
    text = text_of("docs/policies.md")
    for number, shape in enumerate(levels.describe()):
        start, end, quantum = shape["from_ms"], shape["to_ms"], shape["quantum_ms"]
        covers = f"{start:g} and more" if end is None else f"{start:g} to {end:g}"
        assert f"| {number} | {covers} | {'none' if quantum is None else f'{quantum:g}'} |" in text


@pytest.mark.parametrize(
    "series",
    [
        name
        for names in (SCHEDULER_GAUGES, TABLE_GAUGES, SHARES_GAUGES)
        for name, _ in names.values()
    ]
    + [REPLICAS[0]]
    + [f"{name}_total" for name, _ in SCHEDULER_COUNTERS.values()]
    + [f"{name}_total" for name, _ in TABLE_COUNTERS.values()]
    + [f"{name}_total" for name, _ in IDENTITY_COUNTERS.values()]
    + [f"{name}_total" for name, _ in SHARES_COUNTERS.values()],
)
def test_every_metric_is_documented(series: str) -> None:
    """By its full name, or after a sibling by its last part."""
    text = text_of("docs/api.md")
    assert f"`{PREFIX}{series}`" in text or f"`_{series.partition('_')[2]}`" in text


@pytest.mark.parametrize(
    "name",
    [field.name for field in fields(TableStatistics)]
    + [field.name for field in fields(CallStatistics) if field.name not in ("wait_ms", "waits")]
    + ["wait_reasons", *REASONS],
)
def test_every_statistic_is_documented(name: str) -> None:
    """What a response or the list of programs carries has a line that explains it."""
    assert f"`{name}`" in text_of("docs/api.md")


@pytest.mark.parametrize("name", [*ProgramModel.model_fields, *ActiveCallModel.model_fields])
def test_every_field_of_a_program_is_documented(name: str) -> None:
    """What /v1/programs answers has a line that explains it."""
    assert f"`{name}`" in text_of("docs/api.md").split("\n## Programs\n")[1]


@pytest.mark.parametrize("name", [*ProgramExplanation.model_fields, *ExplainedCall.model_fields])
def test_every_field_of_an_explanation_is_shown(name: str) -> None:
    """The example of what /v1/programs/{id}/explain answers has it."""
    section = text_of("docs/api.md").split("\n## Why did this call wait?\n")[1].split("\n## ")[0]
    assert f'"{name}"' in section


@pytest.mark.parametrize("name", autellix_sgl.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    """docs/frontend.md has it by its full name; Program is the class of what program makes."""
    text = text_of("docs/frontend.md")
    assert f"autellix_sgl.{name}" in text or f"autellix_sgl.{name.lower()}" in text


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.name)
def test_every_example_is_listed(path: Path) -> None:
    """With what it shows."""
    assert f"| [{path.name}](../examples/{path.name}) |" in text_of("docs/frontend.md")
