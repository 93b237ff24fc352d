"""Sites: how an authority and a site come to work together."""
