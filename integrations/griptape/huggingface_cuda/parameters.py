# SPDX-License-Identifier: Apache-2.0
"""Parameters that several nodes have."""

from __future__ import annotations

from typing import Any

from griptape_nodes.exe_types.core_types import Parameter, ParameterMode


def add_input(node: Any, name: str, kind: str, default: Any, tooltip: str, **options: Any) -> None:
    """What comes in by a wire, or is set on the node."""
    node.add_parameter(
        Parameter(
            name=name, type=kind, input_types=[kind], default_value=default, tooltip=tooltip,
            allowed_modes={ParameterMode.INPUT, ParameterMode.PROPERTY}, **options,
        )
    )  # fmt: skip


def add_output(node: Any, name: str, kind: str, tooltip: str, **options: Any) -> None:
    node.add_parameter(
        Parameter(
            name=name, output_type=kind, tooltip=tooltip, settable=False, allowed_modes={ParameterMode.OUTPUT},
            **options,
        )
    )  # fmt: skip


def add_constraints(node: Any) -> None:
    add_input(
        node, 'system_constraints', 'dict', None, 'From a GPU Configuration node; empty: the GPU with most free memory'
    )
