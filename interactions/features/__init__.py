"""Features of masked images: CKA, invariance, spectra."""
