"""Which mappings of huge pages (hugetlb) can be carried."""

import os

from core.kernel.hugetlb import SIZES, page_size_of_device
from core.proc.maps import Vma


def judge_huge(vma: Vma, *, has_path: bool) -> str:
    """Why a mapping of huge pages (hugetlb) cannot be carried; "" when it can."""
    if has_path:
        return "is a file on hugetlbfs"
    if page_size_of_device(os.makedev(*vma.device)) not in SIZES:
        return "is of huge pages larger than 2 MiB"
    if vma.shared:
        return ""
    if not vma.is_private_huge:
        return "is a private mapping of huge pages that others may share"
    return "" if vma.writable else "is of huge pages that may not be written to"
