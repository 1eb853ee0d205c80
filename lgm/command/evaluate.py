"""`lgm evaluate`: its options, and the printed table."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from torch import Tensor

from ..io.outputs import check_writable, staged_folder
from ..network.presets import ROUNDS, VIEW_COUNT
from ..network.weights import load_model
from ..training.evaluate import (
    INPUTS,
    EvaluationSet,
    evaluate,
    hull,
    nearest_input,
    predict,
    print_table,
    save_sheet,
    summarize,
    true_depth,
    white,
)
from .options import Parser, pick_device, whole_number


def parser() -> argparse.ArgumentParser:
    p = Parser("lgm evaluate", description="PSNR, SSIM and IoU on held-out objects, per tier.")
    p.add_argument("--data", type=Path, required=True, help="evaluation set made by `lgm dataset`")
    p.add_argument("--model", default="demo", help="name or path of the weights")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps, ...")
    p.add_argument(
        "--views",
        type=whole_number(1, VIEW_COUNT),
        nargs="+",
        default=[VIEW_COUNT],
        help="how many of the four inputs to use; several are compared",
    )
    p.add_argument(
        "--size",
        type=whole_number(32, 4096),
        nargs="*",
        default=None,
        help="input sides to test, e.g. 256 128",
    )
    p.add_argument(
        "--fit",
        type=whole_number(0, 10_000),
        nargs="+",
        default=[0],
        help="steps that fit the splats to the inputs; several are compared, e.g. 0 10",
    )
    p.add_argument(
        "--rounds",
        type=whole_number(0, 100),
        nargs="+",
        default=[ROUNDS],
        help="correction rounds, for models with a corrector; several are compared",
    )
    p.add_argument(
        "--inputs",
        choices=INPUTS,
        nargs="+",
        default=["exact"],
        help="the model's inputs as they are, or with the paper's grid distortion, orbital camera "
        "jitter or both in all views but the first; several are compared",
    )
    p.add_argument("--no-baselines", action="store_true", help="only the model")
    p.add_argument("--tiers", nargs="*", help="only these tiers")
    p.add_argument(
        "--worst",
        type=whole_number(1, 1000),
        default=6,
        help="how many of the worst objects the sheet shows",
    )
    p.add_argument("--out", type=Path, help="folder for rows.json, worst.png and sheet.png")
    return p


def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    if arguments.out:
        check_writable(arguments.out, folder=True)
    data = EvaluationSet.load(arguments.data)
    if arguments.tiers:
        keep = [i for i, tier in enumerate(data.tiers) if tier in arguments.tiers]
        if not keep:
            known = ", ".join(sorted(set(data.tiers)))
            raise ValueError(f"{arguments.data} has none of these tiers: choose among {known}.")
        depths = None if data.depths is None else data.depths[keep]
        names, tiers = [data.names[i] for i in keep], [data.tiers[i] for i in keep]
        data = EvaluationSet(data.images[keep], data.c2w, depths, names, tiers)
    model = load_model(arguments.model, pick_device(arguments.device))
    sizes = arguments.size or [model.preset.input_size]
    name = Path(arguments.model).stem
    methods = {
        f"{name} {size} px{'' if count == VIEW_COUNT else f', {count} views'}"
        f"{'' if kind == 'exact' else f', {kind} inputs'}"
        f"{'' if rounds == ROUNDS else f', --rounds {rounds}'}"
        f"{f', fitted in {fit} steps' if fit else ''}": predict(
            model, size, count, fit, kind, rounds
        )
        for size in sizes
        for rounds in arguments.rounds
        for count in arguments.views
        for kind in arguments.inputs
        for fit in arguments.fit
    }
    if not arguments.no_baselines:
        methods |= {"white": white, "nearest input": nearest_input, "visual hull": hull}
        if data.depths is not None:
            methods["true depth"] = true_depth
    pictures: dict[int, list[Tensor]] = {}
    rows = evaluate(data, methods, pictures)
    print_table(summarize(rows))
    if arguments.out:
        first = next(iter(methods))
        scores = [row["psnr"] for row in rows if row["method"] == first]
        order = [int(i) for i in np.argsort(np.array(scores))]
        spread = order[:: max(1, len(order) // 8)][:8]
        with staged_folder(arguments.out) as folder:
            (folder / "rows.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
            save_sheet(folder / "worst.png", data, pictures, order[: arguments.worst])
            save_sheet(folder / "sheet.png", data, pictures, spread)
    return 0
