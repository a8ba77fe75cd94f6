"""Which lesions are new since the session before: a network trained on pairs of a patient's sessions."""
