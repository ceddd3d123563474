"""One `Report`, several views. A view only formats: what is shown was measured and rounded nowhere else."""
