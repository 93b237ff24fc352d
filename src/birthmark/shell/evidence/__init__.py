"""What outlives the program: the evidence of an auditor, and witnesses."""
