"""The authority of a workspace: access, approvals, ceremonies, CA files, proofs of possession."""
