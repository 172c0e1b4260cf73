"""One thread per process: on shared cores, spinning threads cost far more than they give."""

import os

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"

import torch

torch.set_num_threads(1)
