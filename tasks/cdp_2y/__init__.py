"""Will a patient's disability get worse within two years, and stay so? (confirmed disability progression, CDP)"""
