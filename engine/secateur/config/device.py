"""The option `device`: where a command computes."""

from __future__ import annotations

import re
from typing import Any

from secateur.config.values import AUTO
from secateur.errors import BadInput

CPU = "cpu"
DEVICE_HELP = "Where to compute: auto (a GPU if the model fits into its free memory), cpu, cuda or cuda:N."

_DEVICE = re.compile(rf"{AUTO}|{CPU}|cuda(:[0-9]+)?")


def parse_device(given: Any) -> str:
    """The name of a device.

    Raises:
        BadInput: it has no such form.
    """
    if not isinstance(given, str) or not _DEVICE.fullmatch(given):
        raise BadInput("device", given, f"allowed are {AUTO}, {CPU}, cuda and cuda:N")
    return given
