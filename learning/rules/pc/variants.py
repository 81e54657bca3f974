"""The variants of predictive coding, by name."""

from __future__ import annotations

from learning.rules.pc.epc import EPC
from learning.rules.pc.fixedpred import FIXEDPRED
from learning.rules.pc.ipc import IPC
from learning.rules.pc.nudged import CN, NN, PN
from learning.rules.pc.pcalm import PCALM
from learning.rules.pc.spc import SPC
from learning.rules.pc.variant import Variant
from learning.rules.pc.zil import ZIL

VARIANTS: dict[str, Variant] = {
    "spc": SPC,
    "ipc": IPC,
    "epc": EPC,
    "fixedpred": FIXEDPRED,
    "zil": ZIL,
    "pn": PN,
    "nn": NN,
    "cn": CN,
    "pcalm": PCALM,
}
