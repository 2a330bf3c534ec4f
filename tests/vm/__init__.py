"""Kernels of other machines, emulated: guests on a network of their own. Knows nothing of what is tested in them."""

from tests.vm.cache import SUPPORTED_KERNELS
from tests.vm.guest import Guest
from tests.vm.lab import Lab, make_lab, run

__all__ = ["SUPPORTED_KERNELS", "Guest", "Lab", "make_lab", "run"]
