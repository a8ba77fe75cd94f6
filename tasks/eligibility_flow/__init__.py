"""How many patients of a consortium a study could take, and which of its rules keep the others out."""
