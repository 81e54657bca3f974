"""Models x rules x seeds on one task at one budget: runs them, gathers what they say."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from baselines import measure
from baselines.ablations import ablations
from baselines.config import Grid, Resolved
from baselines.document import Finished, make_document
from baselines.experiment import floors, run
from baselines.match import match as match_budget
from baselines.part import WITHOUT, ablated
from baselines.report import write
from baselines.rows import Result, make_row, requirement, sides, verdict
from baselines.setup import load_task, setup, threads
from learning.files import json_text, write_atomic
from learning.interrupt import Interrupted
from learning.run import identity
from neurons.errors import DivergedError, RunError, UsageError
from neurons.model import Attention

SCALING_LENGTHS = (4096, 6144, 8192, 12288, 16384, 24576, 32768)


def compare(
    grid: Grid,
    *,
    out: Path,
    match: str = "steps",
    minutes: float | None = None,
    require: Sequence[str] = (),
    jobs: int = 1,
    resume: bool = False,
    progress: bool = False,
    command: str | None = None,
) -> dict[str, Any]:
    """Train every run of ``grid`` under ``out``; write ``compare.json`` and ``report.html`` there; return the document.

    ``jobs`` runs train side by side, each with its share of the threads. Finished runs are kept, so an interrupted
    comparison goes on where it stopped with ``resume``. A run that fails (settling that diverges, say) leaves its
    reason in the row and does not stop the others.
    """
    for text in require:
        sides(text, grid.labels)
    _check_folder(out, resume)
    supported, reasons = _supported(grid)
    runs, budget = _budgeted(supported, out, match, minutes, resume)
    share = runs[0].config["threads"] or max(1, (os.cpu_count() or 1) // jobs)
    floor_values = floors(runs[0].config)
    finished, failures = _train(runs, out, share, jobs, resume, progress)
    scaling = _attention_scaling(runs, share)
    table = [
        make_row(
            label,
            finished,
            unsupported=reasons.get(label),
            failed=failures.get(label),
            scaling=scaling.get(label.split(" / ")[0]),
        )
        for label in grid.labels
    ]
    task, data, split_hash = load_task(runs[0].config)
    task_block = {"name": task.name, "protocol": data.protocol, "split_hash": split_hash, "data_source": data.source}
    primary = {"name": task.primary, "higher_is_better": task.higher_is_better}
    document = make_document(task_block, table, finished, floor_values, budget, task.higher_is_better) | {
        "seeds": list(grid.seeds),
        "primary": primary,
        "ablations": ablations(table, primary, grid.left_out),
        "requirements": [requirement(text, table, higher_is_better=task.higher_is_better) for text in require],
        "recipe": grid.recipe,
        "command": command,
    }
    document["env"] |= {"jobs": jobs, "threads": share}
    return _published(document, out)


def _check_folder(out: Path, resume: bool) -> None:
    """Nothing is overwritten: only an unfinished or finished comparison may be resumed."""
    if not out.exists():
        return
    if not out.is_dir():
        raise RunError(f"'{out}' is a file. Choose another folder with --out DIR")
    begun = (out / "budget.json").is_file()
    if any(path.name != "budget.json.tmp" for path in out.iterdir()) and not (resume and begun):
        how = "Continue it with --resume auto, or choose" if begun else "It holds no comparison: choose"
        raise RunError(f"'{out}' is not empty. {how} another --out")


def _published(document: dict[str, Any], out: Path) -> dict[str, Any]:
    document["verdict"] = verdict(document)
    write_atomic(out / "compare.json", (json_text(document, indent=1) + "\n").encode())
    write(document, out / "report.html")
    return document


def _supported(grid: Grid) -> tuple[list[Resolved], dict[str, str]]:
    """The runs whose rule can train their model, and the reason for each label that cannot.

    A component that the model, as the recipe has it, refuses to be without makes an n/a row too.
    """
    reasons: dict[str, str | None] = {}
    for one in grid.runs:
        if one.label not in reasons:
            try:
                made = setup(one.config, check=False)
            except UsageError as error:
                if ablated(one.label)[1] is None:
                    raise
                reasons[one.label] = str(error)
                continue
            reasons[one.label] = made.rule.supports(made.model)
    supported = [one for one in grid.runs if reasons[one.label] is None]
    told = {label: reason for label, reason in reasons.items() if reason is not None}
    if not supported:
        raise UsageError("nothing to compare: " + "; ".join(told.values()))
    return supported, told


def _budgeted(
    runs: list[Resolved], out: Path, how: str, minutes: float | None, resume: bool
) -> tuple[list[Resolved], dict[str, Any]]:
    """Matched runs; a resumed comparison takes the budget that it wrote down the first time."""
    kept = out / "budget.json"
    asked = {"match": how, "minutes": minutes, "configs": [identity(one.config) for one in runs]}
    if resume and kept.exists():
        try:
            saved = json.loads(kept.read_text())
        except ValueError as error:
            raise RunError(f"'{kept}' is damaged: {error}. Choose another --out") from error
        if saved["asked"] != json.loads(json_text(asked)):
            raise UsageError(f"'{out}' holds another comparison. Repeat its command, or choose another --out")
        again = zip(runs, saved["configs"], strict=True)
        here = runs[0].config["data_dir"]
        restored = [Resolved(config | {"data_dir": here}, one.origin, one.label, one.control) for one, config in again]
        return restored, saved["budget"]
    with threads(runs[0].config["threads"]):
        matched, budget = match_budget(runs, load_task(runs[0].config)[1], how, minutes)
    text = json_text({"budget": budget, "asked": asked, "configs": [one.config for one in matched]})
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot create '{out}': {error.strerror}. Choose another folder with --out DIR") from error
    write_atomic(kept, text.encode())
    return matched, budget


def _folder(out: Path, one: Resolved) -> Path:
    safe = one.label.replace(WITHOUT, "-without-").replace(":", "-").replace("=", "-")
    model, rule = (name.replace(" ", "-") for name in safe.split(" / "))
    return out / "runs" / f"{model}-{rule}-s{one.config['seed']}"


def _train(
    runs: list[Resolved], out: Path, share: int, jobs: int, resume: bool, progress: bool
) -> tuple[Finished, dict[str, str]]:
    """Every run with its result (None if it failed), in order, and the failures by label."""
    configs = [one.config | {"threads": share} for one in runs]
    collected: dict[int, Result | DivergedError] = {}
    if jobs == 1:
        for number, one in enumerate(runs):
            if progress:
                print(f"[{number + 1}/{len(runs)}] {one.label}, seed {one.config['seed']}", file=sys.stderr, flush=True)
            collected[number] = _job(configs[number], str(_folder(out, one)), resume, progress)
    else:
        # spawned, so that the processes share nothing; they keep the caller's order, so the table fills row by row
        with ProcessPoolExecutor(
            max_workers=jobs,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_end_with_parent,
            initargs=(os.getpid(),),
        ) as pool:
            futures = {
                pool.submit(_job, configs[number], str(_folder(out, one)), resume, False): number
                for number, one in enumerate(runs)
            }
            with tqdm(total=len(futures), unit="run", disable=not progress, file=sys.stderr) as bar:
                try:
                    while futures:
                        for future in [future for future in futures if future.done()]:
                            number = futures.pop(future)
                            collected[number] = future.result()
                            bar.update()
                            bar.write(_told(runs[number], collected[number]), file=sys.stderr)
                        time.sleep(0.05)
                except BaseException as error:
                    pool.shutdown(wait=False, cancel_futures=True)
                    if isinstance(error, KeyboardInterrupt):
                        told = f"interrupted; what was trained is kept in {out}. Continue: the same with --resume auto"
                        raise Interrupted(told) from error
                    raise
    failures: dict[str, str] = {}
    finished: Finished = []
    for number, one in enumerate(runs):
        result = collected[number]
        if isinstance(result, DivergedError):
            failures.setdefault(one.label, f"seed {one.config['seed']} failed: {result}")
        finished.append((one, None if isinstance(result, DivergedError) else result))
    return finished, failures


def _end_with_parent(parent: int) -> None:
    """A worker whose parent was killed stops too: else it would hold its run's lock against the resumed comparison."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _job(config: dict[str, Any], out: str, resume: bool, progress: bool) -> Result | DivergedError:
    try:
        return run(config, out=Path(out), resume=resume, progress=progress)
    except DivergedError as error:
        return error


def _told(one: Resolved, result: Result | DivergedError) -> str:
    where = f"{one.label}, seed {one.config['seed']}"
    if isinstance(result, DivergedError):
        return f"{where}: failed: {result}"
    return f"{where}: {result['primary']['name']} {result['primary']['value']:.4f}, {result['train']['seconds']:.0f} s"


def _attention_scaling(runs: list[Resolved], share: int) -> dict[str, dict[str, Any] | None]:
    """Cost exponent of each full model's attention in the sequence's length, measured once per model."""
    found: dict[str, dict[str, Any] | None] = {}
    with threads(share):
        for one in runs:
            name = one.label.split(" / ")[0]
            if name not in found and ablated(one.label)[1] is None:
                made = setup(one.config)
                mixers = [module for module in made.model.modules() if isinstance(module, Attention)]
                found[name] = None
                if mixers:
                    width = getattr(made.model, made.model.width_option)
                    found[name] = measure.attention_scaling(
                        mixers[0], width=width, lengths=SCALING_LENGTHS, device=made.device
                    )
    return found
