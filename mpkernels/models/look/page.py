"""The page: one HTML file that shows images, their routes, and what single gates are worth."""

from __future__ import annotations

import base64
import io
import math
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from ..paper.labels import one_line
from ..training.files import as_json, write_text
from .figures.route import spread
from .recorded.log import Log, relative

COLUMNS = 10  # of the sheet that holds all pictures
LIKELIEST = 5  # classes that are named


def sheet(pixels: np.ndarray) -> tuple[str, int]:
    """All pictures [K, 3, S, S] in one PNG, as a data URL, and how many rows it has."""
    from PIL import Image

    count, _, size, _ = pixels.shape
    rows = math.ceil(count / COLUMNS)
    whole = np.zeros((rows * size, COLUMNS * size, 3), np.uint8)
    for at, one in enumerate(pixels):
        y, x = divmod(at, COLUMNS)
        place = slice(y * size, (y + 1) * size), slice(x * size, (x + 1) * size)
        whole[place] = one.transpose(1, 2, 0)
    data = io.BytesIO()
    Image.fromarray(whole).save(data, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}", rows


def _rounded(values: np.ndarray) -> Any:
    """Lists of numbers of four digits."""
    return np.round(values.astype(np.float64), 4).tolist()


def content(log: Log) -> dict[str, Any]:
    """What the page's script shows, as plain values; the first switch is none."""
    switches, route, pictures = (log.of(name) for name in ("switches", "route", "pictures"))
    held = {int(index): place for place, index in enumerate(pictures["indices"])}
    indices, said = switches["indices"], switches["probabilities"]
    url, rows = sheet(pictures["pixels"][[held[int(index)] for index in indices]])
    order = np.argsort(-said, axis=2, kind="stable")[:, :, :LIKELIEST]
    many = range(len(log.routers))
    return {
        "network": log.about["network"],
        "data": log.about["data"],
        "classes": [one_line(name) for name in log.about["classes"]],
        "routers": [[r["inputs"], r["outputs"], r["mixes"]] for r in log.routers],
        "sheet": url, "columns": COLUMNS, "rows": rows, "spread": spread(log),
        "numbers": indices.tolist(),
        "labels": route["labels"][indices].tolist(),
        "means": [_rounded(gates.mean(0)) for gates in log.each_router("gates")],
        "switched": switches["switched"].tolist(),
        "gates": [_rounded(switches[f"gates/{at}"]) for at in many],
        "inputs": [_rounded(relative(switches[f"inputs/{at}"])) for at in many],
        "likeliest": order.tolist(),
        "probabilities": _rounded(np.take_along_axis(said, order, 2)),
    }  # fmt: skip


def write_page(log: Log, path: Path) -> None:
    """Writes the page, which needs no other file and no network."""
    template = files(__package__).joinpath("page.html").read_text("utf-8")
    text = as_json(content(log)).replace("<", "\\u003c")  # a name may hold "</script>"
    write_text(path, template.replace("/*CONTENT*/null", text))
