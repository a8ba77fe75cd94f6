"""Will a patient get worse by a relapse or silently? (relapse-associated worsening, RAW; progression independent of it, PIRA)"""
