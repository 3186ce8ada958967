"""What a thread may take of an H100, kernel by kernel: the compile gate holds every launch to it.

A multiprocessor has 65,536 registers. Where a thread of 8 warps takes at most 128, another block fits beside,
which multiplies while the first works on its results; 255 is the most that a thread can have.
"""

from __future__ import annotations

MOST = 255
# Registers of a thread by kernel, for 16-bit dtypes on sm_90.
REGISTERS = {
    "_partial_losses_walked": 128,
    "_partial_losses": MOST,
    "_merge_losses": 128,
    "_gated_inner_walked": MOST,
    "_gated_inner": MOST,
    "_project": 168,
    "_project_nested": 200,
    "_project_heads": MOST,
    "_attend": MOST,
}
# By case, where an option takes more: a teacher has a tile of its own.
MORE = {
    ("_partial_losses_walked", "loss_against_a_teacher"): MOST,
    ("_partial_losses_walked", "loss_entropy"): 168,
    ("_partial_losses_walked", "loss_top_k"): 184,
}
# Bytes that a thread may spill, where it is not 0: outside the main path of a search.
SPILLED = {
    ("_gated_inner", "mlp_index"): 32,
    ("_gated_inner", "mlp_index_bias"): 128,
    ("_gated_inner", "mlp_plain"): 32,
    ("_project_heads", "attention_256"): 192,
    ("_attend", "attention_256"): 32,
}


def registers(kernel: str, case: str) -> int:
    """The most that a thread of that launch may take; rows that start anywhere may take all."""
    return MOST if "odd" in case else MORE.get((kernel, case), REGISTERS[kernel])


def spilled(kernel: str, case: str) -> int | None:
    """The most bytes that it may spill; None where rows start anywhere, which no model's do."""
    return None if "odd" in case else SPILLED.get((kernel, case), 0)
