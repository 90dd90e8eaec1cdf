"""What all groups of HTTP routes use: authentication, CORS, problems, negotiation, uploads, writing of responses."""
