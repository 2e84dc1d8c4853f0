"""Loading files in a process with limits on memory and time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

_GIBIBYTES = 4
_PROGRAM = """
import json, resource, sys
limit = int(sys.argv[1]) * 2**30
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
import transxnet
outcomes = []
for function, settings in json.load(sys.stdin):
    try:
        getattr(transxnet, function)(**settings)
    except transxnet.TransXNetError as error:
        outcomes.append(str(error))
    else:
        outcomes.append("")
json.dump(outcomes, sys.stdout)
"""

Call = tuple[str, dict[str, Any]]


def outcomes(calls: Sequence[Call], seconds: float = 300) -> list[str]:
    """Call functions of the package in a process limited to 4 GiB.

    Args:
        calls: Name and keyword arguments of each function, as JSON values.
        seconds: Time limit for all calls.

    Returns:
        The message of each call's TransXNetError; empty for success. Any other error fails the test.
    """
    command = [sys.executable, "-c", _PROGRAM, str(_GIBIBYTES)]
    ended = subprocess.run(command, input=json.dumps(calls), capture_output=True, text=True, timeout=seconds)
    assert ended.returncode == 0, ended.stderr[-2000:]
    results: list[str] = json.loads(ended.stdout)
    return results
