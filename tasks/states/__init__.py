"""MS as one continuum of states: a factor-analysis hidden Markov model whose EM needs nothing but sums of patients' vectors."""
