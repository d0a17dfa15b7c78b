"""What the benchmarks share: a clock, turns, a process's memory, labels, and the page that keeps a result."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Hashable, Mapping
from datetime import date
from pathlib import Path
from typing import TypeVar

from attri.runtime._util.cpus import usable_cpus

Name = TypeVar("Name", bound=Hashable)
Result = TypeVar("Result")
NEXT = "\n##"  # what ends a section
REST = 0.1  # seconds between turns: threads of the one before still spin for a while, and there are few cores
CORES = usable_cpus().count


def timed(run: Callable[[], object], before: int = 0) -> float:
    """Milliseconds of a run; `before` counts those that come first and are not measured, as in a video."""
    for _ in range(before):
        run()
    start = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - start)


def in_turn(
    contestants: Mapping[Name, Callable[[], Result]],
    rounds: int,
    fewer: Mapping[Name, int] | None = None,
    rest: float = REST,
) -> dict[Name, list[Result]]:
    """Run all contestants in turn, round by round, and return what each returned.

    In a round all have a turn, so that ratios within it hold although the machine's speed drifts.

    Args:
        contestants: what is run, by name.
        rounds: how many.
        fewer: rounds of those that take too long for all of them; they have the first ones.
        rest: seconds before each turn.
    """
    results: dict[Name, list[Result]] = {name: [] for name in contestants}
    for number in range(rounds):
        for name, run in contestants.items():
            if number < (fewer or {}).get(name, rounds):
                time.sleep(rest)
                results[name].append(run())
    return results


def process_status(field: str, pid: int | str = "self") -> int:
    """A number that Linux keeps of a process: VmHWM is its peak of resident memory and VmRSS that of now, both in KiB.

    Not getrusage, whose maximum a child inherits from the process that started it.
    """
    return int(Path(f"/proc/{pid}/status").read_text().partition(f"\n{field}:")[2].split()[0])


def peak_memory() -> float:
    """Of this process, in MiB."""
    return process_status("VmHWM") / 2**10


def names(count: int) -> list[str]:
    """ImageNet's names, evenly over their order; there are 1000."""
    from open_clip import IMAGENET_CLASSNAMES as EVERY

    assert count <= len(EVERY), f"ImageNet has only {len(EVERY)} names"
    return [EVERY[i * len(EVERY) // count] for i in range(count)]


def keep(page: Path, doc: str, text: str) -> None:
    """Write the result under the first line of the script's docstring, with the command, the day and the machine."""
    content = f"# {doc.splitlines()[0]}\n\n{about()}\n\n{text.strip()}\n"
    page.with_suffix(".md").write_text(content, encoding="utf-8")
    print(text)


def about() -> str:
    """The command, the day and the machine."""
    command = " ".join(["python -m", f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]])
    return f"`{command}`, {date.today()}, {processor()}, {CORES} cores."


def section(page: Path, title: str) -> str:
    """A section of a page, with its heading; "" where it has none."""
    _, heading, rest = page.read_text(encoding="utf-8").partition(f"\n## {title}\n")
    return f"{heading}{rest.partition(f'{NEXT} ')[0]}".strip()


def keep_section(page: Path, title: str, text: str) -> None:
    """Write the result into a section of another script's page, or at its end, with the command and the machine."""
    whole = page.read_text(encoding="utf-8").rstrip()
    new = f"## {title}\n\n{about()}\n\n{text.strip()}"
    old = section(page, title)
    page.write_text((whole.replace(old, new) if old else f"{whole}\n\n{new}") + "\n", encoding="utf-8")
    print(text)


def processor() -> str:
    """As Linux names it ("AMD EPYC, x86_64"), for `platform` knows only its kind."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "processor")
    return f"{model}, {platform.machine()}"
