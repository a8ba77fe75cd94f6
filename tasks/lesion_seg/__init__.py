"""Which voxels of a brain are MS lesions: a network trained on the hospitals' own masks."""
