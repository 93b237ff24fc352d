"""The demo: a small factory in one directory, told so that nobody needs to know what a PKI is."""
