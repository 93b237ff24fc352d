"""Identities that a chip vendor made: taking in what it says of them, and letting it sign below one of our CAs."""
