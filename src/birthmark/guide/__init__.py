"""The decision guide: answers → findings (rule id, verdict, reason) → exactly one plan, or named refusals. Pure."""
