"""Freed memory stays with its process."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import ctypes, resource
from graftpop.cluster.malloc import keep_freed_memory
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
def faults_of_a_large_block():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(ctypes.c_size_t(64 * 2**20))
    ctypes.memset(block, 1, 64 * 2**20)
    libc.free(ctypes.c_void_p(block))
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
def most_of_three():
    faults_of_a_large_block()
    return max(faults_of_a_large_block() for _ in range(3))
otherwise = most_of_three()
keep_freed_memory()
print(otherwise, most_of_three())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs the GNU C library")
def test_freed_memory_is_reused_without_new_page_faults() -> None:
    ran = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True, timeout=60)
    otherwise, kept = map(int, ran.stdout.split())
    assert otherwise >= 32  # 64 MiB are 16,384 pages of 4 KiB, or 32 huge ones
    assert kept < otherwise / 10
