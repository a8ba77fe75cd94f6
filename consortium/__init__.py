"""What all parties have signed: identities, roster, run plan, approvals, and the one canonical encoding beneath them."""
