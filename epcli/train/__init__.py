"""Training: ep-smol's adapter from drawn scenes, and sieve and model together on any clips."""

import logging
import warnings

# Of peft, and of no use to the user: it misses a kernel, and asks transformers by a name of before.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
