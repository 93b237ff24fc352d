"""Pages for people: self-contained HTML, and PDF made from it."""
