"""What the patients of a consortium are like, table by table: counts, means, quantiles, missingness, as one private sum."""
