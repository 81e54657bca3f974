"""Time per call over the length: operations and mixers, forward and with the backward pass; and per decoded token."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import get_args

from baselines.bench import contenders
from baselines.bench.clock import Call
from baselines.bench.contenders import REFERENCE, Group
from baselines.bench.decode import decoders
from baselines.bench.job import Forecast, Job, Row, affordable, all_timed, measure, skipped, timed
from baselines.bench.setting import Setting
from neurons.errors import UsageError

GROUPS: tuple[Group, ...] = get_args(Group)


def jobs(
    setting: Setting, groups: tuple[Group, ...] = GROUPS, directions: tuple[bool, ...] = (True, False)
) -> list[Job]:
    """By length, the longest last. UsageError if the chosen mixers leave nothing to measure."""
    forecast, made = Forecast(), []
    for length in sorted(setting.lengths):
        for causal in directions:
            for phase in setting.phases:
                for group in groups:
                    if phase == "decode" and (group == "operation" or not causal):
                        continue
                    if not contenders.names(group, setting, causal):
                        continue
                    form = "causal" if causal else "full"
                    label = f"{group}s, {form} {phase} at {length:,}"
                    made.append(Job(label, partial(_point, setting, forecast, group, length, causal, phase)))
    if not made:
        raise UsageError("nothing to measure: these mixers have no such phase. Try: --phase forward,train")
    return made


def _point(
    setting: Setting, forecast: Forecast, group: Group, length: int, causal: bool, phase: str, seconds: float
) -> list[Row]:
    """All contenders at one length, in one contest."""
    reference = REFERENCE[group]
    where = {"group": group, "form": "causal" if causal else "full", "phase": phase, "length": length}
    if phase == "decode":
        return _decoded(setting, length, seconds, where)
    wanted: list[str] = []
    refused: dict[str, str] = {}
    for name in contenders.names(group, setting, causal):
        reason = contenders.refusal(name, setting, length)
        refused |= {name: reason} if reason else {}
        wanted += [] if reason else [name]
    key = (group, causal, phase)

    def once(name: str, at: int) -> float:
        call = contenders.contender(group, name, setting, at, causal).call(phase)
        return measure({name: call}, replace(setting, repeats=1), 0.0)[name].least

    expected = {name: forecast.approach((*key, name), length, seconds, partial(once, name)) for name in wanted}
    refused |= affordable(expected, seconds)
    calls: dict[str, Call] = {
        name: contenders.contender(group, name, setting, length, causal).call(phase)
        for name in wanted
        if name not in refused
    }
    timings = measure(calls, setting, seconds)
    for name, timing in timings.items():
        forecast.learn((*key, name), length, timing.least)
    rows = all_timed(timings, reference, **where)
    return rows + [skipped(name, reason, reference, **where) for name, reason in refused.items()]


def _decoded(setting: Setting, length: int, seconds: float, where: Row) -> list[Row]:
    """Seconds of one more token after ``length`` of them, and the bytes that remember those."""
    reference, found = REFERENCE["mixer"], decoders(setting, length)
    timings = measure({name: one.run for name, one in found.items() if one.refusal is None}, setting, seconds)
    rows = []
    for name, one in found.items():
        if one.refusal is not None:
            rows.append(skipped(name, one.refusal, reference, **where))
            continue
        row = timed(name, timings, reference, **where, state_bytes=one.state_bytes)
        rows.append(row | {key: row[key] / one.tokens for key in ("seconds", "least_seconds")})
    return rows
