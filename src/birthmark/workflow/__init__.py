"""What users do, one module a sentence. Everything outside comes in through ports."""
