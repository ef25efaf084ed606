"""Pages of the reports: jinja2 templates beside the code that fills them, and how figures are written in them.

A page is one file that needs no network and no JavaScript.
"""

import base64
import io
import math
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

if TYPE_CHECKING:
    from PIL import Image

PACKAGES = Path(__file__).resolve().parents[1]  # the template `drift/report.html` stands in classifier/drift
SPACE = "\N{NARROW NO-BREAK SPACE}"
MINUS = "\N{MINUS SIGN}"
MILLION, THOUSAND, SMALL = 1e6, 1e3, 1e-3
MINUTE_SECONDS, HOUR_SECONDS = 60, 3600
THUMBNAIL_PX = 192  # longer side
TINY_PX = 64  # smaller pictures are kept as they are, and enlarged by the browser with visible pixels
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


def render(template: str, **values: Any) -> str:
    """Fill a template, named below `classifier/`; every text in it is escaped."""
    return environment().get_template(template).render(values)


@cache
def environment() -> Environment:
    """Templates with the filters that write figures."""
    found = Environment(
        loader=FileSystemLoader(PACKAGES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {
        "percent": percent,
        "figure": number_text,
        "duration": duration_text,
        "counted": counted,
        "data_uri": data_uri,
        "signed": signed,
    }
    found.globals |= {"SPACE": SPACE, "TINY_PX": TINY_PX}
    return found


def percent(share: float) -> str:
    """A share of 1 as a percentage."""
    return f"{100 * share:.1f}{SPACE}%"


def signed(value: float, decimals: int) -> str:
    """With its sign, and none for what rounds to 0."""
    text = f"{abs(value):.{decimals}f}"
    sign = "" if not float(text) else "+" if value > 0 else MINUS
    return sign + text


def number_text(value: float) -> str:
    """A figure of any size in a few characters."""
    size = abs(value)
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
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


def hyperparameter_facts(values: dict[str, Any]) -> dict[str, str]:
    """Names as a page calls them -> values; a long floating point number is rounded to six digits."""
    return {
        HYPERPARAMETERS.get(name, name): rounded(value)
        for name, value in values.items()
        if not isinstance(value, dict | list)
    }


def rounded(value: Any) -> str:
    """A hyperparameter's value, which may be a number in a text: 16 digits say no more than six."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        return str(value)
    return str(value) if isinstance(value, bool) or found.is_integer() else f"{found:.6g}"


def data_uri(picture: "Image.Image") -> str:
    """A small copy of the picture as a data URI: JPEG, or PNG if it is tiny."""
    buffer = io.BytesIO()
    if max(picture.size) < TINY_PX:
        picture.save(buffer, "PNG")
        kind = "png"
    else:
        small = picture.copy()
        small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
        small.save(buffer, "JPEG", quality=82)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
