"""CPUs of a process in control groups: layouts as systemd, Docker and Kubernetes make them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from attri.runtime._util.cpus import Cpus, share_cpus, usable_cpus

V2 = "35 24 0:30 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1 = "33 25 0:30 {} /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct"
OTHER = "34 25 0:31 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory"
Machine = Callable[[str, list[str], dict[str, str]], Path]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A root folder with these control groups, of a machine whose affinity has 8 CPUs of 16."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(os, "cpu_count", lambda: 16)

    def make(groups: str, mounts: list[str], files: dict[str, str]) -> Path:
        proc = tmp_path / "proc" / "self"
        proc.mkdir(parents=True)
        (proc / "cgroup").write_text(groups)
        (proc / "mountinfo").write_text("\n".join(["24 1 8:1 / / rw - ext4 /dev/root rw", *mounts]) + "\n")
        for name, text in files.items():
            file = tmp_path / "sys/fs/cgroup" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("groups", "files", "quota", "count"),
    [
        ("0::/system.slice/attri.service\n", {"system.slice/attri.service/cpu.max": "200000 100000\n"}, 2, 2),
        ("0::/system.slice/attri.service\n", {"system.slice/attri.service/cpu.max": "max 100000\n"}, None, 8),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "150000 100000\n"}, 1.5, 2),
        ("0::/a/b\n", {"a/b/cpu.max": "150000 50000\n", "a/cpu.max": "400000 100000\n"}, 3, 3),
        ("0::/a b\n", {"a b/cpu.max": "20000 100000\n"}, 0.2, 1),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 2.5, 3),  # a container, nested or not
        ("0::/../other\n", {"cpu.max": "250000 100000\n"}, 2.5, 3),  # the group of another namespace
        ("0::/docker/1f\n", {"cpu.max": "250000 100000\n"}, 2.5, 3),  # its name on the host
        ("0::/\n", {}, None, 8),  # the root of a machine has no such file
        ("0::/a\n", {"a/cpu.max": "3200000 100000\n"}, 32, 8),
        ("0::/a\n", {"a/cpu.max": ""}, None, 8),
        ("0::/a\n", {"a/cpu.max": "what 100000\n"}, None, 8),
        ("0::/a\n", {"a/cpu.max": "100000 0\n"}, None, 8),
        ("", {}, None, 8),
    ],
)
def test_version_2(machine: Machine, groups: str, files: dict[str, str], quota: float | None, count: int) -> None:
    cpus = usable_cpus(machine(groups, [V2], files))
    assert cpus == Cpus(16, 8, quota)
    assert cpus.count == count


@pytest.mark.parametrize(
    ("root", "group", "folder"),
    [
        ("/", "/", "cpu,cpuacct"),  # a machine, or a container with control groups of its own
        ("/", "/kubepods/burstable/pod1/2f", "cpu,cpuacct/kubepods/burstable"),
        ("/docker/1f", "/docker/1f", "cpu,cpuacct"),  # a container that knows its name on the host
        ("/docker/1f", "/docker/1f/inner", "cpu,cpuacct/inner"),
        ("/docker/1f", "/user.slice", "cpu,cpuacct"),
        ("/docker/a\\040b", "/docker/a b", "cpu,cpuacct"),
    ],
)
@pytest.mark.parametrize(("quota", "count"), [("150000", 2), ("-1", 8)])
def test_version_1(machine: Machine, root: str, group: str, folder: str, quota: str, count: int) -> None:
    groups = f"5:cpu,cpuacct:{group}\n4:memory:/x\n1:name=systemd:/x\n0::/x\n"
    files = {f"{folder}/cpu.cfs_quota_us": f"{quota}\n", f"{folder}/cpu.cfs_period_us": "100000\n"}
    hybrid = V2.replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
    assert usable_cpus(machine(groups, [V1.format(root), OTHER, hybrid], files)).count == count


def test_quotas_of_other_groups_do_not_count(machine: Machine) -> None:
    files = {"a/cpu.max": "100000 100000\n", "b/c/cpu.max": "100000 100000\n", "b/cpu.max": "max 100000\n"}
    assert usable_cpus(machine("0::/b\n", [V2], files)).quota is None


def test_a_machine_without_control_groups(tmp_path: Path) -> None:
    assert usable_cpus(tmp_path).count == len(os.sched_getaffinity(0))


def test_the_affinity_of_this_process_counts() -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    code += "from attri.runtime._util.cpus import usable_cpus; print(usable_cpus().count)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "1\n"


@pytest.mark.parametrize(
    ("cpus", "said"),
    [
        (Cpus(8, 8, None), "8 of 8 for this process"),
        (Cpus(8, 4, None), "4 of 8 for this process (affinity 4)"),
        (Cpus(8, 8, 1.5), "2 of 8 for this process (cgroup quota 1.5)"),
        (Cpus(8, 4, 0.5), "1 of 8 for this process (affinity 4, cgroup quota 0.5)"),
    ],
)
def test_it_says_why(cpus: Cpus, said: str) -> None:
    assert str(cpus) == said


@pytest.mark.parametrize(
    ("quota", "given", "wanted"),
    [
        ("max", {}, {"OMP_WAIT_POLICY": "PASSIVE"}),
        ("150000", {}, {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}),
        ("150000", {"OMP_NUM_THREADS": "5"}, {"OMP_WAIT_POLICY": "PASSIVE"}),
        ("max", {"OMP_WAIT_POLICY": "ACTIVE"}, {}),
        ("max", {"GOMP_SPINCOUNT": "1000"}, {}),
        ("max", {"KMP_BLOCKTIME": "1"}, {}),
    ],
)
def test_what_openmp_is_told(machine: Machine, quota: str, given: dict[str, str], wanted: dict[str, str]) -> None:
    environment = dict(given)
    share_cpus(environment, machine("0::/a\n", [V2], {"a/cpu.max": f"{quota} 100000\n"}))
    assert environment == given | wanted


def test_a_command_tells_openmp_before_torch_is_loaded(tmp_path: Path) -> None:
    """The command as it is, but for the place of its options' check, which comes before torch is imported."""
    code = (
        "import json, os, sys\nimport attri.train.cli as cli\n"
        "def check(*_): print(json.dumps(['torch' in sys.modules, os.environ.get('OMP_WAIT_POLICY')])); sys.exit()\n"
        "cli.TrainOptions.check = check\ncli.main([], prog_name='attri-train')"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [False, "PASSIVE"]
