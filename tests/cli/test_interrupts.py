"""Ctrl-C at any moment is one line and status 130; workers neither report it nor import the program again."""

from __future__ import annotations

import os
import signal

import pytest

from helpers.forked import python
from transxnet.training.signals import interruptible

_IMPORTS = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv = {argv}
sys.orig_argv = ["python", "-m", "transxnet", "models"]
from transxnet.interrupts import end_quietly, raise_again
end_quietly()
os.kill(os.getpid(), signal.SIGINT)
"""
_COMMAND = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv = ["transxnet", "train", "--epochs", "1", "--out", "run"]
from transxnet.interrupts import end_quietly
end_quietly()
from transxnet.training.callbacks import History
History.on_fit_start = lambda self, trainer, module: os.kill(os.getpid(), signal.SIGINT)
from transxnet.cli.main import main
main()
"""
_UNGUARDED = """
from transxnet.data.loader import AddressedImages, make_loader
print("started")
loader = make_loader(AddressedImages(2), 1, workers=1)
try:
    list(loader)
except NotImplementedError:
    print("a worker read")
"""


@pytest.mark.parametrize(
    ("argv", "status"), [(["transxnet"], 130), (["-m"], 130), (["script.py"], 1)], ids=["script", "module", "other"]
)
def test_while_libraries_are_imported(argv: list[str], status: int) -> None:
    ended = python(_IMPORTS.format(argv=argv))
    assert ended.status == status
    assert (ended.err == "stopped\n") == (status == 130)


def test_before_the_first_step_of_training() -> None:
    ended = python(_COMMAND)
    assert (ended.status, ended.err) == (130, "stopped\n")


def test_an_interrupt_is_raised_outside_of_lightning() -> None:
    def fit() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:  # as Lightning does
            pytest.fail("the interrupt is known under its name")

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), interruptible():
        fit()
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.slow
def test_a_program_without_a_main_guard_has_workers() -> None:
    ended = python(_UNGUARDED)
    assert ended.status == 0 and ended.out.splitlines() == ["started", "a worker read"], ended
