"""Turns the GPU report's JSON into Markdown."""

from __future__ import annotations

from typing import Any


def page(report: dict[str, Any]) -> str:
    """The whole report."""
    found = report.get("environment", {})
    lines = [f"# mpkernels on {found.get('card', 'a machine without a GPU')}", ""]
    lines += [f"- {name}: {found[name]}" for name in found if name not in ("state", "seconds")]
    for name, section in report.items():
        if name == "environment":
            continue
        lines += ["", f"## {name}", ""]
        if section["state"] != "done":
            lines.append(f"{section['state']}: {section['why']}")
            continue
        lines += _SECTIONS.get(name, _plain)(section)
        if "right" in section:
            lines += ["", "Every result was right." if section["right"] else "**Wrong results.**"]
    return "\n".join(lines) + "\n"


def _plain(section: dict[str, Any]) -> list[str]:
    return [f"- {key}: {value}" for key, value in section.items() if key not in ("state", "right")]


def _shape(row: dict[str, Any]) -> str:
    batch, channels, spatial, inputs, outputs = row["shape"]
    return f"[{'x'.join(map(str, (batch, channels, *spatial)))}] {inputs}->{outputs}"


def _copy(section: dict[str, Any]) -> list[str]:
    rates = section["gigabytes_per_second"].items()
    return [f"- {size} MiB: {rate:.0f} GB/s" for size, rate in rates]


def _kernels(section: dict[str, Any]) -> list[str]:
    lines = []
    for cache in ("cold", "warm"):
        lines += [
            "", f"{cache} L2; microseconds, [20 %, 80 %]; share of the measured copy bandwidth", "",
            "| router | dtype | method | direction | fused | share | as a graph | share | loops | "
            "stacked |", "|" + "---|" * 10,
        ]  # fmt: skip
        for row in section["rows"]:
            start = f"| {_shape(row)} | {row['dtype']} | {row['method']} | "
            if not row["right"]:
                lines.append(start + "wrong | | | | | | |")
                continue
            times = row[cache]
            for name in ("forward", "backward", "both"):
                cells = [name]
                for kind in (f"fused {name}", f"fused {name} graph"):
                    cells += [_time(times.get(kind)), _share(times.get(kind))]
                cells += [_time(times.get(f"{of} {name}")) for of in ("loops", "stacked")]
                lines.append(start + " | ".join(cells) + " |")
    return lines


def _time(spread: dict[str, float] | None) -> str:
    if spread is None:
        return ""
    return f"{spread['median']:.1f} [{spread['low']:.1f}, {spread['high']:.1f}]"


def _share(spread: dict[str, float] | None) -> str:
    share = spread.get("share_of_copy") if spread else None
    return "" if share is None else f"{share:.0%}"


def _launches(section: dict[str, Any]) -> list[str]:
    lines = ["| router | contender | forward | backward |", "|---|---|---|---|"]
    return lines + [
        f"| {_shape(row)} | {row['contender']} | {row['forward']} | {row['backward']} |"
        for row in section["rows"]
    ]


def _steps(section: dict[str, Any]) -> list[str]:
    lines = [
        "Images of 3x32x32. Weights after eight steps, as a graph and not, apart by a share of "
        "what they moved: "
        + ", ".join(f"{name} {value:.1e}" for name, value in section["graph_apart"].items()) + ".",
        "",
        "| network | batch | dtype | way | microseconds a step | images/s | peak MiB |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    return lines + [
        f"| {row['network']} | {row['batch']} | {row['dtype']} | {row['kind']} | {_time(row)} | "
        f"{row['images_per_second']:.0f} | {row['peak_bytes'] / 2**20:.0f} |"
        for row in section["rows"]
    ]


def _compiled(section: dict[str, Any]) -> list[str]:
    lines = ["| router | mode | L2 | fused forward | compiled | fused both | compiled |",
             "|" + "---|" * 7]  # fmt: skip
    for row in section["rows"]:
        for cache in ("cold", "warm") if row["right"] else ():
            kinds = ("fused forward", "compiled forward", "fused both", "compiled both")
            cells = [_time(row[cache][kind]) for kind in kinds]
            lines.append(f"| {_shape(row)} | {row['mode']} | {cache} | " + " | ".join(cells) + " |")
        if not row["right"]:
            lines.append(f"| {_shape(row)} | {row['mode']} | wrong | | | | |")
    return lines + ([section["why"]] if "why" in section else [])


_SECTIONS = {
    "copy": _copy, "kernels": _kernels, "launches": _launches, "steps": _steps,
    "compiled": _compiled,
}  # fmt: skip
