"""The table of optional modules against pyproject.toml."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from attri.runtime._util.extras import MODULES, OptionalModule
from attri.runtime.errors import MissingExtra

PROJECT = (Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize("each", MODULES.values(), ids=MODULES)
def test_extras_install_what_the_table_says(each: OptionalModule) -> None:
    (packages,) = re.findall(rf"^{each.extra} = \[(.*?)\]$", PROJECT, re.MULTILINE | re.DOTALL)
    assert re.search(rf'"{re.escape(each.package)}>=', packages)


def test_every_package_of_an_extra_is_in_the_table() -> None:
    table = PROJECT.partition("[project.optional-dependencies]")[2].partition("\ndev = ")[0]
    packages = set(re.findall(r'"([\w-]+)>=', table))
    assert packages - {each.package for each in MODULES.values()} == {"onnxruntime-gpu"}  # in the place of onnxruntime


def test_the_extra_of_the_first_module_is_the_one_to_install() -> None:
    assert str(MissingExtra("starlette", "prometheus_client")) == (
        "starlette, prometheus-client are not installed: pip install 'attri[serve]'"
    )
    assert str(MissingExtra("paho")) == "paho-mqtt is not installed: pip install 'attri[mqtt]'"
