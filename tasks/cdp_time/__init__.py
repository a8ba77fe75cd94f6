"""When will a patient's disability get worse, and stay so? (time to confirmed disability progression)"""
