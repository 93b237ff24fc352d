"""The authority: its CAs, ceremonies, approvals, and who is let in."""
