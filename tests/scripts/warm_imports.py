"""What `warm.py` has its server import."""

import k2distil.distil.trainer
import k2distil.pipeline.save_codebook
import k2distil.pipeline.save_embedding
import k2distil.pipeline.train_distil
import k2distil.pipeline.train_quantizer  # noqa: F401
