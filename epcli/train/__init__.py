"""Training: ep-smol's adapter from drawn scenes, and sieve and model together on any clips."""

import logging

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # peft loads it; it misses a kernel, of no use to the user
