"""Training: a model and its sieve together, on a user's own clips."""

import logging
import warnings

# Of peft, and of no use to the user: it misses a kernel, and asks transformers by a name of before.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
