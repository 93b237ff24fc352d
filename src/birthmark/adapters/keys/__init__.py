"""Private keys named by a URI."""
