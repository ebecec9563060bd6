"""Small pictures of stored images: made by a worker process of its own, so that intake never waits for one.

Only the worker loads numpy, pillow and pydicom. A picture shows what the image shows, text burned into it included,
and nothing else: no attribute of the object goes with it.
"""

from edge.preview.answer import LARGE, SIDES, SMALL, NoPicture, Picture, Reason
from edge.preview.previews import Previews

__all__ = ["LARGE", "SIDES", "SMALL", "NoPicture", "Picture", "Previews", "Reason"]
