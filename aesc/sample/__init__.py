"""The sample: a small synthetic factory in MVTec layout, the same bytes wherever it is drawn.

A texture (woven fabric) and an object (a machined gasket), each with clean images that vary as real ones do and four
defect types with exact masks.
"""

from aesc.sample.images import CATEGORIES
from aesc.sample.writer import draw_sample

__all__ = ["CATEGORIES", "draw_sample"]
