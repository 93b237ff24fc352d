"""Parts of birthmark for other people's tests."""
