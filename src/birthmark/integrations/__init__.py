"""birthmark inside the test frameworks of others: OpenHTF and pytest. Nothing here holds a rule."""
