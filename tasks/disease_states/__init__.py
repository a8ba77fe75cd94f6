"""MS as one continuum of eight states, fitted by federated EM: every iteration is one private sum of patients' vectors."""
