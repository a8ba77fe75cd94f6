"""MRI of a site: found in its folders, checked, prepared once, and read again as equal arrays everywhere."""
