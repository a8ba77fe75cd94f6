"""A trained model at one hospital's bedside: calibrated risks, why, and when the model should not be asked."""
