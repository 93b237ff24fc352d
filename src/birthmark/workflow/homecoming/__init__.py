"""Coming home: a site reports, the authority checks and settles."""
