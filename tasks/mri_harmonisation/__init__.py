"""MRI measures of many scanners made comparable: ComBat, cross-sectional or longitudinal, from two private sums."""
