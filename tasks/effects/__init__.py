"""Effects of treatments on people who chose them: learners, bounds and figures that every task on effects shares."""
