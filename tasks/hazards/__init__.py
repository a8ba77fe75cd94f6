"""Time to an event in quarters of a year: labels that visits allow, hazards of one or several causes, and their figures."""
