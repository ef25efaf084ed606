"""What every report's page is made of: the shell, sections, tiles, facts, bars, and how figures are written."""

from collections.abc import Iterable, Mapping
from html import escape

SPACE = "\N{NARROW NO-BREAK SPACE}"
MILLION, THOUSAND, SMALL = 1e6, 1e3, 1e-3
MINUTE_SECONDS, HOUR_SECONDS = 60, 3600
HYPERPARAMETERS = {  # how a page calls them
    "lr": "Learning rate",
    "batch_size": "Batch size",
    "epochs": "Epochs",
    "hidden_units": "Hidden units",
    "dropout": "Dropout",
    "label_smoothing": "Label smoothing",
    "weight_decay": "Weight decay",
    "class_balance": "Class balance",
    "patience": "Patience",
    "seed": "Seed",
    "finetune": "Fine-tuned part",
    "finetune_epochs": "Fine-tuning epochs",
    "finetune_batch_size": "Fine-tuning batch size",
    "finetune_lr": "Fine-tuning learning rate",
    "layer_lr_decay": "Rate from block to block",
    "frozen_stride": "Frozen up to stride",
    "finetune_image_size": "Side of random crops (px)",
    "crop_area_min": "Smallest crop (share)",
    "randaugment_magnitude": "RandAugment magnitude",
    "mixup_alpha": "Mixup alpha",
    "cutmix_alpha": "CutMix alpha",
    "erasing_probability": "Erasing probability",
    "ema_decay": "Decay of the average",
    "batchnorm": "Batch norm statistics",
    "precision": "Precision",
    "compile": "torch.compile",
}


def page(title: str, style: str, sections: Iterable[str]) -> str:
    """A whole document that needs no network."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(found for found in sections if found)
        + "\n</main>\n</body>\n</html>\n"
    )


def section(title: str, body: str, anchor: str | None = None) -> str:
    """A card with a heading."""
    name = f' id="{escape(anchor)}"' if anchor else ""
    return f"<section{name}><h2>{escape(title)}</h2>{body}</section>"


def tiles(figures: Mapping[str, str]) -> str:
    """The few figures that matter most."""
    found = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(figure)}</dd></div>" for name, figure in figures.items())
    return f'<dl class="tiles">{found}</dl>'


def facts(title: str, known: Mapping[str, str]) -> str:
    """A table of names and values."""
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(fact)}</td></tr>' for name, fact in known.items()
    )
    return f"<table><caption>{escape(title)}</caption><tbody>{rows}</tbody></table>"


def bar_cell(label: str, share: float, figure: str) -> str:
    """A table cell with a bar of 0 to 1 and the figure that it stands for."""
    return (
        f'<td class="bar" data-name="{escape(label)}"><span style="--value:{min(1.0, max(0.0, share)):.3f}"></span>'
        f"{escape(figure)}</td>"
    )


def percent(share: float) -> str:
    """A share of 1 as a percentage."""
    return f"{100 * share:.1f}{SPACE}%"


def number_text(value: float) -> str:
    """A figure of any size in a few characters."""
    size = abs(value)
    if value == 0:
        return "0"
    if size >= MILLION or size < SMALL:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    if size >= THOUSAND:
        return f"{value:,.0f}"
    return f"{value:.3g}" if size < 1 else f"{value:.4g}"


def duration_text(seconds: float) -> str:
    """A duration in the unit that fits."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f}{SPACE}µs"
    if seconds < 1:
        return f"{seconds * 1e3:.3g}{SPACE}ms"
    if seconds < 2 * MINUTE_SECONDS:
        return f"{seconds:.3g}{SPACE}s"
    minutes, rest = divmod(round(seconds), MINUTE_SECONDS)
    if seconds < HOUR_SECONDS:
        return f"{minutes}{SPACE}min {rest}{SPACE}s"
    return f"{minutes // 60}{SPACE}h {minutes % 60}{SPACE}min"


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """`1 rule`, `2 rules`."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"
