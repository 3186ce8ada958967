"""What is kept of the dense model's distributions to compare candidates with.

On a CPU its probabilities (N x V numbers): reading them again costs less than the product that makes them. On
a GPU its hidden states (N x H): a kernel makes both logits tile by tile, and the host waits for nothing.

Shape suffixes: N predicted positions, H hidden, V vocabulary.
"""

from __future__ import annotations

from torch import Tensor

from secateur_kernels import Teacher, TeacherStates, prepare_teacher, teacher_states


def keeps_states(device_type: str) -> bool:
    """Whether hidden states are kept on such a device, rather than probabilities."""
    return device_type != "cpu"


def teacher_bytes_per_token(head_VH: Tensor, device_type: str) -> int:
    """Memory of what is kept of a position."""
    vocabulary, hidden = head_VH.shape
    return (hidden if keeps_states(device_type) else vocabulary) * head_VH.element_size()


def teacher_of(hidden_NH: Tensor, head_VH: Tensor, target_N: Tensor) -> Teacher | TeacherStates:
    """What `linear_kl` compares with, from the dense model's final hidden states."""
    if keeps_states(hidden_NH.device.type):
        return teacher_states(hidden_NH, head_VH, target_N)
    return prepare_teacher(hidden_NH, head_VH, target_N)
