"""Will a patient with a clinically isolated syndrome (CIS) convert to multiple sclerosis (MS)?"""
