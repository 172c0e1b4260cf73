"""One thread per process: on shared cores, spinning threads cost far more than they give."""

import contextlib
import os
import resource
import signal

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"
# Read when Ray is imported: under `uv run pytest` it would start every worker of this process by a `uv run` of its own.
os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"

# Heard also where the tests run in the background of a shell, which has it ignored; what they start inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture
def file_size_limit():
    """`with file_size_limit(n):` no file may grow beyond n bytes: the one way to meet a full disk without filling one.

    Lifted before the test ends, since pytest's own output may go to a file.
    """

    @contextlib.contextmanager
    def limited(num_bytes):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited
