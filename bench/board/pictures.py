"""Pictures of images as HTML: they wrap on a phone, and every one has words.

C channels.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable

import numpy as np
from markupsafe import Markup

from bench.board import article

Picture = tuple[np.ndarray, str, str]  # (C, H, W) in [0, 1], what it is, what was made of it


def address(picture: np.ndarray) -> str:
    """A picture (C, H, W) in [0, 1] as a PNG in a data address, a pixel a value."""
    from PIL import Image

    if len(picture) not in (1, 3):
        picture = picture.mean(axis=0, keepdims=True)
    bytes_of = (picture.transpose(1, 2, 0) * 255).round().clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(bytes_of[..., 0] if len(picture) == 1 else bytes_of).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def strip(pictures: Iterable[Picture]) -> Markup:
    """Pictures beside each other, each above its words."""
    form = '<figure><img src="{}" alt="{}"><figcaption>{}<br>{}</figcaption></figure>'
    drawn = ((address(p), f"{said}, {more}", said, more) for p, said, more in pictures)
    return Markup('<div class="board-pictures">{}</div>').format(article.each(form, drawn))
