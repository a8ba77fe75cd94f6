"""Will a patient with relapsing MS have a relapse within two years? The card is `README.md` beside this file."""
