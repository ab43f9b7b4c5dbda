"""What all tests share: one thread, because networks are small here and several tests run at once."""

import torch

torch.set_num_threads(1)
