"""How fast brains shrink: a rate for each patient at the hospital, their mean, spread and use for trials from one noised sum."""
